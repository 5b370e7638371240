"""Search in the texts of passages: each distinct text is indexed once, with the rows whose episode shows it.

passages        the digest of each text
passage_words   full-text index of the texts (FTS5, without a copy of the text)
shown           passage, block, and the positions in the block of the rows that show it (unsigned 16-bit numbers)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["PASSAGE_TABLES", "ROWS_OF_BLOCK", "find_rows", "forget_passages", "store_passages"]

ROWS_OF_BLOCK = 4096
"""More than a block has."""

PASSAGE_TABLES = """
CREATE TABLE IF NOT EXISTS passages (id INTEGER PRIMARY KEY, digest BLOB UNIQUE);
CREATE VIRTUAL TABLE IF NOT EXISTS passage_words USING fts5(text, content='', detail=none);
CREATE TABLE IF NOT EXISTS shown (
    passage INTEGER, block INTEGER, positions BLOB, PRIMARY KEY (passage, block)) WITHOUT ROWID;
"""


def store_passages(connection: sqlite3.Connection, block: int, texts_by_row: Sequence[Sequence[str]]) -> None:
    """Note which rows of a block show which passages.

    Args:
        connection: of the index.
        block: its id.
        texts_by_row: the texts of the passages of each row.
    """
    positions: dict[str, list[int]] = {}
    for position, texts in enumerate(texts_by_row):
        for text in dict.fromkeys(texts):
            positions.setdefault(text, []).append(position)
    for text, rows in positions.items():
        clean = text.encode("utf-8", "replace")  # lone surrogates are no UTF-8
        digest = blake2b(clean, digest_size=16).digest()
        known = connection.execute("SELECT id FROM passages WHERE digest = ?", [digest]).fetchone()
        if known:
            passage = known[0]
        else:
            passage = connection.execute("INSERT INTO passages (digest) VALUES (?)", [digest]).lastrowid
            connection.execute(
                "INSERT INTO passage_words (rowid, text) VALUES (?, ?)", [passage, clean.decode()]
            )
        packed = np.array(rows, dtype=np.uint16).tobytes()
        connection.execute("INSERT OR REPLACE INTO shown VALUES (?, ?, ?)", [passage, block, packed])


def find_rows(connection: sqlite3.Connection, word: str, found: dict[int, NDArray[np.bool_]]) -> None:
    """Add the rows that show a passage in which a word begins like this.

    Args:
        connection: of the index.
        word: letters and digits.
        found: block -> which of its rows have the word, [`ROWS_OF_BLOCK`]; rows are added.
    """
    shown: dict[int, list[bytes]] = {}
    for block, positions in connection.execute(
        "SELECT block, positions FROM shown WHERE passage IN (SELECT rowid FROM passage_words WHERE passage_words MATCH ?)",
        [f'"{word}"*'],
    ):
        shown.setdefault(block, []).append(positions)
    for block, parts in shown.items():
        rows = found.setdefault(block, np.zeros(ROWS_OF_BLOCK, dtype=np.bool_))
        rows[np.frombuffer(b"".join(parts), dtype=np.uint16)] = True


def forget_passages(connection: sqlite3.Connection, file: int) -> None:
    """Remove what the rows of a file show; the passages stay, other files may show them.

    Args:
        connection: of the index.
        file: its id.
    """
    connection.execute("DELETE FROM shown WHERE block IN (SELECT id FROM blocks WHERE file = ?)", [file])
