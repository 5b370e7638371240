"""The search of `index.py`, compiled by numba: MaxScore (Turtle & Flood 1995) over windows of passages.

Terms are processed by falling bound, the largest gain of any passage. Once k passages are found, the worst of them sets
a threshold: if the bounds of the last terms add up to less, a passage with none of the other terms cannot be among the
best. The gains of those other, essential terms are summed window by window; the rest are added one term after the
other, only for passages that can still exceed the threshold. So most of the long postings of frequent words are not
read.

Every score is the sum over the terms in the same order and in double precision, as `index.py` computes it with numpy:
both give the same bits.

Importing this module compiles it, or loads it from numba's cache; see `loader.py`.
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
_SCAN = 16  # postings read in the time of looking up one passage among them (measured)
# Bounds are sums, rounded in another order than scores: a rounding error must not prune a passage.
_SLACK = 1.0 + 1e-12
_END = np.int64(1) << 40  # beyond every position


def _array(dtype: Any, ndim: int = 1) -> Any:
    return types.Array(dtype, ndim, "C", readonly=True)


def _compile(signature: Any) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        try:
            compiled: F = njit(signature, cache=True, nogil=True)(function)
        except RuntimeError:  # no directory for the cache can be written
            compiled = njit(signature, nogil=True)(function)
        return compiled

    return decorate


@_compile(types.boolean(types.float64, types.int32, types.float64, types.int32))
def _worse(score: float, passage: Number, other_score: float, other: Number) -> bool:
    """Whether a hit comes after another: by falling score, then by position."""
    return bool(score < other_score or (score == other_score and passage > other))


@_compile(types.void(types.int32[::1], types.float64[::1], types.int64))
def _sift_down(found: NDArray[np.int32], scores: NDArray[np.float64], size: int) -> None:
    """Move the root of a heap down to its place; the root should be the worst hit."""
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
    """The index of the first of positions[low:high] that is not before `passage`; fast if it is near `low`."""
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
        positions: passages of all postings, int32, as `build_table` writes them.
        counts: how often the term occurs in each of these, uint8.
        lengths: the length code of every passage, uint8.
        parts: the part of the score by count and length, as `parts_table` computes it, float64.
        postings: int64 [terms, 2], by falling bound: where the postings of each term of the query begin and end.
            Overwritten.
        weights: float64 [terms, 3]: the idf of each term, how often it occurs in the query, and its bound.
        found: int32 [k]; receives the positions of the hits, best first.
        scores: float64 [k]; receives their scores.

    Returns:
        The number of hits; -1 if postings are out of order or of passages that do not exist. Nothing beyond the arrays
        is read or written then.
    """
    terms, k, size = len(postings), len(found), 0
    reach = np.zeros(terms + 1)  # the most that the terms from the i-th on can add
    for i in range(terms - 1, -1, -1):
        reach[i] = reach[i + 1] + weights[i, 2] * _SLACK
    sums = np.zeros(_WINDOW)
    touched = np.empty(_WINDOW, np.int32)
    essential = terms
    passages = np.int64(len(lengths))
    low = np.int64(0)  # no posting is left before this passage, unless they are out of order
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
        if start < low or start >= passages:
            return -1
        low = min(start + _WINDOW, passages)
        # As unsigned numbers, so that one comparison finds postings before and after the window.
        width = np.uint64(low - start)
        many = 0
        for i in range(essential):
            idf, times, j = weights[i, 0], weights[i, 1], postings[i, 0]
            while j < postings[i, 1]:
                passage = np.int64(positions[j])
                place = passage - start
                if np.uint64(place) >= width:
                    break
                if sums[place] == 0.0:  # no gain is 0
                    touched[many] = place
                    many += 1
                sums[place] += idf * parts[np.int64(counts[j]) * 256 + np.int64(lengths[passage])] * times
                j += 1
            postings[i, 0] = j
        for i in range(essential, terms + 1):
            if size == k:  # keep only passages that can still exceed the threshold
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
                    passage = np.int64(positions[j])
                    place = passage - start
                    if np.uint64(place) >= width:
                        return -1
                    if sums[place] != 0.0:
                        part = parts[np.int64(counts[j]) * 256 + np.int64(lengths[passage])]
                        sums[place] += idf * part * times
            else:
                for t in range(many):
                    passage = start + touched[t]  # within the window
                    j = _lower_bound(positions, first, end, passage)
                    if j < end and positions[j] == passage:
                        part = parts[np.int64(counts[j]) * 256 + np.int64(lengths[passage])]
                        sums[touched[t]] += idf * part * times
        for t in range(many):
            place = touched[t]
            hit, score = np.int32(start + place), sums[place]
            sums[place] = 0.0
            if size < k:
                found[size], scores[size] = hit, score
                _sift_up(found, scores, size)
                size += 1
            elif _worse(scores[0], found[0], score, hit):
                found[0], scores[0] = hit, score
                _sift_down(found, scores, size)
    for last in range(size - 1, 0, -1):  # heap sort: the worst goes last
        found[0], found[last] = found[last], found[0]
        scores[0], scores[last] = scores[last], scores[0]
        _sift_down(found, scores, last)
    return size
