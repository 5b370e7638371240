"""Replies kept between runs: JSON under 32-byte keys in one LMDB directory. Nothing is ever unpickled.

- `put` returns when the value is on disk: a later kill -9 or power cut loses nothing that was put.
- Processes share a directory; LMDB's lock file serialises their writes, and reads never wait.
- A process opens a directory once, however many objects use it (LMDB requires that). A fork closes it; parent and
  child open it again.
- A directory that cannot be written, is full or is damaged is still read as far as possible; `problem` says what is
  wrong.
- Each value carries a CRC-32 of key and value. One that does not fit is as good as none: it is asked for again. Values
  that older versions wrote have none: they are read if they are JSON.

LMDB maps its file into memory, so the directory must lie on a local disk, not on a network share.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import lmdb

__all__ = ["Saver", "Store", "open_store"]

# Bytes. A limit, not disk space in use, except on Windows.
_CAPACITY = 16 * 2**30 if os.name == "posix" else 2**30
_CHECKED = (
    b"\x01"  # the first byte of a value with a checksum; older ones are JSON, which never starts with it
)
_DATA = "data.mdb"
_READERS = 1024  # processes and threads that may read at the same time

# Held while any store is opened, read or written, so that no store is in use during a fork.
_lock = threading.RLock()
_stores: dict[str, Store] = {}


class Store:
    """See the module docstring. Made by `open_store`.

    Attributes:
        problem: why nothing more is kept; None if there is no problem.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problem: str | None = None
        self._lmdb: lmdb.Environment | None = None
        self._unreadable = False
        self._open()

    def _open(self) -> lmdb.Environment | None:
        """The LMDB environment, opened if necessary; None if not even reading is possible."""
        if self._lmdb is None and not self._unreadable:
            try:
                self._lmdb = self._open_to_write() if self.problem is None else self._open_to_read()
            except (OSError, lmdb.Error) as error:
                self._unreadable = self.problem is not None
                self.problem = self.problem or _reason(error)
                return self._open()
        return self._lmdb

    def _open_to_write(self) -> lmdb.Environment:
        self.directory.mkdir(parents=True, exist_ok=True)
        # metasync=False: one flush to the disk per commit instead of two; a power cut can undo the last commit, and
        # never more than that.
        opened = lmdb.open(
            str(self.directory), map_size=_CAPACITY, max_readers=_READERS, metasync=False, mode=0o600
        )
        opened.reader_check()  # frees the slots of readers that were killed
        if self._missing(opened):
            with opened.begin(write=True):  # nobody else makes the file larger now
                if missing := self._missing(opened):
                    os.truncate(self.directory / _DATA, missing)
        return opened

    def _open_to_read(self) -> lmdb.Environment:
        """Entries of other processes can be read even where nothing can be written."""
        opened = lmdb.open(str(self.directory), create=False, readonly=True, lock=False)
        if self._missing(opened):
            opened.close()
            raise OSError(errno.EIO, f"{_DATA} was cut short")
        return opened

    def _missing(self, opened: lmdb.Environment) -> int:
        """The size that a file that was cut short should have; 0 for a whole one. Raises OSError if it cannot have it.

        Reading a page beyond the end of a mapped file kills the process. A page of zeros is no page to LMDB, and no value
        with its checksum.
        """
        size = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        if size > opened.info()["map_size"]:
            raise OSError(errno.EIO, f"{_DATA} is damaged")
        return size if os.stat(self.directory / _DATA).st_size < size else 0

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys, read in one transaction; None for a key without a value."""
        with _lock:
            opened = self._open()
            if opened is None:
                return [None] * len(keys)
            try:
                with opened.begin() as transaction:
                    return [_intact(key, transaction.get(key)) for key in keys]
            except lmdb.Error as error:
                self.problem = _reason(error)
                return [None] * len(keys)

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values: all of them, or none if that fails (see `problem`)."""
        with _lock:
            opened = self._open()
            if opened is None or self.problem is not None:
                return
            try:
                with opened.begin(write=True) as transaction:
                    for key, value in values.items():
                        transaction.put(key, _CHECKED + _checksum(key, value) + value)
            except (OSError, lmdb.Error) as error:
                self.problem = _reason(error)

    def close(self) -> None:
        """Close the files; the next call opens them again."""
        if self._lmdb is not None:
            self._lmdb.close()
            self._lmdb = None


class Saver:
    """Puts values into a store from an event loop: values that arrive during one commit share the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[bytes, bytes] = {}
        self._next: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def put(self, key: bytes, value: bytes) -> asyncio.Task[None]:
        """Start to keep a value; the task is done when the value is on disk."""
        self._waiting[key] = value
        if self._next is None:
            self._next = asyncio.ensure_future(self._commit())
        return self._next

    async def _commit(self) -> None:
        async with self._writing:
            values, self._waiting, self._next = self._waiting, {}, None
            await asyncio.to_thread(self._store.put, values)


def open_store(directory: Path) -> Store:
    """The store of a directory, created if necessary; one object per process and directory."""
    name = os.path.realpath(directory)
    with _lock:
        store = _stores.get(name)
        if store is None:
            store = _stores[name] = Store(Path(name))
        return store


def _checksum(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4, "little")


def _intact(key: bytes, stored: bytes | None) -> bytes | None:
    """The value in what is stored under a key; None if there is none, or a damaged one."""
    if stored is None:
        return None
    if stored.startswith(_CHECKED):
        value = stored[5:]
        return value if stored[1:5] == _checksum(key, value) else None
    try:
        json.loads(stored)
    except ValueError:
        return None
    return stored


def _reason(error: Exception) -> str:
    if isinstance(error, lmdb.MapFullError):
        return f"it is full ({_CAPACITY // 2**30} GiB)"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _before_fork() -> None:
    # A child must not use the files its parent opened: both open them again. The lock is held until after the fork,
    # so that no thread reads or writes in the meantime.
    _lock.acquire()
    for store in _stores.values():
        store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
