"""Files that are complete or absent: atomic replacement, durability (fsync), lock files; and reading them with care."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import filelock

__all__ = [
    "json_digest",
    "lock_file",
    "open_regular",
    "parse_json",
    "read_bytes",
    "read_json",
    "replacing",
    "sync",
    "temporary_directory",
    "write_bytes",
    "write_text",
]

_IN_USE = ".in-use"  # locked by the process that uses a temporary directory


@contextmanager
def replacing(path: Path, *, alone: bool = False, durable: bool = True) -> Iterator[Path]:
    """A temporary path next to `path` for the block to write; renamed to `path` when the block ends without error.

    Args:
        path: the file to create or replace.
        alone: no other process writes this file at the same time, e.g. because the caller holds a lock. The
            temporary file then has a fixed name, `.<name>.tmp`, so that the next writer overwrites what a killed
            one left. Otherwise its name is unique.
        durable: push the content and the new name to the disk before returning, so that they survive a power cut.

    Raises:
        OSError: the file cannot be written. It is then as it was before.
    """
    unique = "" if alone else f".{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}{unique}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, alone: bool = False, durable: bool = True) -> None:
    """Write a file in one step; the arguments are those of `replacing`."""
    with replacing(path, alone=alone, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, *, alone: bool = False, durable: bool = True) -> None:
    """Write a UTF-8 file in one step, line ends as they are; the arguments are those of `replacing`."""
    write_bytes(path, content.encode("utf-8"), alone=alone, durable=durable)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for anything.

    Raises:
        OSError: it cannot be read, or it is not a regular file: a pipe or a device may block or never end.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        kind = os.fstat(handle).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; raises `OSError` as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_json(path: Path) -> Any:
    """The JSON value in a regular file.

    Raises:
        OSError: see `open_regular`.
        ValueError: see `parse_json`.
    """
    return parse_json(read_bytes(path))


def parse_json(text: str | bytes) -> Any:
    """A JSON value, without the words that Python reads but JSON does not have: NaN and Infinity.

    Raises:
        ValueError: not JSON, or such a word, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_digest(value: Any) -> str:
    """Digest of a JSON value, however it is laid out in a file."""
    content = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return blake2b(content.encode(), digest_size=16).hexdigest()


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def sync(path: Path) -> None:
    """Push the content of a file, or the names in a directory, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no directories; there a rename is durable enough
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_file(path: Path, *, wait: bool = False, mode: int = 0o644) -> filelock.BaseFileLock:
    """Take a lock file, which and whose directory are created if necessary. Release it with `release()`.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        path: the lock file.
        wait: wait for a process that holds the lock.
        mode: permissions of a new lock file.

    Raises:
        filelock.Timeout: another process holds the lock, and `wait` is False.
        OSError: the directory cannot be written.
    """
    import filelock  # not at the top: it imports asyncio, which the first episode does not need

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=-1 if wait else 0, mode=mode)
    lock.acquire()
    return lock


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """A temporary directory for the block. Those that killed processes left under the same prefix are removed too.

    Args:
        prefix: the beginning of its name.

    Raises:
        OSError: it cannot be created.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*/{_IN_USE}"):
        with suppress(Exception):  # in use, or of another user
            lock = lock_file(left)
            shutil.rmtree(left.parent, ignore_errors=True)
            lock.release()
    place = Path(tempfile.mkdtemp(prefix=prefix))
    lock = lock_file(place / _IN_USE)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()
