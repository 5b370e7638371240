"""The search of `index.py`, compiled by numba: MaxScore over impact layers and windows of passages.

Every list of postings (`layout`) has a bound: the gain of its best posting. For a window of passages, the lists with the
smallest bounds are set aside as long as a passage with the best of them for every term scores less than the k-th best
passage so far (MaxScore, Turtle & Flood 1995; a list without postings in the window has the bound 0, which is what
block-max indexes know of a block: Ding & Suel 2011). The gains of the other, essential lists are summed passage by passage. Then
those that were set aside are added, the largest bound first, only for passages that can still reach the threshold. Most
of the postings of frequent words are never read.

These sums are whole numbers: bounds of gains, rounded up. Passages whose sum reaches the threshold get their score: the sum
over the terms in the same order and in double precision as `index.py` computes it with numpy. Both give the same bits.

Nothing beyond the arrays is read or written, whatever the postings contain: places within a window come from where a
chunk is, and the order of postings is compared whenever they are read.

Importing this module compiles it, or loads it from numba's cache; see `loader.py`. It is one file because the cache of a
function is dropped when its own file changes, and not when that of a function it calls does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

__all__ = ["search"]

F = TypeVar("F", bound=Callable[..., Any])
Number = Any  # of Python or of numpy: mypy and numba derive different types

_WINDOW = 1 << 15  # passages; what is noted of them stays in the cache of the core
_FIRST = (
    1 << 12
)  # the first window, which is read without a threshold; windows begin with a chunk of offsets of 12 bits
_SCAN = 16  # postings read in the time of looking up one passage among them
_SUM = 60_000.0  # the largest sum of bounds; with one more for each of 3 * 1,024 lists, it fits into 16 bits
# Bounds must not lose against scores, whose terms are rounded in another order.
_SLACK = 1.0 + 1e-12
_FORM, _SIZE, _START, _MOST, _BEST = range(5)


def _array(dtype: Any, ndim: int = 1) -> Any:
    return types.Array(dtype, ndim, "C", readonly=True)


_pair = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]


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


@_compile(types.int64(_array(types.uint8), types.int64))
def _number(data: NDArray[np.uint8], at: Number) -> Number:
    """The 32-bit number at a byte."""
    return (
        np.int64(data[at])
        | np.int64(data[at + 1]) << 8
        | np.int64(data[at + 2]) << 16
        | np.int64(data[at + 3]) << 24
    )


@_compile(types.int64(_array(types.uint8), types.int64, types.int64, types.int64))
def _offset(data: NDArray[np.uint8], form: Number, at: Number, j: Number) -> Number:
    """Offset j of a list whose offsets begin at a byte."""
    if form == 12:
        at += (3 * j) >> 1
        return (np.int64(data[at]) | np.int64(data[at + 1]) << 8) >> ((j & 1) << 2) & 0xFFF
    if form == 16:
        return np.int64(data[at + 2 * j]) | np.int64(data[at + 2 * j + 1]) << 8
    at += 3 * j
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16


@_compile(_pair(_array(types.uint8), _array(types.int64), types.int64, types.int64, types.int64))
def _span(
    data: NDArray[np.uint8], list_: NDArray[np.int64], passages: Number, first: Number, last: Number
) -> tuple[Number, Number]:
    """Which postings of a list lie in the chunks `first` to `last`; (1, 0) if its directory is impossible."""
    low: Number = np.int64(0)
    high: Number = list_[_SIZE]
    if first > 0:
        low = _number(data, list_[_START] + 4 * (first - 1))
    if last < (passages - 1) >> list_[_FORM]:
        high = _number(data, list_[_START] + 4 * last)
    if not 0 <= low <= high <= list_[_SIZE]:
        return np.int64(1), np.int64(0)
    return low, high


@_compile(
    types.int64(
        _array(types.uint8), _array(types.int64), types.int64, types.int64, types.int64, types.uint16[::1]
    )
)
def _read(
    data: NDArray[np.uint8],
    list_: NDArray[np.int64],
    passages: Number,
    start: Number,
    width: Number,
    places: NDArray[np.uint16],
) -> Number:
    """The postings of a list, a bitmap or one with offsets of 12 bits, in a window, as places within it.

    A window begins with a chunk, and ends with one or with the last passage.

    Returns:
        Their number, at most `width`; -1 if they are impossible. All places are in the window.
    """
    many: Number = np.int64(0)
    at: Number = list_[_START]
    if list_[_FORM] == 1:
        at += start >> 3
        for place in range(0, width, 8):
            bits = np.int64(data[at + (place >> 3)])
            for bit in range(8):
                places[many] = place + bit
                many += bits >> bit & 1
        return many if many == 0 or places[many - 1] < width else -1
    at += 4 * ((passages - 1) >> 12)
    for chunk in range(start >> 12, ((start + width - 1) >> 12) + 1):
        j, high = _span(data, list_, passages, chunk, chunk)
        if j > high or many + high - j > width:
            return -1
        base = np.uint16((chunk << 12) - start)
        if j & 1 and j < high:
            places[many] = base + np.uint16(_offset(data, 12, at, j))
            many, j = many + 1, j + 1
        byte = at + (3 * j >> 1)
        for _ in range((high - j) >> 1):  # two in three bytes
            first, middle, last = np.uint16(data[byte]), np.uint16(data[byte + 1]), np.uint16(data[byte + 2])
            places[many] = base + (first | (middle & np.uint16(15)) << np.uint16(8))
            places[many + 1] = base + (middle >> np.uint16(4) | last << np.uint16(4))
            many, byte = many + 2, byte + 3
        if (high - j) & 1:
            places[many] = base + np.uint16(_offset(data, 12, at, high - 1))
            many += 1
    if start + width == passages:
        for j in range(many):
            if places[j] >= width:
                return -1
    return many


@_compile(
    types.int64(
        types.uint16[::1],
        _array(types.uint16),
        types.int64,
        _array(types.uint8),
        _array(types.uint16),
        types.uint16[::1],
        types.int64,
    )
)
def _gather(
    sums: NDArray[np.uint16],
    places: NDArray[np.uint16],
    amount: Number,
    lengths: NDArray[np.uint8],
    gains: NDArray[np.uint16],
    touched: NDArray[np.uint16],
    many: Number,
) -> Number:
    """Add the gains of the first `amount` places to their sums; note places in `touched` that had none, and return their number."""
    for j in range(amount):
        place = places[j]
        touched[many] = place
        many += sums[place] == 0
        sums[place] += gains[lengths[place]]
    return many


@_compile(
    types.void(
        types.uint16[::1], _array(types.uint16), types.int64, _array(types.uint8), _array(types.uint16)
    )
)
def _add(
    sums: NDArray[np.uint16],
    places: NDArray[np.uint16],
    amount: Number,
    lengths: NDArray[np.uint8],
    gains: NDArray[np.uint16],
) -> None:
    """The same without noting anything."""
    for j in range(amount):
        place = places[j]
        sums[place] += gains[lengths[place]]


@_compile(types.int64(_array(types.uint16), types.uint16[::1], types.int64, types.int64))
def _keep(sums: NDArray[np.uint16], touched: NDArray[np.uint16], many: Number, least: Number) -> Number:
    """Keep only the places with a sum of at least `least`; returns how many."""
    kept: Number = np.int64(0)
    for t in range(many):
        place = touched[t]
        touched[kept] = place
        kept += np.int64(sums[place]) >= least
    return kept


@_compile(types.int64(_array(types.uint8), _array(types.int64), types.int64, types.int64))
def _find(data: NDArray[np.uint8], list_: NDArray[np.int64], passages: Number, passage: Number) -> Number:
    """The number of a passage's posting in a list; -1 if it has none."""
    form = list_[_FORM]
    if form == 1:
        return np.int64(data[list_[_START] + (passage >> 3)] >> np.uint8(passage & 7) & 1) - 1
    chunk = passage >> form
    low, end = _span(data, list_, passages, chunk, chunk)
    high = end
    offsets, wanted = list_[_START] + 4 * ((passages - 1) >> form), passage & ((1 << form) - 1)
    while low < high:
        middle = (low + high) >> 1
        if _offset(data, form, offsets, middle) < wanted:
            low = middle + 1
        else:
            high = middle
    if low < end and _offset(data, form, offsets, low) == wanted:
        return low
    return -1


@_compile(types.int64(types.uint16[::1], types.uint16[::1], types.int64, types.int64))
def _level(sums: NDArray[np.uint16], touched: NDArray[np.uint16], many: Number, k: Number) -> Number:
    """A sum that at least k of the places have, and hardly more do."""
    numbers = np.zeros(257, np.int64)
    for t in range(many):
        numbers[sums[touched[t]] >> np.uint16(8)] += 1
    level: Number = np.int64(256)
    while level > 0 and numbers[256] < k:
        level -= 1
        numbers[256] += numbers[level]
    return level << 8


@_compile(
    types.float64(
        _array(types.uint8),
        _array(types.float64),
        _array(types.int64, 2),
        _array(types.float64, 2),
        types.int64,
        types.int64,
        types.int64,
    )
)
def _score(
    data: NDArray[np.uint8],
    parts: NDArray[np.float64],
    lists: NDArray[np.int64],
    terms: NDArray[np.float64],
    passages: Number,
    passage: Number,
    length: Number,
) -> float:
    """The score of a passage whose length has this code."""
    v: Number = 0
    score = 0.0
    for i in range(len(terms)):
        end = v + np.int64(terms[i, 2])
        while v < end:
            j = _find(data, lists[v], passages, passage)
            if j >= 0:
                count = lists[v, _MOST]
                if count > 2:
                    form, size = lists[v, _FORM], lists[v, _SIZE]
                    counts = lists[v, _START] + 4 * ((passages - 1) >> form) + (size * form + 7) // 8
                    count = np.int64(data[counts + j])
                score += terms[i, 0] * parts[count * 256 + length] * terms[i, 1]
                break
            v += 1
        v = end
    return score


@_compile(
    types.int64(
        _array(types.uint8),
        _array(types.uint8),
        _array(types.float64),
        _array(types.int64, 2),
        _array(types.float64, 2),
        types.int32[::1],
        types.float64[::1],
    )
)
def search(
    data: NDArray[np.uint8],
    lengths: NDArray[np.uint8],
    parts: NDArray[np.float64],
    lists: NDArray[np.int64],
    terms: NDArray[np.float64],
    found: NDArray[np.int32],
    scores: NDArray[np.float64],
) -> Number:
    """The best passages for a query.

    Args:
        data: the records of terms, as `layout` describes them, uint8.
        lengths: the length code of every passage, uint8.
        parts: the part of the score by count and length, as `parts_table` computes it, float64.
        lists: int64 [lists, 5]: the fields of `PostingList`, term by term.
        terms: float64 [terms, 3], in the order of summing: the idf of each term, how often it occurs in the query, and
            the number of its lists.
        found: int32 [k]; receives the positions of the hits, best first.
        scores: float64 [k]; receives their scores.

    Returns:
        The number of hits; -1 if postings are out of order or of passages that do not exist. Nothing beyond the arrays
        is read or written then.
    """
    passages: Number = np.int64(len(lengths))
    k, many_lists = len(found), len(lists)
    size: Number = 0
    # What each list adds to a sum, by the code of the passage's length, and at most.
    owner = np.empty(many_lists, np.int64)
    unit, v = 0.0, 0
    for i in range(len(terms)):
        for _ in range(np.int64(terms[i, 2])):
            owner[v] = i
            unit += terms[i, 0] * terms[i, 1] * parts[lists[v, _MOST] * 256] / _SUM
            v += 1
    gains = np.empty((many_lists, 256), np.uint16)
    bounds = np.empty(many_lists, np.int64)
    rare = np.zeros(many_lists + 1, np.int64)  # where the passages of short lists begin among those of all
    for v in range(many_lists):
        weight = terms[owner[v], 0] * terms[owner[v], 1] / unit * _SLACK
        for code in range(256):
            gains[v, code] = np.uint16(weight * parts[lists[v, _MOST] * 256 + code]) + 1
        bounds[v] = np.int64(weight * parts[lists[v, _BEST]]) + 1
        rare[v + 1] = rare[v] + (lists[v, _SIZE] if lists[v, _FORM] > 12 else 0)
    order = np.argsort(bounds)
    unpacked = np.empty(rare[many_lists], np.int32)
    for v in range(many_lists):
        form, at, last = lists[v, _FORM], rare[v], np.int64(-1)
        if form > 12:
            offsets = lists[v, _START] + 4 * ((passages - 1) >> form)
            for chunk in range(((passages - 1) >> form) + 1):
                low, high = _span(data, lists[v], passages, chunk, chunk)
                if low > high or low != at - rare[v]:
                    return -1
                for j in range(low, high):
                    passage = (chunk << form) + _offset(data, form, offsets, j)
                    if passage <= last or passage >= passages:
                        return -1
                    unpacked[at] = last = passage
                    at += 1
    next_ = rare[:-1].copy()  # of short lists: the first posting in the window, and the first after it
    after = rare[:-1].copy()
    amounts = np.zeros(many_lists, np.int64)  # postings in the window
    before = np.zeros(many_lists, np.int64)  # the most that the lists with smaller bounds add
    best = np.zeros(len(terms), np.int64)
    sums = np.zeros(_WINDOW, np.uint16)
    # Twice the size, because a list that is damaged may have a place several times.
    touched, places = np.empty(2 * _WINDOW + 1, np.uint16), np.empty(_WINDOW + 8, np.uint16)
    start: Number = np.int64(0)
    width: Number = np.int64(min(_FIRST, passages))
    threshold: Number = np.int64(0)
    while start < passages:
        codes = lengths[start : start + width]
        # Which lists are set aside: the first ones in `order`.
        best[:] = 0
        aside, most = 0, np.int64(0)
        for v in range(many_lists):
            form = lists[v, _FORM]
            if form > 12:
                next_[v] = j = after[v]
                while j < rare[v + 1] and unpacked[j] < start + width:
                    j += 1
                after[v] = j
                amounts[v] = j - next_[v]
            elif form == 1:
                amounts[v] = width
            else:
                low, high = _span(data, lists[v], passages, start >> form, (start + width - 1) >> form)
                if low > high:
                    return -1
                amounts[v] = high - low
        while aside < many_lists:
            v = order[aside]
            before[v] = most
            if amounts[v] > 0:
                most += bounds[v] - best[owner[v]]
                if most >= threshold:
                    break
                best[owner[v]] = bounds[v]
            aside += 1
        many: Number = np.int64(0)
        for n in range(many_lists - 1, -1, -1):
            v = order[n]
            if n < aside and many == 0:
                break
            if amounts[v] == 0:
                continue
            amount = amounts[v]
            looked_up = n < aside and (
                lists[v, _FORM] == 1 or (lists[v, _FORM] == 12 and amount > _SCAN * many)
            )
            if looked_up:
                for t in range(many):
                    place = touched[t]
                    if _find(data, lists[v], passages, start + np.int64(place)) >= 0:
                        sums[place] += gains[v, codes[place]]
            else:
                if lists[v, _FORM] > 12:
                    for j in range(amount):
                        places[j] = unpacked[next_[v] + j] - start
                else:
                    amount = _read(data, lists[v], passages, start, width, places)
                    if amount < 0 or many > _WINDOW:
                        return -1
                if n >= aside:
                    many = _gather(sums, places, amount, codes, gains[v], touched, many)
                else:
                    _add(sums, places, amount, codes, gains[v])
            if n < aside and (looked_up or 4 * amount >= many):  # otherwise too few have changed
                many = _keep(sums, touched, many, threshold - before[v])
        # At first there is no threshold: begin with the best sums, so that few scores are computed in vain.
        level = _level(sums, touched, many, k) if size < k < many else np.int64(0)
        for pass_ in range(2):
            for t in range(many):
                place = touched[t]
                total = np.int64(sums[place])
                if total < threshold or (total >= level) != (pass_ == 0):
                    continue
                passage = start + np.int64(place)
                score = _score(data, parts, lists, terms, passages, passage, np.int64(codes[place]))
                if size < k:
                    found[size], scores[size] = passage, score
                    _sift_up(found, scores, size)
                    size += 1
                elif _worse(scores[0], found[0], score, passage):
                    found[0], scores[0] = passage, score
                    _sift_down(found, scores, size)
                if size == k:
                    threshold = np.int64(scores[0] / unit / _SLACK)
            if level == 0:
                break
        sums[:width] = 0
        start += width
        width = np.int64(min(start, _WINDOW - start % _WINDOW, passages - start))  # small ones first
    for tail in range(size - 1, 0, -1):  # heap sort: the worst goes last
        found[0], found[tail] = found[tail], found[0]
        scores[0], scores[tail] = scores[tail], scores[0]
        _sift_down(found, scores, tail)
    return size
