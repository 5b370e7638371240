"""One cache directory for everything that is built once and read often: worlds, indexes, compact corpora.

An entry's address is a digest of what it is made from. It is built next to its final place and renamed, so that it is
either complete or absent, even if the build fails:

- two processes at first run: a file lock lets one build; the other waits and reads;
- kill -9 during a build: only a `.tmp` directory is left, which the next build removes; or, if the build can be
  continued, a `.part` directory, which the next build continues;
- a damaged entry: detected when it is opened, and rebuilt with a warning. The content of large memory-mapped files is
  compared block by block when it is first read (`checksums`); that raises `DamagedFileError`, and the entry is rebuilt
  when it is opened again;
- a home that cannot be written: a private temporary directory serves this process, with one warning.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from searchgym.errors import ConfigError, CorpusError, SearchGymError, warn
from searchgym.files import lock_file, sync
from searchgym.home import home

from .checksums import CHECKSUMS, DAMAGED, CheckedFile, block_sums, read_checksums, write_checksums

__all__ = [
    "cached_directory",
    "canonical_json",
    "damage",
    "digest",
    "home",
    "open_checked",
    "output_directory",
    "read_key",
    "seal",
    "verify_directory",
]

MANIFEST = "manifest.json"
_SCHEMA = 2
_UNCHECKED = 1  # the schema of directories without checksums of blocks: every byte of them is compared when they are opened
_HASHED_UP_TO = 4 * 2**20  # bytes; comparing this much takes about 2 ms
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LITTER = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]+\.tmp")

_private: Path | None = None
_private_lock = threading.Lock()


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """32 hexadecimal digits that name a JSON value (BLAKE2b-128 of its canonical JSON)."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


def cached_directory(
    name: str,
    key: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    resumable: bool = False,
    lazy: Iterable[str] = (),
) -> Path:
    """The directory that `build` fills for `key`: built at the first call, opened from the cache after that.

    Args:
        name: the kind of entry, e.g. "bm25": lower-case letters, digits, ".", "_" and "-".
        key: JSON values that determine the content completely. Must contain "format", the version of the builder and
            of the file format; increase it when either changes.
        build: called with an empty directory to fill with files. It may be called while other processes wait, and is
            not called if the entry exists. Its exceptions pass through, and leave nothing behind.
        resumable: `build` continues what it finds in the directory: the work of an earlier call for the same key that
            was killed, interrupted or ran out of disk space. Bad input (`SearchGymError`) still leaves nothing behind.
        lazy: patterns of files that callers read through `open_checked` only: if the entry is large, their content is
            compared when it is first read.

    Returns:
        A complete directory with `manifest.json` (key, sizes, hashes), to be treated as read-only.

    Raises:
        ConfigError: the name or the key cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"cache name {name!r}: use lower-case letters, digits, '.', '_' and '-'")
    if "format" not in key:
        raise ConfigError(
            f"cache key of {name!r} has no 'format' (it has {sorted(key)}): add the version of its builder"
        )
    try:
        address = digest(dict(key))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"cache key of {name!r} is not plain JSON ({error}): use JSON values only"
        ) from None
    entry = home() / "cache" / name / address
    if damage(entry) is None:  # the usual case: no lock and no writing, so that a read-only home suffices
        return entry
    try:
        lock = _locked(entry)
    except OSError as error:
        entry = _private_home(error) / "cache" / name / address
        lock = _locked(entry)
    try:
        _build_entry(entry, build, resumable, (name, key, tuple(lazy)))
    finally:
        lock.release()
    return entry


def output_directory(
    target: Path,
    name: str,
    key: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    lazy: Iterable[str] = (),
) -> Path:
    """A directory that `build` fills, at a place of the user's choice; it is absent until it is complete.

    Until then the work is in a hidden `.part` directory next to it. A later call for the same key continues it, and a
    call for another key removes it.

    Args:
        target: the directory; absent or empty. A directory that was finished for this key is left as it is.
        name: the kind of directory, for its manifest.
        key: see `cached_directory`.
        build: called with the `.part` directory; continues what it finds there.
        lazy: see `cached_directory`.

    Returns:
        The directory, as an absolute path.

    Raises:
        ConfigError: the directory has other content or cannot be written, the disk is full, or another process is
            building there.
    """
    target = target.expanduser().absolute()
    if _finished(target, key):
        return target
    try:
        lock = lock_file(target.parent / f".{target.name}.lock")
    except filelock.Timeout:
        raise ConfigError(f"another process is building {target}: wait for it") from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{target} cannot be written ({reason}): choose another directory") from None
    try:
        if not _finished(target, key):  # the previous holder of the lock may have just finished
            work = target.parent / f".{target.name}.{digest(dict(key))}.part"
            unfinished = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.part")
            for other in target.parent.iterdir():
                if (
                    unfinished.fullmatch(other.name) and other != work
                ):  # with other settings, or for another corpus
                    shutil.rmtree(other)
            _finish(work, target, build, (name, key, tuple(lazy)))
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
    return target


def verify_directory(directory: Path) -> list[str]:
    """The problems of a sealed directory, found by reading every byte; an empty list if it is intact."""
    return list(_problems(directory, every_byte=True))


def seal(directory: Path, name: str, key: Mapping[str, Any], lazy: Iterable[str] = ()) -> None:
    """Write checksums and manifest of a finished directory and push all of it to the disk.

    After that a rename makes it durable: a directory with its final name is complete, even after a power cut.

    Args:
        directory: the directory.
        name: the kind of directory.
        key: see `cached_directory`.
        lazy: see `cached_directory`.
    """
    for left in (MANIFEST, CHECKSUMS):  # by a build that was killed between here and the rename
        (directory / left).unlink(missing_ok=True)
    names = [path.relative_to(directory).as_posix() for path in _files(directory)]
    write_checksums(directory, names)
    files: dict[str, dict[str, Any]] = {}
    for file in (*names, CHECKSUMS):
        path = directory / file
        files[file] = {"size": path.stat().st_size, "blake2b": _file_digest(path)}
        if any(fnmatch.fnmatch(file, pattern) for pattern in lazy):
            files[file]["lazy"] = True
    manifest = {"schema": _SCHEMA, "name": name, "key": dict(key), "files": files}
    manifest["checksum"] = _checksum(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    for path in _files(directory):
        sync(path)
    for path in {path.parent for path in _files(directory)}:
        sync(path)


def damage(directory: Path) -> str | None:
    """Why a sealed directory cannot be used; None if it can.

    Compared are all sizes, and the content of all files except of those that are read through `open_checked`, unless all
    files together have at most 4 MiB. Directories of version 0.1.0 have no checksums of blocks: all their content is
    compared, which takes about a second per gigabyte. `verify_directory` always compares everything.
    """
    return next(_problems(directory, every_byte=False), None)


def open_checked(directory: Path, *names: str) -> list[CheckedFile]:
    """Files of a sealed directory, memory-mapped, whose content is compared when it is first read.

    Args:
        directory: a directory that `cached_directory`, `output_directory` or `seal` finished. In any other one, e.g. while
            it is built, nothing is compared.
        names: the files.

    Raises:
        OSError: a file cannot be read.
    """
    sums: Mapping[str, Any] = {}
    if (directory / MANIFEST).exists():
        manifest = _read_manifest(directory)
        if manifest["schema"] != _UNCHECKED:  # every byte of those was compared when they were opened
            sums = read_checksums(directory, _sizes(manifest))
    return [CheckedFile(directory / name, sums.get(name)) for name in names]


def _sizes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The size of every file that has checksums of blocks, in order of name."""
    return {name: manifest["files"][name]["size"] for name in sorted(manifest["files"]) if name != CHECKSUMS}


def _checksum(manifest: Mapping[str, Any]) -> int:
    """The CRC-32 of everything else in a manifest."""
    return zlib.crc32(canonical_json({k: v for k, v in manifest.items() if k != "checksum"}).encode())


def _problems(directory: Path, *, every_byte: bool) -> Iterator[str]:
    try:
        manifest = _read_manifest(directory)
        if manifest["schema"] not in (_SCHEMA, _UNCHECKED):
            yield f"{directory / MANIFEST} has schema {manifest['schema']!r}, not {_SCHEMA}"
            return
        old = manifest["schema"] == _UNCHECKED
        if not old and manifest["checksum"] != _checksum(manifest):
            yield f"{directory / MANIFEST} has changed since it was written"
            return
        files = {name: (int(facts["size"]), facts["blake2b"]) for name, facts in manifest["files"].items()}
        everything = every_byte or old or sum(size for size, _ in files.values()) <= _HASHED_UP_TO
        lazy = () if everything else [name for name, facts in manifest["files"].items() if facts.get("lazy")]
        if not old and CHECKSUMS not in files:
            raise KeyError(CHECKSUMS)
    except OSError as error:
        yield f"{error.filename or directory} cannot be read ({error.strerror})"
        return
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        yield f"{directory / MANIFEST} is not a manifest ({error})"
        return
    if (directory / DAMAGED).exists():
        yield f"{(directory / DAMAGED).read_text('utf-8', 'replace')} (noted in {DAMAGED})"
    hashed = every_byte or old
    intact = yield from _files_problems(directory, files, {CHECKSUMS} if not hashed else set(files))
    if intact and not hashed:
        yield from _block_problems(directory, manifest, [name for name in files if name not in lazy])
    if every_byte:
        there = (path.relative_to(directory).as_posix() for path in _files(directory))
        yield from (
            f"{directory / name} is not part of it: remove it"
            for name in there
            if name not in {*files, MANIFEST, DAMAGED}
        )


def _files_problems(
    directory: Path, files: Mapping[str, tuple[int, str]], hashed: Iterable[str]
) -> Generator[str, None, bool]:
    """What is wrong with the sizes of files, and with the content of those to be hashed; returns whether nothing is."""
    intact = True
    for name, (size, content) in files.items():
        file = directory / name
        problem = ""
        try:
            facts = file.stat()
            if not stat.S_ISREG(facts.st_mode):
                problem = f"{file} is not a file"
            elif facts.st_size != size:
                problem = f"{file} has {facts.st_size} bytes instead of {size}"
            elif name in hashed and _file_digest(file) != content:
                problem = f"{file} has changed since it was written"
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            problem = f"{file} cannot be read ({getattr(error, 'strerror', None) or error})"
        if problem:
            intact = False
            yield problem
    return intact


def _block_problems(directory: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """The files, among some, whose content differs from the checksums of their blocks."""
    try:
        sums = read_checksums(directory, _sizes(manifest))
        for name in names:
            if name != CHECKSUMS and not np.array_equal(block_sums(directory / name), sums[name]):
                yield f"{directory / name} has changed since it was written"
    except (OSError, ValueError) as error:
        yield f"{directory} cannot be read ({error})"


def read_key(directory: Path) -> dict[str, Any]:
    """The key of an intact sealed directory."""
    return dict(_read_manifest(directory)["key"])


def _finished(target: Path, key: Mapping[str, Any]) -> bool:
    """Whether the directory was built for this key; raises `ConfigError` if it has other content."""
    if not target.exists():
        return False
    if damage(target) is None and read_key(target) == dict(key):
        return True
    if not target.is_dir() or any(target.iterdir()):
        raise ConfigError(f"{target} is not empty: give a new directory, or remove it first")
    return False


def _finish(
    work: Path,
    target: Path,
    build: Callable[[Path], None],
    sealed: tuple[str, Mapping[str, Any], Iterable[str]],
) -> None:
    """Fill `work`, which may contain an unfinished build of the same key, seal it and rename it to `target`.

    A kill, an interrupt or a full disk leaves `work`, to be continued. Bad input removes it, and so does any refusal
    before the build has begun.
    """
    begun = work.exists()
    work.mkdir(exist_ok=True)
    try:
        build(work)
        seal(work, *sealed)
    except SearchGymError as error:
        if isinstance(error, CorpusError) or not begun:
            shutil.rmtree(work, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(
            f"the disk of {target.parent} became full while writing {sealed[0]}: make room and try again"
        ) from error
    os.rename(work, target)
    sync(target.parent)


def _build_entry(
    entry: Path,
    build: Callable[[Path], None],
    resumable: bool,
    sealed: tuple[str, Mapping[str, Any], Iterable[str]],
) -> None:
    """Fill `entry`, unless another process did so during the wait. The caller holds the entry's lock."""
    problem = damage(entry)
    if problem is None:
        return
    _sweep(entry)
    if entry.exists():
        warn(f"damaged cache entry: {problem}. Rebuilding it.", RuntimeWarning, stacklevel=3)
        os.rename(entry, _temporary(entry))  # moved away in one step; the sweep below removes it
    work = entry.parent / f".{entry.name}.part" if resumable else _temporary(entry)
    try:
        _finish(work, entry, build, sealed)
    finally:
        _sweep(entry)


def _read_manifest(directory: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text("utf-8"))
    return manifest


def _locked(entry: Path) -> filelock.BaseFileLock:
    """Take the lock of an entry, waiting for its holder; raises OSError if the directory cannot be written."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    # Test writing first: on a file system mounted read-only, an existing lock file can still be opened and locked.
    probe = _temporary(entry)
    probe.mkdir()
    with contextlib.suppress(FileNotFoundError):  # the holder of the lock may have removed it already
        probe.rmdir()
    return lock_file(entry.parent / f".{entry.name}.lock", wait=True, mode=0o666)


def _temporary(entry: Path) -> Path:
    return entry.parent / f".{entry.name}.{secrets.token_hex(4)}.tmp"


def _sweep(entry: Path) -> None:
    """Remove what killed builds left. An entry whose lock can be taken is not being built."""
    for path in entry.parent.iterdir():
        match = _LITTER.fullmatch(path.name)
        if match is None:
            continue
        if match[1] == entry.name:  # we hold this lock
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            with filelock.FileLock(entry.parent / f".{match[1]}.lock", mode=0o666, timeout=0):
                shutil.rmtree(path, ignore_errors=True)
        except (filelock.Timeout, OSError, RuntimeError):
            continue  # being built right now, perhaps by a caller further up this stack


def _private_home(error: OSError) -> Path:
    """A temporary home for this process and its forks, removed when this process ends."""
    global _private
    with _private_lock:
        if _private is None:
            _private = Path(tempfile.mkdtemp(prefix="searchgym-"))
            atexit.register(_remove_private, _private, os.getpid())
            warn(
                f"the cache directory {home()} cannot be written ({error.strerror or error}): building in "
                f"{_private} for this process only. Set SEARCHGYM_HOME to a writable directory to keep it.",
                RuntimeWarning,
                stacklevel=3,
            )
        return _private


def _remove_private(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits the handler, not the directory
        shutil.rmtree(directory, ignore_errors=True)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
