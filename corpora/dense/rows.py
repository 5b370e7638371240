"""The rows of a dense index: one for every distinct vector, and which passages share it.

Identical passages share a row, so their scores are equal to the last bit, regardless of the batch they would have been
encoded in. So do different passages with equal vectors: a graph (HNSW) in which many nodes have one place loses the
others, because all links of these nodes lead to each other. `positions.npy` and `starts.npy` map rows to passages: row r
stands for the passages at `positions[starts[r]:starts[r + 1]]`, which are in order of id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, CorpusError
from searchgym.files import replacing
from searchgym.records.question import Corpus, Passage

from ..indexing.backend import Progress
from ..indexing.cache import cached_directory
from ..indexing.checksums import SHIFT
from ..indexing.sealed import open_checked
from .encoders import MAX_CHARACTERS

__all__ = [
    "GROUP_FILES",
    "Groups",
    "Vectors",
    "cached_groups",
    "group_passages",
    "group_vectors",
    "passage_text",
]

GROUP_FILES = ("positions.npy", "starts.npy")
"""The files of `Groups`, whose blocks are compared with their checksums when they are first read."""

_FORMAT = 1
_SHOW_EVERY = 20_000  # passages
_CHUNK = 16_384  # rows read at a time
# Components from which products could leave the range of float32; faiss's clustering then ends the process (SIGABRT).
_LARGEST = 1e12


class Vectors(Protocol):
    """Rows of float32 vectors, possibly larger than memory.

    Attributes:
        count: number of rows.
        dimension: components of a vector.
    """

    count: int
    dimension: int

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of some rows, float32 [rows, dimension]."""


class Groups:
    """The passages of each row; memory-mapped.

    Args:
        directory: where `group_passages` wrote them.
    """

    def __init__(self, directory: Path) -> None:
        self._files = open_checked(directory, *GROUP_FILES)
        (self._positions, self._place), (self._starts, self._first) = (f.array("<i4") for f in self._files)
        if (
            self._positions.ndim != 1
            or self._starts.ndim != 1
            or not 1 < len(self._starts) <= len(self._positions) + 1
        ):
            self._files[1].refuse(f"it has {len(self._starts):,} rows for {len(self._positions):,} passages")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def firsts(self) -> NDArray[np.int64]:
        """The position of the first passage of every row."""
        self._check_all()
        first: NDArray[np.int64] = self._positions[self._starts[:-1]].astype(np.int64)
        return first

    def rows(self) -> NDArray[np.int64]:
        """The row of every passage, in order of position."""
        self._check_all()
        rows = np.empty(len(self._positions), np.int64)
        rows[self._positions] = np.repeat(np.arange(len(self)), np.diff(self._starts))
        return rows

    def passages(self, row: int) -> list[int]:
        """The positions of a row's passages, ascending."""
        positions, starts = self._files
        if not 0 <= row < len(self):
            starts.refuse(f"the index refers to row {row:,} of {len(self):,}")
        place = self._first + 4 * row
        if not (starts.seen[place >> SHIFT] and starts.seen[(place + 7) >> SHIFT]):
            starts.check(place, place + 8)
        first, end = self._starts[row : row + 2].tolist()
        if not 0 <= first < end <= len(self._positions):
            starts.refuse(f"row {row:,} has the passages {first:,} to {end:,} of {len(self._positions):,}")
        place = self._place + 4 * first
        if end - first > 1 or not (positions.seen[place >> SHIFT] and positions.seen[(place + 3) >> SHIFT]):
            positions.check(place, self._place + 4 * end)
        found: list[int] = self._positions[first:end].tolist()
        if min(found) < 0 or max(found) >= len(self._positions):
            positions.refuse(f"row {row:,} is of passages {found[:3]} of {len(self._positions):,}")
        return found

    def _check_all(self) -> None:
        for file in self._files:
            file.check(0, len(file.data))


def passage_text(passage: Passage) -> str:
    """The text of a passage that is encoded: title, line break, text; at most `MAX_CHARACTERS`."""
    return (f"{passage.title}\n{passage.text}" if passage.title else passage.text)[:MAX_CHARACTERS]


def group_passages(
    corpus: Corpus,
    directory: Path,
    progress: Progress,
    order: NDArray[np.int64] | None = None,
    text: Callable[[Passage], str] = passage_text,
) -> Groups:
    """Give every distinct text a row, and write which passages share it; if that is done, open the files.

    Args:
        corpus: the passages.
        directory: where `positions.npy` and `starts.npy` are written.
        progress: called while the texts are read.
        order: a number for every passage; rows are in order of the smallest number of their passages. None for the
            order of positions.
        text: passages are identical if this is equal.

    Raises:
        CorpusError: the corpus has no passages.
    """
    if not (directory / "starts.npy").exists():
        digests = bytearray()
        for passage in _shown(corpus, "read", progress):
            content = text(passage).encode("utf-8", "replace")
            digests += hashlib.blake2b(content, digest_size=16).digest()
        _save_groups(digests, order, directory)
    return Groups(directory)


def group_vectors(
    vectors: Vectors, rows: NDArray[np.int64], corpus: Corpus, directory: Path, what: str, progress: Progress
) -> Groups:
    """Give every distinct vector a row, and write which passages share it; if that is done, open the files.

    Args:
        vectors: the vectors.
        rows: for every passage, by position, the row of its vector. The new rows are in the same order.
        corpus: the passages.
        directory: where `positions.npy` and `starts.npy` are written.
        what: the vectors, as an error names them.
        progress: called while the vectors are read.

    Raises:
        ConfigError: a vector has a component that is not a finite number, or too large to be multiplied.
    """
    if not (directory / "starts.npy").exists():
        used, place = np.unique(rows, return_inverse=True)
        digests = bytearray()
        for start in range(0, len(used), _CHUNK):
            some = used[start : start + _CHUNK]
            found = vectors.read(some)
            bad = np.flatnonzero(~(np.abs(found).max(axis=1) <= _LARGEST))  # also those with NaN
            if len(bad):
                row = int(some[bad[0]])
                passage = corpus.passages[int((rows == row).argmax())]
                raise ConfigError(
                    f"{what}, row {row} (passage {passage.id!r}) has a component that is not a finite number, or above "
                    f"{_LARGEST:.0e}: encode the passages again, without half precision if it was used"
                )
            for vector in found + 0.0:  # a negative zero is a zero
                digests += hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
            progress("compare", start + len(some), len(used))
        by_row = np.frombuffer(digests, np.uint64).reshape(-1, 2)
        _save_groups(by_row[place].tobytes(), rows, directory)
    return Groups(directory)


def cached_groups(corpus: Corpus, progress: Progress) -> Groups:
    """Which passages have the same title and text: computed at the first call, cached after that."""

    def build(directory: Path) -> None:
        group_passages(corpus, directory, progress, text=lambda passage: f"{passage.title}\n{passage.text}")

    return Groups(
        cached_directory("groups", {"format": _FORMAT, "corpus": corpus.hash}, build, lazy=GROUP_FILES)
    )


def _save_groups(digests: bytes | bytearray, order: NDArray[np.int64] | None, directory: Path) -> None:
    """Write which passages share a row: those with equal digests, of 16 bytes each."""
    directory.mkdir(exist_ok=True)
    pairs = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    by_digest = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: a group is in order of position
    ordered = pairs[by_digest]
    new = np.ones(len(pairs), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = new.cumsum() - 1
    numbers = by_digest if order is None else order[by_digest]
    smallest = np.minimum.reduceat(numbers, new.nonzero()[0])
    row_of_group = np.empty(len(smallest), np.int64)
    row_of_group[smallest.argsort(kind="stable")] = np.arange(len(smallest))
    row = row_of_group[group]
    _save(directory / "positions.npy", by_digest[row.argsort(kind="stable")].astype(np.int32))
    starts = np.concatenate([[0], np.bincount(row).cumsum()]).astype(np.int32)
    _save(directory / "starts.npy", starts)


def _shown(corpus: Corpus, phase: str, progress: Progress) -> Iterator[Passage]:
    total = len(corpus.passages)
    if total == 0:
        raise CorpusError(f"corpus {corpus.name!r} has no passages: give one with at least one passage")
    for position, passage in enumerate(corpus.passages):
        if position % _SHOW_EVERY == 0:
            progress(phase, position, total)
        yield passage
    progress(phase, total, total)


def _save(file: Path, array: NDArray[Any]) -> None:
    """Write an array in one step."""
    with replacing(file, alone=True) as temporary, temporary.open("wb") as out:
        np.save(out, array, allow_pickle=False)
