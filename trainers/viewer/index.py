"""The index of episode files: one SQLite file in the cache directory, built once and extended as files grow.

    files    a row per episode file: how far it has been read, and what could not be read
    blocks   up to 2,000 rows of the table as one JSON text, which the page fetches as it is; and the offset of each line
    words    full-text index of the rows' text (FTS5, without a copy of the text); `passages` has that of the passages

A file that was replaced or has shrunk is read again; a file that has grown is read on from where it ended. A damaged line is
listed among the problems of its file and left out.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tempfile
import threading
import time
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

from .blocks import PLACE, SHIFT, Block
from .passages import PASSAGE_TABLES, ROWS_OF_BLOCK, find_rows, forget_passages
from .rows import COLUMNS, read_row
from .sources import EpisodeFile

__all__ = ["Index", "index_path"]

_SCHEMA = 2
_BLOCK = 2_000  # rows
_PROBLEMS = 20  # of a file, at most
_LONGEST = 64 * 2**20  # bytes of a line
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE, inode INTEGER, size INTEGER, mtime INTEGER, read INTEGER,
    lines INTEGER, problems TEXT);
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, file INTEGER, first INTEGER, rows INTEGER, columns TEXT, places BLOB);
CREATE INDEX IF NOT EXISTS blocks_of_file ON blocks (file, first);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='', detail=none);
"""
_WORD = re.compile(r"[^\W_]+")


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


class Index:
    """An index file. Every method opens a connection of its own, so that any thread may call it.

    Args:
        path: the file; created if it is missing.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = threading.Event()
        try:
            self._create()
        except sqlite3.DatabaseError:  # damaged
            self.remake()

    def remake(self) -> None:
        """Start anew with an empty file: it held nothing that cannot be read again.

        Raises:
            ConfigError: it cannot be written.
        """
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._create()

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
                yield connection
        except sqlite3.OperationalError as error:  # the disk is full, the file is gone or cannot be written
            raise ConfigError(
                f"the index {self.path} cannot be used ({error}): free some disk space, or set SEARCHGYM_HOME to another directory"
            ) from error

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

    def _read_block(self, handle: BinaryIO, file: _File) -> tuple[Block, bool]:
        """The next rows of a file, and whether it ends with them."""
        block = Block(file.lines)
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
            found = {
                file: {
                    "path": path,
                    "read": read,
                    "ended": size >= 0 or bool(json.loads(problems)),
                    "lines": lines,
                    "problems": json.loads(problems),
                    "blocks": [],
                }
                for file, path, size, read, lines, problems in connection.execute(
                    "SELECT id, path, size, read, lines, problems FROM files"
                )
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
            return dict(
                connection.execute(f"SELECT id, columns FROM blocks WHERE id IN ({marks})", list(ids))
            )

    def place(self, path: Path, line: int) -> tuple[int, int] | None:
        """Offset and length of a line of a file; None if the index does not have it.

        Args:
            path: the file.
            line: its number, from 0.
        """
        with self._open() as connection:
            found = connection.execute(
                "SELECT places FROM blocks WHERE first <= ? AND file = (SELECT id FROM files WHERE path = ?) "
                "ORDER BY first DESC LIMIT 1",
                [line, str(path)],
            ).fetchone()
        for number, offset, length in PLACE.iter_unpack(found[0]) if found else ():
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
            first, *others = (_rows_with(connection, word) for word in words)
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
        f"SELECT rowid >> {SHIFT} AS block, group_concat(rowid & {(1 << SHIFT) - 1}) FROM words "
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
        made = connection.execute(
            "INSERT INTO files (path, inode, size, mtime, read, lines, problems) VALUES (?, ?, -1, -1, 0, 0, '[]')",
            [str(path), inode],
        )
        assert made.lastrowid is not None
        return cls(made.lastrowid, (-1, -1), 0, 0, [])

    @classmethod
    def resume(cls, connection: sqlite3.Connection, path: Path, stat: os.stat_result) -> _File | None:
        """Continue a file where its reading ended; None if nothing is new in it."""
        row = connection.execute(
            "SELECT id, inode, size, mtime, read, lines, problems FROM files WHERE path = ?", [str(path)]
        ).fetchone()
        if row is None:
            return cls.new(connection, path, stat.st_ino)
        id_, inode, size, mtime, read, lines, problems = row
        if inode == stat.st_ino and (size, mtime) == (stat.st_size, stat.st_mtime_ns):
            return None
        if (
            inode != stat.st_ino or stat.st_size < read or stat.st_size == size
        ):  # another file, or written again
            return cls.new(connection, path, stat.st_ino)
        cut = f"line {lines + 1}: "
        return cls(id_, (-1, -1), read, lines, [p for p in json.loads(problems) if not p.startswith(cut)])

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


def _forget(connection: sqlite3.Connection, file: int) -> None:
    """Remove the rows of a file. Its words stay: their row ids are never used again, and no block has them."""
    forget_passages(connection, file)
    connection.execute("DELETE FROM blocks WHERE file = ?", [file])
    connection.execute("DELETE FROM files WHERE id = ?", [file])
