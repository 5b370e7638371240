"""The faiss files of a dense index: made with bounded memory, resumable, and searched memory-mapped.

A flat or hnsw index is one file. An ivf index has one file per two gigabytes, all with the same cells: the query's cells
are looked up once and searched in every file.

faiss's own training compares every sampled vector with every cell in ten rounds, which takes hours on one core for the
cells of ten million vectors. From `_HIERARCHICAL_FROM` cells on, the sample is divided into a few dozen parts and each
part into cells (hierarchical k-means); one round over all cells then corrects them at the borders of the parts. From
`_GRAPH_FROM` cells on, cells are found along a graph (HNSW). Figures in docs/dense.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import DamagedFileError
from searchgym.files import replacing

from ..indexing.backend import Progress
from ..indexing.checksums import CheckedFile
from ..indexing.sealed import open_checked
from .faiss_checks import ListBlocks, check_before_reading, check_index
from .rows import Vectors
from .vectors import load_faiss

__all__ = ["FaissFiles", "build_faiss_files", "cells_for", "faiss_bytes"]

SHARD_BYTES = 2 * 10**9
"""Bytes of a file of an ivf index, which is in memory while it is filled."""

_TRAINED = "trained.faiss"
_CHUNK = 16_384  # rows read at a time
_PER_CELL = 64  # training vectors per cell; faiss requires at least 39 and uses at most 256
_LEAST_PER_CELL = 39
_HIERARCHICAL_FROM = 512
_GRAPH_FROM = 8192
_CELL_EF = 64  # candidates kept in the search for the cell of a vector
_FOR_RANGES = 100_000  # vectors that determine the ranges of the eight bits
_LINKS = 32  # per node of an hnsw graph; twice as many on its lowest level


class FaissFiles:
    """The index in a directory, memory-mapped.

    Args:
        directory: what `build_faiss_files` filled.
        nprobe: cells that an ivf search reads.
        ef_search: candidates that an hnsw search keeps.

    Attributes:
        dimension: components of a vector.
        flat: the faiss index, if it is flat.
    """

    def __init__(self, directory: Path, nprobe: int, ef_search: int) -> None:
        self._faiss = load_faiss()
        self._ef = ef_search
        self._shards = []
        self._lists: list[ListBlocks] = []  # of an ivf index
        names = sorted(file.name for file in directory.glob("index-*.faiss"))
        if not names:
            raise DamagedFileError(f"{directory} has no index-00000.faiss: build the index again")
        for file in open_checked(directory, *names):
            # Each flag maps what the other one would read into memory: the lists of ivf, the vectors of flat and hnsw.
            if check_before_reading(file):
                index = self._read(file, self._faiss.IO_FLAG_MMAP)
                if not isinstance(index, self._faiss.IndexIVF):
                    file.refuse(f"it is a {type(index).__name__}, no ivf index")
                # Otherwise it starts threads for every search, to read ahead data that is mapped and mostly in memory.
                self._faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
                index.nprobe = min(nprobe, index.nlist)
                self._lists.append(ListBlocks(index, file))
            else:
                index = self._read(file, self._faiss.IO_FLAG_MMAP_IFC)
            check_index(index, file)
            self._shards.append(index)
        first = self._shards[0]
        self.dimension: int = first.d
        self.flat = first if isinstance(first, self._faiss.IndexFlatIP) else None
        self._hnsw = isinstance(first, self._faiss.IndexHNSW)
        self._nprobe = 0
        if isinstance(first, self._faiss.IndexIVF):
            self._nprobe = first.nprobe
            self._cells = self._faiss.downcast_index(first.quantizer)
            if isinstance(self._cells, self._faiss.IndexHNSW):
                self._cells.hnsw.efSearch = max(_CELL_EF, 2 * self._nprobe)

    def search(
        self, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows with the greatest inner products.

        Args:
            queries: float32 [queries, dimension], at most 16, so that faiss scores them one by one.
            count: rows per query.

        Returns:
            Scores and rows, [queries, count], best first; row -1 where the search found too few.
        """
        first = self._shards[0]
        if self._nprobe:
            near, cells = self._cells.search(queries, self._nprobe)
            for lists in self._lists:
                lists.check(cells)
            found = [shard.search_preassigned(queries, count, cells, near) for shard in self._shards]
        elif self._hnsw:
            found = [first.search(queries, count, params=self._hnsw_parameters(count))]
        else:
            found = [first.search(queries, count)]
        if len(found) == 1:
            scores, rows = found[0]
            return scores, rows
        scores, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
        # A missing row has the lowest score.
        best = (-scores).argsort(axis=1, kind="stable")[:, :count]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)

    def _read(self, file: CheckedFile, flag: int) -> Any:
        try:
            return self._faiss.read_index(str(file.path), flag)
        except (RuntimeError, MemoryError) as error:  # of C++
            file.refuse(f"faiss cannot read it: {str(error).strip().splitlines()[-1:]}")

    def _hnsw_parameters(self, count: int) -> Any:
        return self._faiss.SearchParametersHNSW(efSearch=max(self._ef, count))


def cells_for(rows: int, nlist: int | None) -> int:
    """The number of cells of an ivf index: `nlist`, or the power of two nearest to 4 √rows, as far as they can be trained."""
    cells = nlist or 2 ** round(math.log2(4 * math.sqrt(rows)))
    return max(1, min(cells, rows // _LEAST_PER_CELL))


def faiss_bytes(kind: str, rows: int, dimension: int, nlist: int | None) -> tuple[int, int]:
    """Bytes on disk, and bytes in memory while building."""
    if kind == "flat":
        return 4 * rows * dimension, 4 * rows * dimension
    if kind == "hnsw":
        size = rows * (dimension + 8 * _LINKS + 16)
        return size, size
    cells = cells_for(rows, nlist)
    shards = -(-rows * (dimension + 8) // SHARD_BYTES)
    training = 4 * dimension * cells * _PER_CELL * 3 // 2  # the sample, and a copy of a part of it
    disk = rows * (dimension + 8) + (shards + 1) * 4 * dimension * cells
    # The lists of a file double in size when they are full.
    return disk, max(training, 2 * min(disk, SHARD_BYTES)) + 4 * _CHUNK * dimension


def build_faiss_files(
    kind: str, vectors: Vectors, directory: Path, nlist: int | None, progress: Progress
) -> None:
    """Write the index of some vectors, continuing after the files that a killed build finished.

    Args:
        kind: "flat", "ivf" or "hnsw".
        vectors: the vectors.
        directory: where the files are written.
        nlist: cells of an ivf index; None for a number that suits the rows.
        progress: called during the build.
    """
    if kind == "ivf":
        _build_ivf(vectors, directory, nlist, progress)
        return
    file = directory / "index-00000.faiss"
    if file.exists():
        return
    faiss = load_faiss()
    if kind == "flat":
        index = faiss.IndexFlatIP(vectors.dimension)
    else:
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexHNSWSQ(vectors.dimension, eight_bits, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors.read(_sample(vectors.count, min(vectors.count, 100_000))))
    for rows in _chunks(0, vectors.count):
        index.add(vectors.read(rows))
        progress("index", int(rows[-1]) + 1, vectors.count)
    _write(index, file)


def _build_ivf(vectors: Vectors, directory: Path, nlist: int | None, progress: Progress) -> None:
    """Train the cells on a sample, then fill one file after the other."""
    faiss = load_faiss()
    trained = directory / _TRAINED
    step = max(1, SHARD_BYTES // (vectors.dimension + 8))
    files = {
        directory / f"index-{number:05}.faiss": start
        for number, start in enumerate(range(0, vectors.count, step))
    }
    if not all(file.exists() for file in files) and not trained.exists():
        _write(_trained(vectors, cells_for(vectors.count, nlist), progress), trained)
    for file, start in files.items():
        if not file.exists():
            index = faiss.read_index(str(trained))
            for rows in _chunks(start, min(start + step, vectors.count)):
                index.add_with_ids(vectors.read(rows), rows)
                progress("index", int(rows[-1]) + 1, vectors.count)
            _write(index, file)
    trained.unlink(missing_ok=True)


def _trained(vectors: Vectors, cells: int, progress: Progress) -> Any:
    """An empty ivf index, trained on a sample."""
    faiss = load_faiss()
    sample = vectors.read(_sample(vectors.count, min(vectors.count, cells * _PER_CELL)))
    index = faiss.IndexIVFScalarQuantizer(
        _cells(sample, cells, progress),
        vectors.dimension,
        cells,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.train(sample[:: max(1, len(sample) // _FOR_RANGES)])  # the cells need no training
    return index


def _cells(sample: NDArray[np.float32], cells: int, progress: Progress) -> Any:
    """A faiss index of the cells' centres."""
    progress("train", 0, cells)
    if cells < _HIERARCHICAL_FROM:
        return _quantizer(_centres(sample, cells))
    parts = _nearest(sample, _quantizer(_centres(sample, round(math.sqrt(cells)))))
    members = [(parts == number).nonzero()[0] for number in range(parts.max() + 1)]
    # Cells in proportion to the vectors. The running total is rounded, so that the numbers add up.
    ends = np.round(np.cumsum([len(part) for part in members]) * (cells / len(sample))).astype(np.int64)
    centres: list[NDArray[np.float32]] = []
    for part, end in zip(members, ends.tolist(), strict=True):
        if end > len(centres):
            centres.extend(_centres(sample[part], end - len(centres)))
            progress("train", end, cells)
    found = np.stack(centres)
    cell = _nearest(sample, _quantizer(found))
    for number, part in enumerate(np.split(cell.argsort(kind="stable"), np.bincount(cell).cumsum()[:-1])):
        if len(part):
            found[number] = sample[part].mean(axis=0)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return _quantizer(found)


def _quantizer(centres: NDArray[np.float32]) -> Any:
    faiss = load_faiss()
    count, dimension = centres.shape
    if count < _GRAPH_FROM:
        quantizer = faiss.IndexFlatIP(dimension)
        quantizer.add(centres)
        return quantizer
    quantizer = faiss.IndexHNSWFlat(dimension, _LINKS, faiss.METRIC_INNER_PRODUCT)
    quantizer.hnsw.efSearch = _CELL_EF
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with more threads the graph would differ from build to build
    quantizer.add(centres)
    faiss.omp_set_num_threads(threads)
    return quantizer


def _nearest(vectors: NDArray[np.float32], quantizer: Any) -> NDArray[np.int64]:
    found: NDArray[np.int64] = quantizer.search(vectors, 1)[1][:, 0]
    return found


def _centres(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The centres of spherical k-means with ten rounds; deterministic."""
    clustering = load_faiss().Kmeans(
        vectors.shape[1], count, niter=10, spherical=True, seed=0, min_points_per_centroid=1
    )
    clustering.train(vectors)
    found: NDArray[np.float32] = clustering.centroids
    return found


def _chunks(start: int, end: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(first, min(first + _CHUNK, end)) for first in range(start, end, _CHUNK))


def _sample(count: int, size: int) -> NDArray[np.int64]:
    """Uniformly sampled rows, ascending; deterministic."""
    chosen: NDArray[np.int64] = np.random.default_rng(0).choice(count, size, replace=False)
    return np.sort(chosen)


def _write(index: Any, file: Path) -> None:
    """Write a faiss index in one step."""
    with replacing(file, alone=True) as temporary:
        load_faiss().write_index(index, str(temporary))
