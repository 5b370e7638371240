"""What the viewer's index stores: files, and blocks of rows, each with a CRC-32 of its row in the table."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .passages import forget_passages, store_passages
from .rows import COLUMNS, Row

__all__ = [
    "BLOCK_ROW",
    "PLACE",
    "SHIFT",
    "TABLES",
    "StoredBlock",
    "StoredFile",
    "checked",
    "encode_columns",
    "forget",
]

SHIFT = 12
"""Bits of a row's position in the row ids of the full-text index."""
PLACE = struct.Struct("<qqq")
"""Number of a line, its offset and its length."""
_PROBLEMS = 20  # of a file, at most
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
TABLES = """
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
BLOCK_ROW = "id, file, first, rows, columns, places, crc"


@dataclass
class StoredFile:
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
    def new(cls, connection: sqlite3.Connection, path: Path, inode: int) -> StoredFile:
        """Start a file from its beginning, without what was known of it."""
        for (old,) in connection.execute("SELECT id FROM files WHERE path = ?", [str(path)]).fetchall():
            forget(connection, old)
        made = connection.execute("INSERT INTO files (path, inode) VALUES (?, ?)", [str(path), inode])
        assert made.lastrowid is not None
        file = cls(made.lastrowid, (-1, -1), 0, 0, [])
        file.save(connection)
        return file

    @classmethod
    def find(cls, connection: sqlite3.Connection, path: str) -> StoredFile | None:
        """What is known of a file; None if nothing is."""
        row = connection.execute(f"SELECT {_FILE_ROW} FROM files WHERE path = ?", [path]).fetchone()
        if row is None:
            return None
        id_, _, _, size, mtime, read, lines, problems, _ = checked(row)
        return cls(id_, (size, mtime), read, lines, json.loads(problems))

    @classmethod
    def resume(cls, connection: sqlite3.Connection, path: Path, stat: os.stat_result) -> StoredFile | None:
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


class StoredBlock:
    """Rows that are stored together."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: list[tuple[Any, ...]] = []
        self._texts: list[str] = []
        self._passages: list[list[str]] = []
        self._places = bytearray()

    def add(self, row: Row, offset: int, length: int) -> None:
        self._places += PLACE.pack(row.columns[0], offset, length)
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
        _set_crc(connection, "blocks", BLOCK_ROW, block)
        connection.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((block << SHIFT | i, text) for i, text in enumerate(self._texts)),
        )
        store_passages(connection, block, self._passages)


def _crc(row: tuple[Any, ...]) -> int:
    """Of all values but the last, which is the CRC."""
    return zlib.crc32(repr(row[:-1]).encode("utf-8", "replace"))


def checked(row: tuple[Any, ...]) -> tuple[Any, ...]:
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


def forget(connection: sqlite3.Connection, file: int) -> None:
    """Remove the rows of a file. Its words stay: their row ids are never used again, and no block has them."""
    forget_passages(connection, file)
    connection.execute("DELETE FROM blocks WHERE file = ?", [file])
    connection.execute("DELETE FROM files WHERE id = ?", [file])
