"""The search of `bm25.py`, compiled by numba: MaxScore (Turtle & Flood 1995) over windows of passages.

Terms are taken by falling bound, the most that any passage can gain by them. Once k passages are found, the
worst of them sets a threshold: when the bounds of the last terms together stay below it, a passage that has none
of the other terms cannot be among the best. The others, the essential terms, are added up window by window; the
rest are added one after the other, only to passages that can still get over the threshold. Long postings of
frequent words are thus hardly read.

Every score is the sum over the terms in the same order, in double precision, as `bm25.py` sums it with numpy: the
two give the same bits.

Importing this module compiles it, or reads what was compiled from numba's cache: see `bm25_loader.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

__all__ = ["search"]

F = TypeVar("F", bound=Callable[..., Any])
Number = int | np.integer[Any]

_WINDOW = 1 << 14  # passages; their scores (128 kB) stay in the cache of the core
_SCAN = 16  # so many postings are read in the time of looking one passage up among them (measured)
# Bounds are sums too, rounded in another order than scores: never prune by a rounding error.
_SLACK = 1.0 + 1e-12
_END = np.int64(1) << 40  # beyond every position


def _array(dtype: Any, ndim: int = 1) -> Any:
    return types.Array(dtype, ndim, "C", readonly=True)


def _compile(signature: Any) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        try:
            compiled: F = njit(signature, cache=True, nogil=True)(function)
        except RuntimeError:  # there is no place to cache in
            compiled = njit(signature, nogil=True)(function)
        return compiled

    return decorate


@_compile(types.boolean(types.float64, types.int32, types.float64, types.int32))
def _worse(score: float, passage: Number, other_score: float, other: Number) -> bool:
    """Whether a hit comes after another: by falling score, then by position."""
    return bool(score < other_score or (score == other_score and passage > other))


@_compile(types.void(types.int32[::1], types.float64[::1], types.int64))
def _sift_down(found: NDArray[np.int32], scores: NDArray[np.float64], size: int) -> None:
    """Let the root of a heap, whose root should be the worst hit, sink to its place."""
    passage, score, hole = found[0], scores[0], 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], found[child + 1], scores[child], found[child]):
            child += 1
        if not _worse(scores[child], found[child], score, passage):
            break
        found[hole], scores[hole] = found[child], scores[child]
        hole = child
    found[hole], scores[hole] = passage, score


@_compile(types.void(types.int32[::1], types.float64[::1], types.int64))
def _sift_up(found: NDArray[np.int32], scores: NDArray[np.float64], hole: int) -> None:
    passage, score = found[hole], scores[hole]
    while hole > 0:
        parent = (hole - 1) // 2
        if not _worse(score, passage, scores[parent], found[parent]):
            break
        found[hole], scores[hole] = found[parent], scores[parent]
        hole = parent
    found[hole], scores[hole] = passage, score


@_compile(types.int64(_array(types.int32), types.int64, types.int64, types.int64))
def _lower_bound(positions: NDArray[np.int32], low: int, high: int, passage: Number) -> int:
    """The first of positions[low:high] that is not before `passage`; soon, where it is near `low`."""
    step = 1
    while low + step < high and positions[low + step] < passage:
        low += step
        step *= 2
    high = min(high, low + step + 1)
    while low < high:
        middle = (low + high) // 2
        if positions[middle] < passage:
            low = middle + 1
        else:
            high = middle
    return low


@_compile(
    types.int64(
        _array(types.int32),
        _array(types.uint8),
        _array(types.uint8),
        _array(types.float64),
        types.int64[:, ::1],
        types.float64[:, ::1],
        types.int32[::1],
        types.float64[::1],
    )
)
def search(
    positions: NDArray[np.int32],
    counts: NDArray[np.uint8],
    lengths: NDArray[np.uint8],
    parts: NDArray[np.float64],
    postings: NDArray[np.int64],
    weights: NDArray[np.float64],
    found: NDArray[np.int32],
    scores: NDArray[np.float64],
) -> int:
    """The best passages for a query.

    Args:
        positions, counts, lengths, parts: the table, as `bm25_build.build_table` writes it.
        postings: one row per term of the query, by falling bound: where its postings begin and end. Overwritten.
        weights: one row per term: its idf, how often the query has it, and its bound.
        found: takes the positions of the hits, best first; as many as it is long.
        scores: takes their scores.

    Returns:
        How many hits there are.
    """
    terms, k, size = len(postings), len(found), 0
    reach = np.zeros(terms + 1)  # what the terms from the i-th on can add at most
    for i in range(terms - 1, -1, -1):
        reach[i] = reach[i + 1] + weights[i, 2] * _SLACK
    sums = np.zeros(_WINDOW)
    touched = np.empty(_WINDOW, np.int32)
    essential = terms
    while True:
        while size == k and essential > 0 and reach[essential - 1] < scores[0]:
            essential -= 1
        # The window begins with the first passage that has an essential term.
        start = _END
        for i in range(essential):
            if postings[i, 0] < postings[i, 1]:
                start = min(start, np.int64(positions[postings[i, 0]]))
        if start == _END:
            break
        many = 0
        for i in range(essential):
            idf, times, j = weights[i, 0], weights[i, 1], postings[i, 0]
            while j < postings[i, 1] and positions[j] < start + _WINDOW:
                passage = positions[j]
                place = passage - start
                if sums[place] == 0.0:  # no gain is 0
                    touched[many] = place
                    many += 1
                sums[place] += idf * parts[np.int64(counts[j]) * 256 + np.int64(lengths[passage])] * times
                j += 1
            postings[i, 0] = j
        for i in range(essential, terms + 1):
            if size == k:  # only those that can still get over the threshold
                kept = 0
                for t in range(many):
                    place = touched[t]
                    if sums[place] * _SLACK + reach[i] < scores[0]:
                        sums[place] = 0.0
                    else:
                        touched[kept] = place
                        kept += 1
                many = kept
            if i == terms or many == 0:
                break
            idf, times = weights[i, 0], weights[i, 1]
            first = _lower_bound(positions, postings[i, 0], postings[i, 1], start)
            end = _lower_bound(positions, first, postings[i, 1], start + _WINDOW)
            postings[i, 0] = end
            if end - first < _SCAN * many:
                for j in range(first, end):
                    passage = positions[j]
                    place = passage - start
                    if sums[place] != 0.0:
                        part = parts[np.int64(counts[j]) * 256 + np.int64(lengths[passage])]
                        sums[place] += idf * part * times
            else:
                for t in range(many):
                    passage = start + touched[t]
                    j = _lower_bound(positions, first, end, passage)
                    if j < end and positions[j] == passage:
                        part = parts[np.int64(counts[j]) * 256 + np.int64(lengths[passage])]
                        sums[touched[t]] += idf * part * times
        for t in range(many):
            place = touched[t]
            passage, score = np.int32(start + place), sums[place]
            sums[place] = 0.0
            if size < k:
                found[size], scores[size] = passage, score
                _sift_up(found, scores, size)
                size += 1
            elif _worse(scores[0], found[0], score, passage):
                found[0], scores[0] = passage, score
                _sift_down(found, scores, size)
    for last in range(size - 1, 0, -1):  # heap sort: the worst goes last
        found[0], found[last] = found[last], found[0]
        scores[0], scores[last] = scores[last], scores[0]
        _sift_down(found, scores, last)
    return size
