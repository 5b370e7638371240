"""A run directory: everything a training run leaves behind, safe against kills and concurrent use.

    config.json              metadata: what the run was started with
    metrics.jsonl            one line per iteration, deterministic (line 0: the evaluation before training)
    timings.jsonl            seconds per iteration (not deterministic)
    episodes/*.jsonl         the newest training episodes saved and every evaluation's
    credit/*.safetensors     the credit that the saved training episodes received
    checkpoints/step-000010/ policy, optimizer, generators, counters
    curve.png, summary.json  written at the end

Files are written under a temporary name, synced and renamed; a checkpoint directory is complete before it gets its
name. One process at a time holds `.lock`. Damage is found: config.json and trainer.json name their own digest, a checkpoint the checksums of
its files, and every line that is read again is checked. This file does not import torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError

from searchgym.errors import EpisodeFileError, RunDirectoryError
from searchgym.files import json_digest, lock_file, parse_json, read_bytes, read_json, sync, write_text
from searchgym.records.episode import Episode, save_episodes

from .credit_record import CreditRecord, credit_path, save_credit
from .rows import check_row

__all__ = ["RunDirectory", "check_free", "default_run_directory", "read_run_metadata", "write_json"]

_SCHEMA = 1
_STEP = re.compile(r"step-(\d{6,12})")
_TRAINED = re.compile(r"train-(\d{6,12})\.jsonl")
_TEMPORARY = ".tmp-"
"""Prefix of directories that are being written. Files that are being written are called `.<name>.tmp`."""


class RunDirectory:
    """A locked run directory; use `create` or `open`, and `with`.

    Attributes:
        path: the directory.
        metadata: the content of config.json.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], lock: filelock.BaseFileLock) -> None:
        self.path, self.metadata, self._lock = path, metadata, lock

    @classmethod
    def create(cls, path: Path, metadata: dict[str, Any]) -> RunDirectory:
        """Start a run in a directory that is missing or empty.

        Raises:
            RunDirectoryError: something is in it, another process uses it, or it cannot be written.
        """
        lock = _lock(path)
        try:
            check_free(path)
            run = cls(path, {}, lock)
            run.update_metadata(schema=_SCHEMA, **metadata)
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open a run to continue it; removes what a kill left half-written.

        Raises:
            RunDirectoryError: not a run directory, in use, of another version, or it cannot be written.
        """
        metadata = read_run_metadata(path)
        lock = _lock(path)
        try:
            _clear(path)
        except OSError as error:
            lock.release()
            raise RunDirectoryError(
                f"run directory {str(path)!r} cannot be written ({error.strerror or error}): what a killed process left in it "
                "must be removed first"
            ) from error
        except BaseException:
            lock.release()
            raise
        return cls(path, metadata, lock)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wraps everything that writes: a full disk becomes one error, and complete files stay usable.

        Raises:
            RunDirectoryError: in place of an operating system error.
        """
        try:
            yield
        except (OSError, SafetensorError, EpisodeFileError) as error:
            steps, started = self.steps(), (self.path / "config.json").exists()
            left = (
                f"the checkpoint of iteration {steps[-1]} is complete"
                if steps
                else "no checkpoint has been written yet"
            )
            raise RunDirectoryError(
                f"run directory {str(self.path)!r} cannot be written ({getattr(error, 'strerror', None) or error}); "
                f"{left}: free some space, then {'continue with --resume' if started else 'start the run again'}"
            ) from error

    def update_metadata(self, **values: Any) -> None:
        """Change values of config.json."""
        self.metadata = {k: v for k, v in (self.metadata | values).items() if k != "digest"}
        self.write_json("config.json", self.metadata | {"digest": _digest(self.metadata)})

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file of the run, atomically."""
        with self.writing():
            write_json(self.path / name, data)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl` or `timings.jsonl`, completely or not at all."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with self.writing():
            handle = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                size = os.fstat(handle).st_size
                try:
                    while line:  # a nearly full disk may take only the first part
                        line = line[os.write(handle, line) :]
                except OSError:
                    os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The complete lines of a JSONL file; an incomplete last line (a kill) is skipped.

        Raises:
            RunDirectoryError: a line is damaged, or the file cannot be read.
        """
        path = self.path / name
        try:
            lines = read_bytes(path).split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunDirectoryError(
                f"{path} cannot be read ({error.strerror or error}): restore it, or start a new run"
            ) from error
        rows, last = [], -1
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
                check_row(name, row, last)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise RunDirectoryError(
                    f"{path}, line {number}: damaged ({error}); restore the file from a copy, or start a new run"
                ) from error
            rows.append(row)
            last = row["iteration"]
        return rows

    def truncate(self, iteration: int) -> None:
        """Forget what was recorded after `iteration`, from where the run continues: lines and training episodes."""
        for name in ("metrics.jsonl", "timings.jsonl"):
            if not (self.path / name).exists():
                continue
            kept = [json.dumps(r) + "\n" for r in self.rows(name) if r["iteration"] <= iteration]
            with self.writing():
                write_text(self.path / name, "".join(kept), alone=True)
        with self.writing():
            for path in (self.path / "episodes").glob("train-*.jsonl"):
                match = _TRAINED.fullmatch(path.name)
                if match and int(match[1]) > iteration:
                    _remove_episodes(path)

    def save_episodes(
        self,
        name: str,
        episodes: Iterable[Episode],
        credit: CreditRecord | None = None,
        keep: int | None = None,
    ) -> Path:
        """Write `episodes/<name>.jsonl`.

        Args:
            name: a word, a hyphen and the iteration.
            episodes: the episodes.
            credit: what they received; written to `credit/`.
            keep: number of files with the same first word that remain, the newest; None: all.
        """
        path = self.path / "episodes" / f"{name}.jsonl"
        with self.writing():
            save_episodes(path, episodes)
            if credit is not None:
                save_credit(credit_path(path), credit)
            if keep is not None:
                for old in sorted(path.parent.glob(f"{name.split('-')[0]}-*.jsonl"))[:-keep]:
                    _remove_episodes(old)
        return path

    @contextmanager
    def checkpoint(self, iteration: int) -> Iterator[Path]:
        """A directory to fill, which becomes `checkpoints/step-<iteration>` when the block ends without an error."""
        parent = self.path / "checkpoints"
        temporary = parent / f"{_TEMPORARY}{iteration}"
        with self.writing():
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir(parents=True)
                yield temporary
                for path in [self.path / "metrics.jsonl", *temporary.rglob("*"), temporary]:
                    sync(path)
                final = self.step_path(iteration)
                if final.exists():
                    _remove(final)
                os.replace(temporary, final)
                sync(parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def step_path(self, iteration: int) -> Path:
        """The path of an iteration's checkpoint, whether it exists or not."""
        return self.path / "checkpoints" / f"step-{iteration:06d}"

    def steps(self) -> list[int]:
        """Iterations with a complete checkpoint, in order."""
        parent = self.path / "checkpoints"
        names = [_STEP.fullmatch(p.name) for p in parent.iterdir()] if parent.is_dir() else []
        return sorted(int(m[1]) for m in names if m)

    def prune(self, keep: int, spare: Collection[int] = ()) -> None:
        """Remove old checkpoints.

        Args:
            keep: number of newest checkpoints that remain; so does the initial one.
            spare: iterations whose checkpoints remain too.
        """
        with self.writing():
            for step in [s for s in self.steps() if s > 0][:-keep]:
                if step not in spare:
                    _remove(self.step_path(step))


def read_run_metadata(path: Path) -> dict[str, Any]:
    """The content of a run directory's config.json.

    Raises:
        RunDirectoryError: there is none, or it is damaged or of another version.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunDirectoryError(
            f"{str(path)!r} does not hold a run to resume (no config.json): start one without --resume"
        )
    try:
        metadata: dict[str, Any] = read_json(file)
        schema = metadata["schema"]
        if schema == _SCHEMA and not isinstance(metadata.get("config", {}), dict):
            raise ValueError("its config is not a table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{file} is damaged ({error}): start a new run") from error
    if schema != _SCHEMA or isinstance(schema, bool):
        raise RunDirectoryError(
            f"{file} has schema {schema!r}, this version reads {_SCHEMA}: resume it with the version of searchgym "
            "that started it"
        )
    digest = metadata.pop("digest", None)  # absent in runs of earlier versions
    if digest is not None and digest != _digest(metadata):
        raise RunDirectoryError(
            f"{file} is not what was written (its digest differs): restore it from a copy; if you changed it on purpose, remove "
            "`digest` from it"
        )
    return metadata


def check_free(path: Path) -> None:
    """Refuse a directory that is not free for a new run.

    Raises:
        RunDirectoryError: it holds a run, or anything else.
    """
    if (path / "config.json").exists():
        raise RunDirectoryError(
            f"run directory {str(path)!r} already holds a run: continue it with --resume, or choose another "
            "--run-dir"
        )
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"run directory {str(path)!r} is a file: choose another --run-dir")
    for other in path.iterdir() if path.exists() else ():
        if other.name != ".lock" and not other.name.startswith(_TEMPORARY):
            raise RunDirectoryError(
                f"run directory {str(path)!r} is not empty (it holds {other.name!r}): choose another --run-dir"
            )


def default_run_directory(trainer: str, env: str, parent: Path = Path("runs")) -> Path:
    """A directory name that is not in use: `runs/<trainer>-<env>-<time>`."""
    stem = f"{trainer}-{re.sub(r'[^A-Za-z0-9._-]', '-', env)}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = parent / stem, 1
    while path.exists():
        number += 1
        path = parent / f"{stem}-{number}"
    return path


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically; the caller is the only writer."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n", alone=True)


def _digest(metadata: dict[str, Any]) -> str:
    """Digest of the content of config.json without the paths of tapes: a replayed run has that of the recorded one."""
    config = metadata.get("config", {})
    return json_digest(
        metadata | {"config": {k: v for k, v in config.items() if k not in ("record", "replay")}}
    )


def _clear(path: Path) -> None:
    """Remove what a killed process left half-written."""
    for place in (path, *(path / name for name in ("checkpoints", "episodes", "credit"))):
        if place.is_dir():
            for left in (*place.glob(f"{_TEMPORARY}*"), *place.glob(".*.tmp")):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _remove_episodes(path: Path) -> None:
    """Remove an episode file, and the credit of its episodes."""
    credit_path(path).unlink(missing_ok=True)
    path.unlink()


def _remove(directory: Path) -> None:
    """Remove a directory, renaming it first: a half-deleted checkpoint must not look complete."""
    hidden = directory.parent / f"{_TEMPORARY}removed-{directory.name}"
    if hidden.exists():
        shutil.rmtree(hidden)
    os.replace(directory, hidden)
    shutil.rmtree(hidden)


def _lock(path: Path) -> filelock.BaseFileLock:
    try:
        lock = lock_file(path / ".lock")
    except filelock.Timeout:
        raise RunDirectoryError(
            f"run directory {str(path)!r} is in use by another process: wait for it, or choose another --run-dir"
        ) from None
    except OSError as error:
        raise RunDirectoryError(
            f"run directory {str(path)!r} cannot be written ({error.strerror or error}): choose another --run-dir"
        ) from error
    return lock
