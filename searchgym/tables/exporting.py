"""Files of episodes in the formats of other tools, each whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import ConfigError, EpisodeFileError, UnknownIdError
from ..files import replacing, sync
from ..records.episode import Episode, check_writable
from ..records.question import PLAIN_DESCRIPTION
from .columns import LEVELS, rows
from .episodes import Episodes
from .files import import_pyarrow, write_csv, write_hub_directory, write_parquet
from .training_rows import TRL_TYPES, trl_rows, verifiers_row, verl_row

__all__ = ["FORMATS", "ExportOptions", "Exported", "export_episodes"]

FORMATS = {
    "parquet": "a Parquet file",
    "hf": "a directory for datasets.load_dataset and the Hugging Face Hub",
    "csv": "a CSV file",
    "trl": "a JSONL file with rows for TRL's trainers",
    "verifiers": "a directory with the traces.jsonl of verifiers 0.4",
    "verl": "a JSONL file as verl's trainer.rollout_data_dir has them",
}
"""The formats, each with what is written."""

_DIRECTORIES = ("hf", "verifiers")
_MARKER = "searchgym-export.json"
"""In every directory that was exported. Only such a directory is ever replaced."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export writes.

    Attributes:
        level: what a row of a Parquet or CSV file is: "episodes" or "rounds".
        trl_type: the data set type of TRL; see `searchgym.tables.training_rows.TRL_TYPES`.
        successes: only episodes with an exact match.
        corpus_description: how the system prompt of conversations names the corpus.
        force: replace what is at the path.
    """

    level: str = "episodes"
    trl_type: str = "language-modeling"
    successes: bool = False
    corpus_description: str = PLAIN_DESCRIPTION
    force: bool = False


@dataclass(slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        rows: rows, or episodes in a directory.
        episodes: episodes that were read.
        left_out: those of them that were not written: without an exact match if only successes were wanted; lost to
            infrastructure in the formats `trl` and `verl`.
    """

    rows: int = 0
    episodes: int = 0
    left_out: int = 0


def export_episodes(
    source: Episodes, path: str | os.PathLike[str], to: str, options: ExportOptions | None = None
) -> Exported:
    """Write episodes in the format of another tool. The file or directory is complete, or as it was before.

    Args:
        source: the episodes; read once, one at a time.
        path: the file or directory to write.
        to: a key of `FORMATS`.
        options: what to write.

    Returns:
        What was written.

    Raises:
        ConfigError: something is at the path, no episode is left to write, or an option is unknown.
        EpisodeFileError: an episode file is damaged, or the path cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    target, options = Path(path), options or ExportOptions()
    _check(source, target, to, options)
    done = Exported()
    writing = _replacing_directory if to in _DIRECTORIES else replacing
    try:
        with writing(target) as work:
            done.rows = _write(work, to, _chosen(source, to, options, done), options)
            if not done.rows:
                raise ConfigError(
                    f"none of {done.episodes} episodes is left to write to {target}: "
                    f"{done.left_out} were left out"
                )
            if to in _DIRECTORIES:
                marker = {"format": to, "episodes": done.rows, "searchgym": __version__}
                (work / _MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
    except OSError as error:
        raise EpisodeFileError(f"{target} cannot be written: {error.strerror or error}") from error
    return done


def _check(source: Episodes, target: Path, to: str, options: ExportOptions) -> None:
    """Refuse what cannot be exported before anything is read."""
    for kind, name, known in (
        ("export format", to, FORMATS),
        ("level", options.level, LEVELS),
        ("TRL data set type", options.trl_type, TRL_TYPES),
    ):
        if name not in known:
            raise UnknownIdError(kind, name, known)
    if to in ("parquet", "hf"):
        import_pyarrow()
    if not (target.exists() or target.is_symlink()):
        check_writable(target)
        return
    if not options.force:
        raise ConfigError(
            f"{str(target)!r} exists: choose another path, or replace it with --force (force=True)"
        )
    if any(path.exists() and path.samefile(target) for path in source.paths):
        raise ConfigError(f"{str(target)!r} is the file that is read: choose another path")
    if to in _DIRECTORIES and not (target / _MARKER).is_file():
        raise ConfigError(
            f"{str(target)!r} is not the directory of an earlier export (no {_MARKER}): choose another path"
        )
    if to not in _DIRECTORIES:
        check_writable(target)


def _chosen(source: Iterable[Episode], to: str, options: ExportOptions, done: Exported) -> Iterator[Episode]:
    for done.episodes, episode in enumerate(source, 1):
        lost = episode.lost
        if (options.successes and (lost or episode.outcome.em < 1.0)) or (to in ("trl", "verl") and lost):
            done.left_out += 1
        else:
            yield episode


def _write(work: Path, to: str, episodes: Iterator[Episode], options: ExportOptions) -> int:
    if to == "hf":
        return write_hub_directory(work, episodes)
    if to == "verifiers":
        lines: Iterable[dict[str, Any]] = (verifiers_row(e, options.corpus_description) for e in episodes)
        return _write_lines(work / "traces.jsonl", lines)
    if to == "verl":
        return _write_lines(work, (verl_row(e, options.corpus_description) for e in episodes))
    if to == "trl":
        return _write_lines(work, trl_rows(episodes, options.trl_type, options.corpus_description))
    write: Callable[[Path, Iterable[dict[str, Any]], str], int] = (
        write_parquet if to == "parquet" else write_csv
    )
    return write(work, rows(episodes, options.level), options.level)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    written = 0
    with path.open("x", encoding="ascii") as handle:
        for line in lines:
            handle.write(json.dumps(line, separators=(",", ":")) + "\n")
            written += 1
    return written


@contextmanager
def _replacing_directory(path: Path) -> Iterator[Path]:
    """An empty directory for the block to fill; becomes `path` when the block ends without an error."""
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    old = work.with_suffix(".old")
    work.mkdir()
    try:
        yield work
        for written in (*work.rglob("*"), work):
            sync(written)
        if path.exists():
            os.replace(path, old)
        os.replace(work, path)
        sync(path.parent)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for left in (work, old):
            shutil.rmtree(left, ignore_errors=True)
