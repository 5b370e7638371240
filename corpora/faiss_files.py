"""The faiss file of a dense index: made with bounded memory, resumable, and opened memory-mapped."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .indexes import Progress
from .vectors import Vectors, load_faiss

__all__ = [
    "INDEX",
    "build_index_file",
    "cells_for",
    "index_bytes",
    "load_faiss",
    "open_index_file",
    "remove_parts",
]

INDEX = "index.faiss"
LISTS = "lists.ivf"
TRAINED = "trained.faiss"

_SHARD = 1_000_000  # rows of an ivf index held in memory at a time
_CHUNK = 16_384  # rows read at a time
_PER_CELL = 64  # training vectors a cell; faiss asks for 39 at least and takes 256 at most
_LEAST_PER_CELL = 39
_LINKS = 32  # of each node in an hnsw graph; twice as many on its lowest level


def cells_for(rows: int, nlist: int | None) -> int:
    """Cells of an ivf index: the nearest power of two to 4 √rows, or what was asked for; never too many to train."""
    cells = nlist or 2 ** round(math.log2(4 * math.sqrt(rows)))
    return max(1, min(cells, rows // _LEAST_PER_CELL))


def index_bytes(kind: str, rows: int, dimension: int, nlist: int | None) -> tuple[int, int]:
    """Bytes on disk (with what lies beside it while building) and in memory while building."""
    if kind == "flat":
        return 4 * rows * dimension, 4 * rows * dimension
    if kind == "hnsw":
        size = rows * (dimension + 8 * _LINKS + 16)
        return size, size
    cells = cells_for(rows, nlist)
    lists = rows * (dimension + 8)
    training = 4 * dimension * cells * (_PER_CELL + 1)
    # Every row lies in a shard and in the merged lists until the shards are removed.
    return 2 * lists + 8 * dimension * cells, max(2 * training, min(rows, _SHARD) * (dimension + 8))


def build_index_file(
    kind: str, vectors: Vectors, directory: Path, nlist: int | None, progress: Progress
) -> None:
    """Write the index of some vectors; goes on from the shards that a killed build left."""
    if kind == "ivf":
        _build_ivf(vectors, directory, nlist, progress)
        return
    faiss = load_faiss()

    if kind == "flat":
        index = faiss.IndexFlatIP(vectors.dimension)
    else:
        index = faiss.IndexHNSWSQ(
            vectors.dimension, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors.read(_sample(vectors.count, min(vectors.count, 100_000))))
    for rows in _chunks(0, vectors.count):
        index.add(vectors.read(rows))
        progress("index", int(rows[-1]) + 1, vectors.count)
    _write(index, directory / INDEX)


def open_index_file(directory: Path, nprobe: int) -> Any:
    """Open what `build_index_file` wrote; vectors are mapped, not read."""
    faiss = load_faiss()

    if (directory / LISTS).exists():
        index = faiss.read_index(
            str(directory / INDEX), faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_ONDISK_SAME_DIR
        )
        index.nprobe = min(nprobe, index.nlist)
        # It would start threads for every search, to read ahead what is mapped and mostly in memory.
        faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
        return index
    return faiss.read_index(str(directory / INDEX), faiss.IO_FLAG_MMAP_IFC)


def _build_ivf(vectors: Vectors, directory: Path, nlist: int | None, progress: Progress) -> None:
    """Train the cells on a sample, fill shards of a million rows, and merge their lists on disk."""
    faiss = load_faiss()
    ondisk = importlib.import_module("faiss.contrib.ondisk")

    trained = directory / TRAINED
    if not trained.exists():
        cells = cells_for(vectors.count, nlist)
        index = faiss.index_factory(vectors.dimension, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        progress("train", 0, 1)
        index.train(vectors.read(_sample(vectors.count, min(vectors.count, cells * _PER_CELL))))
        progress("train", 1, 1)
        _write(index, trained)
    shards = []
    for number, start in enumerate(range(0, vectors.count, _SHARD)):
        shard = directory / f"shard-{number:05}.faiss"
        shards.append(shard)
        if not shard.exists():
            index = faiss.read_index(str(trained))
            for rows in _chunks(start, min(start + _SHARD, vectors.count)):
                index.add_with_ids(vectors.read(rows), rows)
                progress("index", int(rows[-1]) + 1, vectors.count)
            _write(index, shard)
    index = faiss.read_index(str(trained))
    (directory / LISTS).unlink(missing_ok=True)  # a killed merge is done again
    progress("merge", 0, 1)
    ondisk.merge_ondisk(index, [str(shard) for shard in shards], str(directory / LISTS))
    progress("merge", 1, 1)
    _write(index, directory / INDEX)


def remove_parts(directory: Path) -> None:
    """Remove what an ivf index was made from, when it is finished."""
    for file in (directory / TRAINED, *directory.glob("shard-*.faiss")):
        file.unlink(missing_ok=True)


def _chunks(start: int, end: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(first, min(first + _CHUNK, end)) for first in range(start, end, _CHUNK))


def _sample(count: int, size: int) -> NDArray[np.int64]:
    """Evenly drawn rows, in order; always the same ones."""
    chosen: NDArray[np.int64] = np.random.default_rng(0).choice(count, size, replace=False)
    return np.sort(chosen)


def _write(index: Any, file: Path) -> None:
    """Write a faiss index so that the file is complete or absent."""
    faiss = load_faiss()

    temporary = file.with_suffix(".tmp")
    faiss.write_index(index, str(temporary))
    os.replace(temporary, file)
