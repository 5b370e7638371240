"""One cache directory for everything that is built once and read often: worlds, indexes, compact corpora.

An entry's address is a digest of what it is made from. It is built next to its final place and renamed, so that it is
either complete or absent, even if the build fails:

- two processes at first run: a file lock lets one build; the other waits and reads;
- kill -9 during a build: only a `.tmp` directory is left, which the next build removes; or, if the build can be
  continued, a `.part` directory, which the next build continues;
- a damaged entry: detected when it is opened, and rebuilt with a warning. The content of memory-mapped files is
  compared block by block when it is first read (`checksums`); that raises `DamagedFileError`, and the entry is rebuilt
  when it is opened again;
- a home that cannot be written: a private temporary directory serves this process, with one warning.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import filelock

from searchgym.errors import ConfigError, CorpusError, SearchGymError, warn
from searchgym.files import lock_file, sync
from searchgym.home import home

from .sealed import damage, digest, read_key, seal

__all__ = [
    "UnfinishedError",
    "cached_directory",
    "home",
    "output_directory",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LITTER = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]+\.tmp")

_private: Path | None = None
_private_lock = threading.Lock()


class UnfinishedError(ConfigError):
    """A build stopped although nothing is wrong with its input; what it has written is kept, to be continued."""


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
        lazy: patterns of files that callers read through `open_checked` only: their content is compared when it is first
            read.

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

    A kill, an interrupt, a full disk or an `UnfinishedError` leaves `work`, to be continued. Bad input removes it, and so
    does any refusal of the first build.
    """
    begun = work.exists()
    work.mkdir(exist_ok=True)
    try:
        build(work)
        seal(work, *sealed)
    except UnfinishedError:
        raise
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
        warn(f"a cache entry cannot be used: {problem}. Rebuilding it.", RuntimeWarning, stacklevel=3)
        os.rename(entry, _temporary(entry))  # moved away in one step; the sweep below removes it
    work = entry.parent / f".{entry.name}.part" if resumable else _temporary(entry)
    try:
        _finish(work, entry, build, sealed)
    finally:
        _sweep(entry)


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
