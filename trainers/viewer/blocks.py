"""Blocks of the index: rows of the table that are stored together, as one text that the page fetches as it is."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Sequence
from typing import Any

from .passages import store_passages
from .rows import COLUMNS, Row

__all__ = ["PLACE", "SHIFT", "Block", "encode_columns"]

SHIFT = 12  # bits of a row's position in the row ids of the full-text index
PLACE = struct.Struct("<qqq")  # number of the line, offset, length
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


class Block:
    """Rows that are stored together.

    Args:
        first: number of the first row in its file.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: list[tuple[Any, ...]] = []
        self._texts: list[str] = []
        self._passages: list[list[str]] = []
        self._places = bytearray()

    def add(self, row: Row, offset: int, length: int) -> None:
        """Add a row, which is a line of `length` bytes at `offset`."""
        self._places += PLACE.pack(row.columns[0], offset, length)
        self.rows.append(row.columns)
        self._texts.append(row.text.encode("utf-8", "replace").decode())  # lone surrogates are no UTF-8
        self._passages.append(row.passages)

    def store(self, connection: sqlite3.Connection, file: int) -> None:
        """Write the rows of a file, their words and their passages into the index."""
        if not self.rows:
            return
        block = connection.execute(
            "INSERT INTO blocks (file, first, rows, columns, places) VALUES (?, ?, ?, ?, ?)",
            [file, self.first, len(self.rows), encode_columns(self.rows), bytes(self._places)],
        ).lastrowid
        assert block is not None
        connection.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((block << SHIFT | i, text) for i, text in enumerate(self._texts)),
        )
        store_passages(connection, block, self._passages)


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
