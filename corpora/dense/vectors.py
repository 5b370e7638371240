"""The vectors of a corpus: one row for every distinct text, computed by an encoder or read from a published file."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, MissingExtraError
from searchgym.records.question import Corpus

from ..indexing.backend import Progress
from ..indexing.cache import cached_directory
from ..indexing.disk import require_disk
from ..indexing.sealed import open_checked
from .encoders import Encoder
from .rows import GROUP_FILES, Groups, Vectors, group_passages, passage_text

__all__ = [
    "VECTORS",
    "EncodedVectors",
    "PublishedVectors",
    "cached_vectors",
    "digest_vectors",
    "encode_rows",
    "load_faiss",
    "pick",
    "published_rows",
]

BLOCK = 1024
"""Rows that are encoded and pushed to the disk at a time; a killed build loses at most this many."""

VECTORS = "vectors.f32"
"""The file that `encode_rows` writes."""

_FORMAT = 1
_SAMPLES, _SAMPLE = 64, 16_384  # parts of a published file, and bytes of each, that its digest covers


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
            with np.errstate(over="ignore"):  # `group_vectors` refuses what float32 cannot hold
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
