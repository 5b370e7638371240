"""Exact flat search in two passes: 8-bit products find the candidates, faiss scores these in float32.

Batches of flat searches are limited by arithmetic. Processors with VNNI instructions multiply 8-bit integers four times as fast
as 32-bit floats. Block by block, rows x are stored as 8-bit codes c with one scale s per block, a query q likewise:

    x = s c + e,   q = t d + f,   |x·q - s t (c·d)| <= |e| |q| + |s c| |f|

The integer products c·d have no rounding, so with the norms of the errors e and f this bounds every score from both sides. A row
whose upper bound is below the k-th best lower bound cannot be among the k best. The others, a few in a thousand, are
scored by faiss as it scores them in a full search: the result has the same rows and the same bits.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .threads import torch_threads

__all__ = ["AT_ONCE", "ByteScan", "Scored", "has_fast_bytes"]

AT_ONCE = 64
"""Queries per pass over the codes; their products with a block stay in the cache of a core."""

_BLOCK = 4096  # rows
_MOST_HITS = 1024  # k up to which this search is used; fewer than a block has rows
_LEAST_ROWS, _LEAST_QUERIES = 4 * _BLOCK, 2  # below it, a full search takes no longer
_SHARE = 50  # a query for which more than one row in this many is a candidate is left to a full search
_CODES = 127
_TINY = 1e-15  # scales below it could lose products to underflow
_ROUNDING = 2.0**-23  # twice the largest relative error of a float32 operation

Scored = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and the rows that have them."""


@cache
def has_fast_bytes() -> bool:
    """Whether this processor multiplies 8-bit integers faster than floats, and torch does so without overflow."""
    import torch

    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    if supported is None or not supported() or not hasattr(torch, "_int_mm"):
        return False
    # Instructions before VNNI add pairs of products in 16 bits, where these overflow.
    extremes = torch.tensor([[127] * 384, [-127] * 384, [127, -127] * 192], dtype=torch.int8)
    products = torch._int_mm(extremes, extremes.t())
    return bool(torch.equal(products.long(), extremes.long() @ extremes.t().long()))


class ByteScan:
    """Searches a flat faiss index by inner product through 8-bit codes, which the first search makes.

    The codes are held in memory: one byte per component, a quarter of the index. Threads may share it.

    Args:
        index: the index; its `compute_distance_subset` gives the scores.
        threads: threads of a pass.
    """

    def __init__(self, index: Any, threads: int) -> None:
        self._index, self._threads = index, threads
        self._lock = threading.Lock()
        self._codes: _Codes | None = None

    def search(self, queries: NDArray[np.float32], k: int) -> list[Scored | None]:
        """The k best rows of each query and all that score the same as the last of these, by row.

        Args:
            queries: float32 [at most `AT_ONCE`, dimension].
            k: rows per query, at most as many as there are.

        Returns:
            Scores and rows for each query; None for one that a full search has to answer: with many candidates it is as
            fast, and vectors that are no finite numbers have no bounds.
        """
        if k > _MOST_HITS or self._index.ntotal < _LEAST_ROWS or len(queries) < _LEAST_QUERIES:
            return [None] * len(queries)
        with self._lock:
            if self._codes is None:
                self._codes = _Codes(self._index)
        with torch_threads(self._threads):
            candidates = self._codes.candidates(queries, k)
        return [
            None if rows is None else self._score(query, rows, k)
            for query, rows in zip(queries, candidates, strict=True)
        ]

    def _score(self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Scored:
        import faiss

        query, scores = np.ascontiguousarray(query), np.empty(len(rows), np.float32)
        self._index.compute_distance_subset(
            1, faiss.swig_ptr(query), len(rows), faiss.swig_ptr(scores), faiss.swig_ptr(rows)
        )
        best = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        return scores[best], rows[best]


class _Encoded(NamedTuple):
    """Some vectors as codes with one scale, and bounds of the norms of all of them.

    Attributes:
        scale: a vector is about `scale` times its codes.
        error: norm of the difference, at most.
        norm: norm of a vector, at most.
    """

    scale: float
    error: float
    norm: float


def _encode(vectors: NDArray[np.float32], codes: NDArray[np.int8]) -> _Encoded:
    """Write the codes of some vectors; all figures are NaN if there are none."""
    dimension = vectors.shape[1]
    largest = float(np.abs(vectors).max())
    scale = np.float32(largest / _CODES) if largest else np.float32(1)
    if not _TINY < scale < np.inf:
        return _Encoded(np.nan, np.nan, np.nan)
    units = vectors / scale  # their squares neither overflow nor vanish
    np.rint(units, out=codes, casting="unsafe")
    norm = float(np.sqrt(np.einsum("ij,ij->i", units, units).max()))
    units -= codes
    error = float(np.sqrt(np.einsum("ij,ij->i", units, units).max()))
    slack = 1 + dimension * _ROUNDING  # of the sums
    # The division has rounded too, each component of at most 127 codes.
    return _Encoded(
        float(scale),
        float(scale) * (error * slack + np.sqrt(dimension) * _CODES * _ROUNDING),
        float(scale) * norm * slack,
    )


class _Codes:
    """The rows of a flat index as codes."""

    def __init__(self, index: Any) -> None:
        import faiss
        import torch

        self._rows, self._dimension = index.ntotal, index.d
        vectors = faiss.rev_swig_ptr(index.get_xb(), self._rows * self._dimension).reshape(
            -1, self._dimension
        )
        codes = np.empty(vectors.shape, np.int8)
        self._blocks = [
            (start, _encode(vectors[start : start + _BLOCK], codes[start : start + _BLOCK]))
            for start in range(0, self._rows, _BLOCK)
        ]
        self._codes = torch.from_numpy(codes)
        finite = all(np.isfinite(figures).all() for _, figures in self._blocks)
        self._usable = finite and _multiplies(self._codes[:_BLOCK])

    def candidates(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.int64] | None]:
        """The rows that can be among the k best of each query, ascending; None if there are too many or no bounds."""
        import torch

        codes = np.empty(queries.shape, np.int8)
        figures = np.array([_encode(queries[n : n + 1], codes[n : n + 1]) for n in range(len(queries))])
        scale, error, norm = figures.T
        found = _Candidates(len(queries), k, self._rows // _SHARE)
        if not self._usable:
            found.drop(np.ones(len(queries), bool))
        found.drop(~np.isfinite(norm) | (norm == 0))  # a query of zeros: every row has the same score
        wanted = torch.from_numpy(codes)
        for start, block in self._blocks:
            if not found.open.any():
                break
            products = torch._int_mm(wanted, self._codes[start : start + _BLOCK].t()).numpy()
            rounding = self._dimension * _ROUNDING * block.norm * norm  # of faiss
            bound = block.error * norm + (block.norm + block.error) * error + rounding
            found.add(products, start, block.scale * scale, bound)
        return found.rows()


def _multiplies(block: Any) -> bool:
    """Whether torch multiplies codes of this shape correctly: torch 2.13 does not if vectors have one component.

    Args:
        block: the codes of some rows.
    """
    import torch

    some, exact = block[:AT_ONCE], block.numpy().astype(np.float64)
    products = torch._int_mm(some, block.t()).numpy()
    return bool(np.array_equal(products, exact[: len(some)] @ exact.T))


class _Candidates:
    """The rows whose upper bound reaches the k-th best lower bound so far.

    Args:
        queries: number of queries.
        k: rows per query that are wanted.
        most: candidates of a query at most.

    Attributes:
        open: the queries that have not been dropped.
    """

    def __init__(self, queries: int, k: int, most: int) -> None:
        self.open = np.ones(queries, bool)
        self._k, self._most = k, most
        self._lowest = np.full(queries, -np.inf)  # the k-th best lower bound
        self._best = np.full((queries, k), -np.inf)  # the k best ones, in no order
        self._count = np.zeros(queries, np.int64)
        self._found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []

    def drop(self, queries: NDArray[np.bool_]) -> None:
        """Find no more rows for some queries."""
        self.open &= ~queries

    def add(
        self, products: NDArray[np.int32], start: int, unit: NDArray[np.float64], bound: NDArray[np.float64]
    ) -> None:
        """Look through a block.

        Args:
            products: of codes, [queries, rows].
            start: its first row.
            unit: score of one product, by query.
            bound: by how much a score differs from its product at most, by query.
        """
        lowest = self._lowest
        if not start:  # nothing is known yet
            place = products.shape[1] - self._k
            kth = np.partition(products, place)[:, place]
            lowest = kth * unit - bound
        with np.errstate(invalid="ignore", over="ignore"):
            least = np.floor((lowest - bound) / unit) - 1
        least = np.where(self.open, np.clip(least, -(2**31), 2**31 - 1), 2**31 - 1).astype(np.int32)
        places = np.flatnonzero(products >= least[:, None])
        if not len(places):
            return
        queries, rows = np.divmod(places, products.shape[1])
        scores = products.ravel()[places] * unit[queries]
        self._found.append((queries, rows + start, scores + bound[queries]))
        self._count += np.bincount(queries, minlength=len(unit))
        self.drop(self._count > self._most)
        low = scores - bound[queries]
        better = low > self._lowest[queries]
        for query in np.unique(queries[better]).tolist():
            some = np.concatenate([self._best[query], low[better & (queries == query)]])
            self._best[query] = np.partition(some, len(some) - self._k)[-self._k :]
            self._lowest[query] = self._best[query].min()

    def rows(self) -> list[NDArray[np.int64] | None]:
        """The candidates of each query, ascending; None for one that was dropped."""
        if not self._found:
            return [None] * len(self.open)
        queries, rows, upper = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        kept = (upper >= self._lowest[queries]).nonzero()[0]
        kept = kept[queries[kept].argsort(kind="stable")]
        ends = np.bincount(queries[kept], minlength=len(self.open)).cumsum()
        parts = np.split(rows[kept], ends[:-1])
        return [part if wanted else None for part, wanted in zip(parts, self.open.tolist(), strict=True)]
