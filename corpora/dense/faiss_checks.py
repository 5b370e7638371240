"""Checks of a faiss index before it is searched: faiss indexes memory with what its files contain, without a test.

Checksums find every accidental change. These checks find what passes because checksums were computed of damaged data:
no search may read or write beyond an array.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..indexing.checksums import BLOCK, CheckedFile
from .vectors import load_faiss

__all__ = ["ListBlocks", "check_before_reading", "check_index"]

_IVF = b"IwSq"  # how faiss's file of an IndexIVFScalarQuantizer begins
_IVF_HEAD = struct.Struct("<4siqqq?iQ")  # kind, dimension, rows, two unused numbers, trained, metric, cells
_GRAPH = 512  # bytes per cell of the graph that finds cells, and of the sizes of the lists; rather too many


def check_before_reading(file: CheckedFile) -> bool:
    """Compare with its checksums what faiss reads of a file when it opens it; returns whether it is an ivf index.

    Everything, except the lists of an ivf index, which are compared when they are searched.

    Raises:
        DamagedFileError: it has changed since it was written.
    """
    size = len(file.data)
    file.check(0, min(BLOCK, size))
    if size < _IVF_HEAD.size or file.data[:4] != _IVF:
        file.check(0, size)
        return False
    _, dimension, _, _, _, _, _, cells = _IVF_HEAD.unpack(file.data[: _IVF_HEAD.size])
    file.check(0, min(size, BLOCK + cells * (4 * max(0, dimension) + _GRAPH)))
    return True


def check_index(index: Any, file: CheckedFile) -> None:
    """Refuse a flat, hnsw or ivf index whose parts do not fit together.

    Args:
        index: the index that faiss read.
        file: its file.

    Raises:
        DamagedFileError: a part has another size than the others, or points beyond them.
    """
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIVF):
        quantizer = faiss.downcast_index(index.quantizer)
        _require(
            quantizer.ntotal == index.nlist == index.invlists.nlist and quantizer.d == index.d,
            "its cells do not fit its lists",
            file,
        )
        _require(
            index.code_size == index.invlists.code_size == index.sq.code_size,
            "its codes have several sizes",
            file,
        )
        _check_quantizer(index, file)
        check_index(quantizer, file)
    elif isinstance(index, faiss.IndexHNSW):
        storage = faiss.downcast_index(index.storage)
        _require(
            storage.ntotal == index.ntotal and storage.d == index.d,
            "its graph does not fit its vectors",
            file,
        )
        _check_graph(index.hnsw, index.ntotal, file)
        check_index(storage, file)
    else:
        _require(
            index.d > 0 and index.codes.size() == index.ntotal * index.code_size,
            f"it has {index.codes.size():,} bytes of vectors for {index.ntotal:,} rows",
            file,
        )
        if isinstance(index, faiss.IndexScalarQuantizer):
            _check_quantizer(index, file)
        else:
            _require(index.code_size == 4 * index.d, "its vectors have another dimension", file)


class ListBlocks:
    """The lists of an ivf index, compared with their checksums when they are first read.

    Args:
        index: the index, its lists memory-mapped.
        file: its file.

    Raises:
        DamagedFileError: its lists do not fill the file, or what comes before them is damaged.
    """

    def __init__(self, index: Any, file: CheckedFile) -> None:
        lists = load_faiss().downcast_InvertedLists(index.invlists)
        sizes = np.array([lists.list_size(number) for number in range(lists.nlist)], np.int64)
        _require(
            bool((sizes >= 0).all()) and int(sizes.sum()) == index.ntotal, "its lists have wrong sizes", file
        )
        ends = np.cumsum(sizes * (lists.code_size + 8))
        first = len(file.data) - int(ends[-1])
        _require(
            0 < first <= len(file.data) and lists.lists.at(0).offset == first,
            "its lists do not fill the file",
            file,
        )
        self._ends = ends + first
        self._begins = self._ends - sizes * (lists.code_size + 8)
        self._file = file
        self._seen = np.zeros(lists.nlist, bool)
        file.check(0, first)

    def check(self, cells: NDArray[np.int64]) -> None:
        """Compare the lists of some cells, as far as that was not done yet.

        Raises:
            DamagedFileError: one is damaged.
        """
        new = cells[cells >= 0]
        new = new[~self._seen[new]]
        for cell in set(new.tolist()):
            self._file.check(int(self._begins[cell]), int(self._ends[cell]))
            self._seen[cell] = True


def _check_quantizer(index: Any, file: CheckedFile) -> None:
    quantizer, ranges = index.sq, load_faiss().vector_to_array(index.sq.trained)
    _require(quantizer.qtype == load_faiss().ScalarQuantizer.QT_8bit, "its codes are of another kind", file)
    _require(
        quantizer.d == quantizer.code_size == index.code_size == index.d,
        "its codes have another dimension",
        file,
    )
    _require(
        len(ranges) == 2 * index.d and bool(np.isfinite(ranges).all()),
        f"its codes have no range for each of {index.d} components",
        file,
    )


def _check_graph(graph: Any, count: int, file: CheckedFile) -> None:
    faiss = load_faiss()
    levels = faiss.vector_to_array(graph.levels).astype(np.int64)
    sizes = faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64)
    offsets = faiss.vector_to_array(graph.offsets).astype(np.int64)
    links = _view(graph.neighbors, np.int32)
    about = "its graph is damaged"
    _require(
        len(levels) == count and len(offsets) == count + 1 and len(sizes) > 1 and sizes[0] == 0, about, file
    )
    _require(bool((np.diff(sizes) >= 0).all()), about, file)
    if not count:
        return
    _require(int(levels.min()) >= 1 and int(levels.max()) < len(sizes), about, file)
    _require(offsets[0] == 0 and offsets[-1] == len(links), about, file)
    _require(bool((np.diff(offsets) == sizes[levels]).all()), about, file)
    _require(int(links.min(initial=0)) >= -1 and int(links.max(initial=-1)) < count, about, file)
    _require(
        0 <= graph.entry_point < count and 0 <= graph.max_level < int(levels[graph.entry_point]), about, file
    )
    for level in range(1, int(levels.max())):  # a link leads to a passage that is on the same level too
        nodes = (levels > level).nonzero()[0]
        near = links[offsets[nodes][:, None] + np.arange(sizes[level], sizes[level + 1])]
        _require(bool((levels[near[near >= 0]] > level).all()), about, file)


def _view(vector: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """A vector of C++ as an array, without a copy."""
    if vector.size() == 0:
        return np.empty(0, dtype)
    array: NDArray[Any] = load_faiss().rev_swig_ptr(vector.data(), vector.size())
    return array.view(dtype)


def _require(right: bool, reason: str, file: CheckedFile) -> None:
    if not right:
        file.refuse(reason)
