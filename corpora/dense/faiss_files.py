"""The faiss files of a dense index: made with bounded memory, resumable, and searched memory-mapped.

A flat or hnsw index is one file. An ivf index is one file for every two gigabytes, all with the same cells: the
query's cells are looked up once and searched in every file.

faiss's own training compares every sampled vector with every cell in ten rounds: hours of one core for the cells of
ten million vectors. From `_PARTED_FROM` cells on, the sample is cut into a few dozen parts and each part into cells
(hierarchical k-means), and one round over all cells sets right what the cuts did to their neighbours. From
`_GRAPH_FROM` on, cells are found along a graph (HNSW). Figures in docs/dense.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..indexing.backend import Progress
from .vectors import Vectors, load_faiss

__all__ = ["FaissFiles", "build_faiss_files", "cells_for", "faiss_bytes"]

SHARD_BYTES = 2 * 10**9
"""Size of a file of an ivf index, which is held in memory while it is filled."""

_TRAINED = "trained.faiss"
_CHUNK = 16_384  # rows read at a time
_PER_CELL = 64  # training vectors a cell; faiss asks for 39 at least and takes 256 at most
_LEAST_PER_CELL = 39
_PARTED_FROM = 512
_GRAPH_FROM = 8192
_CELL_EF = 64  # candidates kept when the cell of a vector is looked for
_FOR_RANGES = 100_000  # vectors that the ranges of the eight bits are taken from
_LINKS = 32  # of each node in an hnsw graph; twice as many on its lowest level


class FaissFiles:
    """The index in a directory, mapped, not read.

    Args:
        directory: what `build_faiss_files` filled.
        nprobe: cells that an ivf index looks into.
        ef_search: candidates that an hnsw index keeps.

    Attributes:
        dimension: numbers in a vector.
    """

    def __init__(self, directory: Path, nprobe: int, ef_search: int) -> None:
        self._faiss = load_faiss()
        self._ef = ef_search
        self._shards = []
        for file in sorted(directory.glob("index-*.faiss")):
            # Each flag maps what the other reads into memory: the lists of ivf, the vectors of flat and hnsw.
            index = self._faiss.read_index(str(file), self._faiss.IO_FLAG_MMAP_IFC)
            if isinstance(index, self._faiss.IndexIVF):
                index = self._faiss.read_index(str(file), self._faiss.IO_FLAG_MMAP)
                # It would start threads for every search, to read ahead what is mapped and mostly in memory.
                self._faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
                index.nprobe = min(nprobe, index.nlist)
            self._shards.append(index)
        first = self._shards[0]
        self.dimension: int = first.d
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
            queries: [queries, dimension], so few that faiss scores them one by one (16).
            count: rows for each.

        Returns:
            Scores and rows, [queries, count], best first; row -1 where there is none.
        """
        first = self._shards[0]
        if self._nprobe:
            near, cells = self._cells.search(queries, self._nprobe)
            found = [shard.search_preassigned(queries, count, cells, near) for shard in self._shards]
        elif self._hnsw:
            found = [first.search(queries, count, params=self._hnsw_parameters(count))]
        else:
            found = [first.search(queries, count)]
        if len(found) == 1:
            scores, rows = found[0]
            return scores, rows
        scores, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
        best = (-scores).argsort(axis=1, kind="stable")[
            :, :count
        ]  # where there is no row the score is the least
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)

    def _hnsw_parameters(self, count: int) -> Any:
        return self._faiss.SearchParametersHNSW(efSearch=max(self._ef, count))


def cells_for(rows: int, nlist: int | None) -> int:
    """Cells of an ivf index: the nearest power of two to 4 √rows, or what was asked for; never too many to train."""
    cells = nlist or 2 ** round(math.log2(4 * math.sqrt(rows)))
    return max(1, min(cells, rows // _LEAST_PER_CELL))


def faiss_bytes(kind: str, rows: int, dimension: int, nlist: int | None) -> tuple[int, int]:
    """Bytes on disk, and in memory while building."""
    if kind == "flat":
        return 4 * rows * dimension, 4 * rows * dimension
    if kind == "hnsw":
        size = rows * (dimension + 8 * _LINKS + 16)
        return size, size
    cells = cells_for(rows, nlist)
    shards = -(-rows * (dimension + 8) // SHARD_BYTES)
    training = 4 * dimension * cells * _PER_CELL * 3 // 2  # the sample, and a part of it once more
    disk = rows * (dimension + 8) + (shards + 1) * 4 * dimension * cells
    # The lists of a file grow by doubling.
    return disk, max(training, 2 * min(disk, SHARD_BYTES)) + 4 * _CHUNK * dimension


def build_faiss_files(
    kind: str, vectors: Vectors, directory: Path, nlist: int | None, progress: Progress
) -> None:
    """Write the index of some vectors; goes on from the files that a killed build finished."""
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
    """An empty ivf index; the sample it was trained on is let go of."""
    faiss = load_faiss()
    sample = vectors.read(_sample(vectors.count, min(vectors.count, cells * _PER_CELL)))
    index = faiss.IndexIVFScalarQuantizer(
        _cells(sample, cells, progress),
        vectors.dimension,
        cells,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.train(sample[:: max(1, len(sample) // _FOR_RANGES)])  # of the cells there is nothing to train
    return index


def _cells(sample: NDArray[np.float32], cells: int, progress: Progress) -> Any:
    """A faiss index of the cells' centres."""
    progress("train", 0, cells)
    if cells < _PARTED_FROM:
        return _quantizer(_centres(sample, cells))
    parts = _nearest(sample, _quantizer(_centres(sample, round(math.sqrt(cells)))))
    members = [(parts == number).nonzero()[0] for number in range(parts.max() + 1)]
    # Cells in proportion to the vectors; the running total is rounded, so that the numbers add up.
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
    faiss.omp_set_num_threads(1)  # with more the graph would be another one every time
    quantizer.add(centres)
    faiss.omp_set_num_threads(threads)
    return quantizer


def _nearest(vectors: NDArray[np.float32], quantizer: Any) -> NDArray[np.int64]:
    found: NDArray[np.int64] = quantizer.search(vectors, 1)[1][:, 0]
    return found


def _centres(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Spherical k-means, ten rounds; always the same."""
    clustering = load_faiss().Kmeans(
        vectors.shape[1], count, niter=10, spherical=True, seed=0, min_points_per_centroid=1
    )
    clustering.train(vectors)
    found: NDArray[np.float32] = clustering.centroids
    return found


def _chunks(start: int, end: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(first, min(first + _CHUNK, end)) for first in range(start, end, _CHUNK))


def _sample(count: int, size: int) -> NDArray[np.int64]:
    """Evenly drawn rows, in order; always the same ones."""
    chosen: NDArray[np.int64] = np.random.default_rng(0).choice(count, size, replace=False)
    return np.sort(chosen)


def _write(index: Any, file: Path) -> None:
    """Write a faiss index so that the file is complete or absent."""
    temporary = file.with_suffix(".tmp")
    load_faiss().write_index(index, str(temporary))
    os.replace(temporary, file)
