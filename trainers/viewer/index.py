"""The index of episode files: one SQLite file in the cache directory, built once and extended as files grow.

    files    a row per episode file: how far it has been read, and what could not be read
    blocks   up to 2,000 rows of the table as one JSON text, which the page fetches as it is; and the offset of each line
    words    full-text index of the rows' text (FTS5, without a copy of the text); `passages` has that of the passages

A file that was replaced or has shrunk is read again; a file that has grown is read on from where it ended. A damaged line is
listed among the problems of its file and left out. Rows of `files` and `blocks` carry a CRC-32: an index that was damaged is
made again. The words have none; they only decide what a search finds.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, EpisodeFileError
from searchgym.files import json_digest, lock_file, open_regular
from searchgym.home import home

from .passages import PASSAGE_TABLES, ROWS_OF_BLOCK, find_rows, forget_passages, store_passages
from .rows import COLUMNS, Row, read_row
from .sources import EpisodeFile

__all__ = ["Index", "index_path"]

_SCHEMA = 3
_BLOCK = 2_000  # rows
_SHIFT = 12  # bits of a row's position in the row ids of the full-text index
_PROBLEMS = 20  # of a file, at most
_LONGEST = 64 * 2**20  # bytes of a line
_REPEATED = (
    "group_id",
    "task_id",
    "question",
    "gold",
    "type",
    "agent",
    "stop",
    "errors",
)  # stored once per block
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE, inode INTEGER, size INTEGER, mtime INTEGER, read INTEGER,
    lines INTEGER, problems TEXT, crc INTEGER);
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, file INTEGER, first INTEGER, rows INTEGER, columns TEXT, places BLOB,
    crc INTEGER);
CREATE INDEX IF NOT EXISTS blocks_of_file ON blocks (file, first);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='', detail=none);
"""
_FILE_ROW = "id, path, inode, size, mtime, read, lines, problems, crc"
_BLOCK_ROW = "id, file, first, rows, columns, places, crc"
_WORD = re.compile(r"[^\W_]+")
_PLACE = struct.Struct("<qqq")  # number of the line, offset, length


def index_path(paths: Sequence[Path]) -> Path:
    """Where the index of some paths is kept: in the cache directory, or in a temporary one if that cannot be written.

    Args:
        paths: what is viewed.
    """
    name = f"{json_digest([_SCHEMA, *COLUMNS, *sorted(str(path.resolve()) for path in paths)])}.sqlite"
    folder = home() / "viewer"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file(folder / f".{name}.lock").release()
    except filelock.Timeout:  # another viewer is reading these files
        pass
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="searchgym-viewer-"))
    return folder / name


class _DamagedError(ConfigError):
    """The index is not what was written; `Index.remake` helps."""


class Index:
    """An index file. Every method opens a connection of its own, so that any thread may call it.

    Args:
        path: the file; created if it is missing.

    Attributes:
        damaged: whether a method has found it damaged, and raised `ConfigError`, since it was made.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = False
        self._stop = threading.Event()
        try:
            self._create()
            self.files()
        except _DamagedError:
            self.remake()

    def remake(self) -> None:
        """Start anew with an empty file: it held nothing that cannot be read again.

        Raises:
            ConfigError: it cannot be written.
        """
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._create()
        self.damaged = False

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_TABLES + PASSAGE_TABLES)
            # An index that is made again must not use an id twice: pages that are open keep blocks by their ids.
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'blocks', ? WHERE NOT EXISTS "
                "(SELECT 1 FROM sqlite_sequence WHERE name = 'blocks')",
                [int(time.time() * 1000)],
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                connection.execute("PRAGMA synchronous=OFF")  # a cache: a power cut costs a rebuild
                connection.execute("PRAGMA cache_size=-16000")
                connection.text_factory = lambda content: content.decode("utf-8", "replace")
                yield connection
        except sqlite3.OperationalError as error:  # the disk is full, the file is gone or cannot be written
            raise ConfigError(
                f"the index {self.path} cannot be used ({error}): free some disk space, or set SEARCHGYM_HOME to another directory"
            ) from error
        except (sqlite3.DatabaseError, ValueError, IndexError) as error:  # of SQLite, or of what was read
            self.damaged = True
            raise _DamagedError(f"the index {self.path} is damaged ({error}): it is made again") from error

    def stop(self) -> None:
        """Make `update` return soon; what it has read is kept."""
        self._stop.set()

    def update(self, files: Sequence[EpisodeFile]) -> bool:
        """Read what is new in these files, and forget files that are gone.

        Args:
            files: all files that are viewed.

        Returns:
            False if another process is updating the same index; its rows appear here as well.
        """
        try:
            lock = lock_file(self.path.with_name(f".{self.path.name}.lock"))
        except filelock.Timeout:
            return False
        try:
            with self._open() as connection:
                known = {row[1]: row for row in connection.execute("SELECT id, path FROM files")}
                for path in known.keys() - {str(file.path) for file in files}:
                    _forget(connection, known[path][0])
            for file in files:
                self._update_file(file.path)
        finally:
            lock.release()
        return True

    def _update_file(self, path: Path) -> None:
        try:
            stat = path.stat()
            handle = open_regular(path)
        except FileNotFoundError:  # removed since the files were listed
            return
        except OSError as error:
            with self._open() as connection:
                _File.new(connection, path, -1).save(
                    connection, [f"cannot be read: {error.strerror or error}"]
                )
            return
        with handle:
            with self._open() as connection:
                file = _File.resume(connection, path, stat)
            if file is None:
                return
            handle.seek(file.read)
            ended = False
            while not ended:
                block, ended = self._read_block(handle, file)
                with self._open() as connection:
                    block.store(connection, file.id)
                    if ended and not self._stop.is_set():
                        file.seen = (stat.st_size, stat.st_mtime_ns)
                    file.save(connection)

    def _read_block(self, handle: BinaryIO, file: _File) -> tuple[_Block, bool]:
        """The next rows of a file, and whether it ends with them."""
        block = _Block(file.lines)
        while len(block.rows) < _BLOCK:
            line = handle.readline(_LONGEST)
            if not line or self._stop.is_set():
                return block, True
            try:
                if len(line) == _LONGEST:
                    raise EpisodeFileError(f"longer than {_LONGEST >> 20} MiB, so it is not an episode")
                block.add(read_row(line, file.lines), file.read, len(line))
            except EpisodeFileError as error:
                file.add_problem(str(error))
                if not line.endswith(b"\n"):  # it is read again when the file has grown
                    return block, True
            file.read += len(line)
            file.lines += 1
        return block, False

    # -- reading ------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, dict[str, Any]]:
        """Path -> bytes that were read, whether it was read to its end, lines, problems, and its blocks as [id, rows]."""
        with self._open() as connection:
            found = {}
            for path, *_ in connection.execute("SELECT path FROM files").fetchall():
                file = _File.find(connection, path)
                assert file is not None
                found[file.id] = {
                    "path": path,
                    "read": file.read,
                    "ended": file.seen[0] >= 0 or bool(file.problems),
                    "lines": file.lines,
                    "problems": file.problems,
                    "blocks": [],
                }
            for block, file, rows in connection.execute(
                "SELECT id, file, rows FROM blocks ORDER BY file, first"
            ):
                if file in found:
                    found[file]["blocks"].append([block, rows])
        return {str(about.pop("path")): about for about in found.values()}

    def blocks(self, ids: Sequence[int]) -> dict[int, str]:
        """The JSON texts of blocks; those that are gone are left out.

        Args:
            ids: of the blocks.
        """
        marks = ",".join("?" * len(ids))
        with self._open() as connection:
            return {
                row[0]: _checked(row)[4]
                for row in connection.execute(
                    f"SELECT {_BLOCK_ROW} FROM blocks WHERE id IN ({marks})", list(ids)
                )
            }

    def place(self, path: Path, line: int) -> tuple[int, int] | None:
        """Offset and length of a line of a file; None if the index does not have it.

        Args:
            path: the file.
            line: its number, from 0.
        """
        with self._open() as connection:
            row = connection.execute(
                f"SELECT {_BLOCK_ROW} FROM blocks WHERE first <= ? AND file = (SELECT id FROM files WHERE path = ?) "
                "ORDER BY first DESC LIMIT 1",
                [line, str(path)],
            ).fetchone()
            places = _checked(row)[5] if row else b""
        for number, offset, length in _PLACE.iter_unpack(places):
            if number == line:
                return offset, length
        return None

    def search(self, text: str) -> str:
        """Rows with every word of the query, in their own text or in a passage, as JSON: {block: [position in it, …]}.

        The beginning of a word is enough.

        Args:
            text: the query.
        """
        words = list(dict.fromkeys(_WORD.findall(text)))
        if not words:
            return "{}"
        with self._open() as connection:
            first, *others = [_rows_with(connection, word) for word in words]
        found = {
            block: np.flatnonzero(np.logical_and.reduce([rows, *(other[block] for other in others)]))
            for block, rows in first.items()
            if all(block in other for other in others)
        }
        rows = (f'"{block}":[{",".join(map(str, p.tolist()))}]' for block, p in found.items() if len(p))
        return f"{{{','.join(rows)}}}"


def _rows_with(connection: sqlite3.Connection, word: str) -> dict[int, NDArray[np.bool_]]:
    """Block -> which of its rows have a word that begins so, [`ROWS_OF_BLOCK`]."""
    found: dict[int, NDArray[np.bool_]] = {}
    for block, positions in connection.execute(
        f"SELECT rowid >> {_SHIFT} AS block, group_concat(rowid & {(1 << _SHIFT) - 1}) FROM words "
        "WHERE words MATCH ? GROUP BY block",
        [f'"{word}"*'],
    ):
        found[block] = np.zeros(ROWS_OF_BLOCK, dtype=np.bool_)
        found[block][np.array(positions.split(","), dtype=np.uint16)] = True
    find_rows(connection, word, found)
    return found


@dataclass
class _File:
    """How far a file has been read.

    Attributes:
        id: of its row in `files`.
        seen: size and time of change when it was read to its end; -1 until then.
        read: bytes that were read.
        lines: lines that were read.
        problems: what could not be read.
    """

    id: int
    seen: tuple[int, int]
    read: int
    lines: int
    problems: list[str]

    @classmethod
    def new(cls, connection: sqlite3.Connection, path: Path, inode: int) -> _File:
        """Start a file from its beginning, without what was known of it."""
        for (old,) in connection.execute("SELECT id FROM files WHERE path = ?", [str(path)]).fetchall():
            _forget(connection, old)
        made = connection.execute("INSERT INTO files (path, inode) VALUES (?, ?)", [str(path), inode])
        assert made.lastrowid is not None
        file = cls(made.lastrowid, (-1, -1), 0, 0, [])
        file.save(connection)
        return file

    @classmethod
    def find(cls, connection: sqlite3.Connection, path: str) -> _File | None:
        """What is known of a file; None if nothing is."""
        row = connection.execute(f"SELECT {_FILE_ROW} FROM files WHERE path = ?", [path]).fetchone()
        if row is None:
            return None
        id_, _, _, size, mtime, read, lines, problems, _ = _checked(row)
        return cls(id_, (size, mtime), read, lines, json.loads(problems))

    @classmethod
    def resume(cls, connection: sqlite3.Connection, path: Path, stat: os.stat_result) -> _File | None:
        """Continue a file where its reading ended; None if nothing is new in it."""
        file = cls.find(connection, str(path))
        if file is None:
            return cls.new(connection, path, stat.st_ino)
        (inode,) = connection.execute("SELECT inode FROM files WHERE id = ?", [file.id]).fetchone()
        if inode == stat.st_ino and file.seen == (stat.st_size, stat.st_mtime_ns):
            return None
        if inode != stat.st_ino or stat.st_size < file.read or stat.st_size == file.seen[0]:
            return cls.new(connection, path, stat.st_ino)  # another file, or written again
        cut = f"line {file.lines + 1}: "
        file.seen, file.problems = (-1, -1), [p for p in file.problems if not p.startswith(cut)]
        return file

    def add_problem(self, reason: str) -> None:
        """Note that the next line cannot be used."""
        if len(self.problems) < _PROBLEMS:
            self.problems.append(f"line {self.lines + 1}: {reason}")

    def save(self, connection: sqlite3.Connection, problems: list[str] | None = None) -> None:
        """Write the state into the index."""
        connection.execute(
            "UPDATE files SET size = ?, mtime = ?, read = ?, lines = ?, problems = ? WHERE id = ?",
            [*self.seen, self.read, self.lines, json.dumps(problems or self.problems), self.id],
        )
        _set_crc(connection, "files", _FILE_ROW, self.id)


class _Block:
    """Rows that are stored together."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: list[tuple[Any, ...]] = []
        self._texts: list[str] = []
        self._passages: list[list[str]] = []
        self._places = bytearray()

    def add(self, row: Row, offset: int, length: int) -> None:
        self._places += _PLACE.pack(row.columns[0], offset, length)
        self.rows.append(row.columns)
        self._texts.append(row.text.encode("utf-8", "replace").decode())  # lone surrogates are no UTF-8
        self._passages.append(row.passages)

    def store(self, connection: sqlite3.Connection, file: int) -> None:
        if not self.rows:
            return
        block = connection.execute(
            "INSERT INTO blocks (file, first, rows, columns, places) VALUES (?, ?, ?, ?, ?)",
            [file, self.first, len(self.rows), encode_columns(self.rows), bytes(self._places)],
        ).lastrowid
        assert block is not None
        _set_crc(connection, "blocks", _BLOCK_ROW, block)
        connection.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((block << _SHIFT | i, text) for i, text in enumerate(self._texts)),
        )
        store_passages(connection, block, self._passages)


def _crc(row: tuple[Any, ...]) -> int:
    """Of all values but the last, which is the CRC."""
    return zlib.crc32(repr(row[:-1]).encode("utf-8", "replace"))


def _checked(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as it is; raises `ValueError` if it is not what was written."""
    if row[-1] != _crc(row):
        raise ValueError("a row is not what was written")
    return row


def _set_crc(connection: sqlite3.Connection, table: str, columns: str, number: int) -> None:
    row = connection.execute(f"SELECT {columns} FROM {table} WHERE id = ?", [number]).fetchone()
    connection.execute(f"UPDATE {table} SET crc = ? WHERE id = ?", [_crc(row), number])


def encode_columns(rows: Sequence[tuple[Any, ...]]) -> str:
    """Rows as JSON by column; strings that repeat are stored once: {"values": […], "codes": […]}.

    Args:
        rows: values of `COLUMNS`.
    """
    columns: dict[str, Any] = {}
    for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        if name in _REPEATED:
            codes: dict[Any, int] = {}
            columns[name] = {
                "codes": [codes.setdefault(v, len(codes)) for v in values],
                "values": list(codes),
            }
        else:
            columns[name] = [round(v, 6) if isinstance(v, float) else v for v in values]
    return json.dumps(columns, separators=(",", ":"))


def _forget(connection: sqlite3.Connection, file: int) -> None:
    """Remove the rows of a file. Its words stay: their row ids are never used again, and no block has them."""
    forget_passages(connection, file)
    connection.execute("DELETE FROM blocks WHERE file = ?", [file])
    connection.execute("DELETE FROM files WHERE id = ?", [file])
