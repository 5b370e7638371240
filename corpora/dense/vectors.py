"""The vectors of a corpus: one row for every distinct text, computed by an encoder or read from a published file.

Identical passages share a row, so their scores are equal to the last bit, regardless of the batch they would have been
encoded in. `positions.npy` and `starts.npy` map rows to passages: row r stands for the passages at
`positions[starts[r]:starts[r + 1]]`, which are in order of id.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, CorpusError, MissingExtraError
from searchgym.files import replacing
from searchgym.question import Corpus, Passage

from ..indexing.backend import Progress
from ..indexing.cache import cached_directory, open_checked
from ..indexing.checksums import SHIFT
from ..indexing.disk import require_disk
from .encoders import MAX_CHARACTERS, Encoder

__all__ = [
    "GROUP_FILES",
    "VECTORS",
    "EncodedVectors",
    "Groups",
    "PublishedVectors",
    "Vectors",
    "cached_groups",
    "cached_vectors",
    "digest_vectors",
    "encode_rows",
    "group_passages",
    "load_faiss",
    "passage_text",
    "pick",
    "published_rows",
]

BLOCK = 1024
"""Rows that are encoded and pushed to the disk at a time; a killed build loses at most this many."""

VECTORS = "vectors.f32"
"""The file that `encode_rows` writes."""

GROUP_FILES = ("positions.npy", "starts.npy")
"""The files of `Groups`, whose blocks are compared with their checksums when they are first read."""

_FORMAT = 1
_SHOW_EVERY = 20_000  # passages
_SAMPLES, _SAMPLE = 64, 16_384  # parts of a published file, and bytes of each, that its digest covers


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


class EncodedVectors:
    """The vectors that `encode_rows` wrote; row r of the file is row r.

    Args:
        file: the file.
        dimension: components of a vector.
    """

    def __init__(self, file: Path, dimension: int) -> None:
        (self._file,) = open_checked(file.parent, file.name)
        if len(self._file.data) % (4 * dimension):
            self._file.refuse(f"it has {len(self._file.data):,} bytes, no whole number of vectors")
        self._data: NDArray[np.float32] = np.frombuffer(self._file.data, np.float32).reshape(-1, dimension)
        self.count, self.dimension = self._data.shape

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        self._file.check_rows(rows, 0, 4 * self.dimension)
        return np.ascontiguousarray(self._data[rows])


class PublishedVectors:
    """The vectors of a `.npy` file or of a flat faiss index, memory-mapped and unchanged.

    Args:
        file: a two-dimensional `.npy` array of floats, or a faiss index by inner product that stores its vectors.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._data: Any
        try:
            if file.suffix == ".npy":
                self._data = np.load(file, mmap_mode="r", allow_pickle=False)
            else:
                faiss = load_faiss()
                self._data = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, ValueError, RuntimeError) as error:  # faiss raises RuntimeError for every failure
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(f"vectors {str(file)!r} cannot be read: {reason}") from error
        if isinstance(self._data, np.ndarray):
            if self._data.ndim != 2 or self._data.dtype.kind != "f":
                raise ConfigError(
                    f"vectors {str(file)!r} is an array of {self._data.dtype} and shape {self._data.shape}: "
                    "give rows of floats, [passages, dimension]"
                )
            self.count, self.dimension = self._data.shape
            return
        faiss = load_faiss()
        if (
            not isinstance(self._data, faiss.IndexFlatCodes)
            or self._data.metric_type != faiss.METRIC_INNER_PRODUCT
        ):
            raise ConfigError(
                f"vectors {str(file)!r} is a {type(self._data).__name__}: give a flat index by inner product "
                "(IndexFlatIP, IndexScalarQuantizer), from which the vectors can be read"
            )
        self.count, self.dimension = self._data.ntotal, self._data.d

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if isinstance(self._data, np.ndarray):
            return np.ascontiguousarray(self._data[rows], np.float32)
        found: NDArray[np.float32] = self._data.reconstruct_batch(rows)
        return found


class _Picked:
    """Some rows of another `Vectors`, in another order."""

    def __init__(self, vectors: Vectors, rows: NDArray[np.int64]) -> None:
        self._vectors, self._rows = vectors, rows
        self.count, self.dimension = len(rows), vectors.dimension

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors.read(self._rows[rows])


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
        pairs = np.frombuffer(digests, np.uint64).reshape(-1, 2)
        by_text = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: a group is in order of position
        ordered = pairs[by_text]
        new = np.ones(len(pairs), bool)
        new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        group = new.cumsum() - 1
        numbers = by_text if order is None else order[by_text]
        smallest = np.minimum.reduceat(numbers, new.nonzero()[0])
        row_of_group = np.empty(len(smallest), np.int64)
        row_of_group[smallest.argsort(kind="stable")] = np.arange(len(smallest))
        row = row_of_group[group]
        _save(directory / "positions.npy", by_text[row.argsort(kind="stable")].astype(np.int32))
        starts = np.concatenate([[0], np.bincount(row).cumsum()]).astype(np.int32)
        _save(directory / "starts.npy", starts)
    return Groups(directory)


def encode_rows(
    corpus: Corpus, groups: Groups, encoder: Encoder, file: Path, progress: Progress
) -> EncodedVectors:
    """Encode the text of every row into a file of raw float32 vectors, continuing where a killed build stopped.

    Blocks are appended and pushed to the disk one by one; an incomplete block at the end is cut off and repeated.

    Args:
        corpus: the passages.
        groups: their rows.
        encoder: computes the vectors.
        file: the file.
        progress: called after every block.
    """
    firsts = groups.firsts()
    block_bytes = BLOCK * encoder.dimension * 4
    whole = len(firsts) * encoder.dimension * 4
    with file.open("ab") as out:
        size = out.tell()
        if size != whole:
            out.truncate(size := size // block_bytes * block_bytes)
        done = size // (encoder.dimension * 4)
        progress("encode", done, len(firsts))
        for start in range(done, len(firsts), BLOCK):
            passages = [corpus.passages[position] for position in firsts[start : start + BLOCK].tolist()]
            out.write(encoder.encode_passages([passage_text(passage) for passage in passages]).tobytes())
            out.flush()
            os.fsync(out.fileno())
            progress("encode", start + len(passages), len(firsts))
    return EncodedVectors(file, encoder.dimension)


def cached_groups(corpus: Corpus, progress: Progress) -> Groups:
    """Which passages have the same title and text: computed at the first call, cached after that."""

    def build(directory: Path) -> None:
        group_passages(corpus, directory, progress, text=lambda passage: f"{passage.title}\n{passage.text}")

    return Groups(
        cached_directory("groups", {"format": _FORMAT, "corpus": corpus.hash}, build, lazy=GROUP_FILES)
    )


def cached_vectors(corpus: Corpus, encoder: Encoder, progress: Progress) -> Vectors:
    """A vector for every passage, by position: encoded at the first call, cached after that.

    Raises:
        ConfigError: too little disk space.
    """
    key = {"format": _FORMAT, "corpus": corpus.hash, "encoder": encoder.identity}

    def build(directory: Path) -> None:
        need = len(corpus.passages) * (4 * encoder.dimension + 8)
        done = sum(file.stat().st_size for file in directory.iterdir())
        require_disk(directory, need - done, f"encoding {corpus.name!r}")
        encode_rows(
            corpus, group_passages(corpus, directory, progress), encoder, directory / VECTORS, progress
        )

    directory = cached_directory("vectors", key, build, resumable=True, lazy=(VECTORS, *GROUP_FILES))
    return pick(EncodedVectors(directory / VECTORS, encoder.dimension), Groups(directory).rows())


def published_rows(corpus: Corpus, vectors: PublishedVectors, ids: str | None) -> NDArray[np.int64]:
    """For every passage, by position, the row of its vector in a published file.

    Args:
        corpus: the passages.
        vectors: the published vectors.
        ids: None if the rows are in order of the passages' ids; "number" if a passage's id is the number of its row,
            from 0; otherwise the path of a text file with the id of row i in line i.

    Raises:
        ConfigError: the ids cannot be read, or the rows do not fit the passages.
    """
    about = f"vectors {str(vectors.file)!r}"
    count = len(corpus.passages)
    if ids is None:
        if vectors.count != count:
            raise ConfigError(
                f"{about} has {vectors.count:,} rows for the {count:,} passages of {corpus.name!r}: "
                "give vector_ids, the passage of each row"
            )
        return np.arange(count)
    if ids == "number":
        rows = np.fromiter((_number(passage.id) for passage in corpus.passages), np.int64, count)
    else:
        rows = _find_rows(corpus, Path(ids))
    wrong = ((rows < 0) | (rows >= vectors.count)).nonzero()[0]
    if len(wrong):
        passage = corpus.passages[int(wrong[0])]
        raise ConfigError(
            f"{about} with vector_ids {ids!r} has no row for {len(wrong):,} of {count:,} passages of "
            f"{corpus.name!r}, e.g. {passage.id!r}: use the corpus the vectors were made from"
        )
    return rows


def pick(vectors: Vectors, rows: NDArray[np.int64]) -> Vectors:
    """Some rows of `vectors`, renumbered from 0."""
    return _Picked(vectors, rows)


def load_faiss() -> Any:
    """The module faiss.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtraError("dense retrieval", "faiss", "dense") from error


def digest_vectors(file: Path) -> str:
    """A digest of a published file: its size and a sample of its bytes, as reading 64 GB would take minutes."""
    size = file.stat().st_size
    state = hashlib.blake2b(str(size).encode(), digest_size=16)
    with file.open("rb") as stream:
        for place in np.linspace(0, max(0, size - _SAMPLE), _SAMPLES).astype(np.int64).tolist():
            stream.seek(place)
            state.update(stream.read(_SAMPLE))
    return state.hexdigest()


def _find_rows(corpus: Corpus, file: Path) -> NDArray[np.int64]:
    """The line of every passage's id, -1 for none. Uses digests, as a dictionary of millions of ids takes gigabytes."""
    try:
        with file.open("rb") as lines:
            listed = _id_digests(line.rstrip(b"\r\n") for line in lines)
    except OSError as error:
        raise ConfigError(f"vector_ids {str(file)!r} cannot be read: {error.strerror or error}") from error
    wanted = _id_digests(passage.id.encode() for passage in corpus.passages)
    if not len(listed):
        return np.full(len(wanted), -1)
    order = listed.argsort(kind="stable")
    place = np.minimum(np.searchsorted(listed, wanted, sorter=order), len(listed) - 1)
    rows = order[place]
    return np.where(listed[rows] == wanted, rows, -1)


def _id_digests(ids: Iterable[bytes]) -> NDArray[np.uint64]:
    digests = bytearray()
    for id in ids:
        digests += hashlib.blake2b(id, digest_size=8).digest()
    return np.frombuffer(digests, np.uint64)


def _number(id: str) -> int:
    return int(id) if id.isascii() and id.isdigit() and len(id) < 19 else -1


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
