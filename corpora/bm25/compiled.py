"""The search of `index.py`, compiled by numba: MaxScore over impact layers and windows of passages.

A query is answered window by window, 16,384 passages each; the file reads from the smallest step to `search`, which puts them
together. Within a window:

1. Each list of postings (`layout`) has a bound, the gain of its best posting: lists are divided by count, so that the gains of
   a list are nearly equal ("impact layers"; Anh & Moffat 2006, Lin & Trotman 2015). A list without postings in the window
   has the bound 0, as a block has in block-max indexes (Ding & Suel 2011).
2. The lists with the smallest bounds are set aside as long as a passage with the best of them for every term scores
   less than the k-th best passage so far, the threshold (MaxScore, Turtle & Flood 1995).
3. Every other list adds its weight to the sums of its passages: a whole number, a bound of its gain in proportion to that of a
   single word in a passage of the same length. So the postings are added without looking up lengths. A passage is
   noted when its sum reaches what is wanted of the shortest passage, and kept if it reaches what is wanted of its length.
4. The lists that were set aside, the largest bound first, are added to what was noted.
5. What can still reach the threshold gets its score: the sum over the terms in the same order and in double precision as
   `index.py` computes it with numpy. Both give the same bits. On average this happens 60 times in a million passages.

Nothing beyond the arrays is read or written, whatever the postings contain: offsets are smaller than a window, where lists are
and end was compared when their record was read, directories are compared whenever they are used, and the end of the last window before
anything else.

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

_WINDOW = 1 << 14  # passages: a chunk of offsets of 14 bits; the sums stay in the cache of the core
_FIRST = 1 << 12  # the first window, which is read without a threshold
_SCAN = 16  # postings added in the time of looking up one passage among them
_DENSE = 1 / 4  # the share of passages with a sum from which it is cheaper to look at all than to note them
_TOGETHER = 32  # sums that are compared at once
_SUM = 31_000.0  # the largest sum of weights; with one more for each of 1,024 terms, it fits into 15 bits
# Bounds must not lose against scores, whose terms are rounded in another order.
_SLACK = 1.0 + 1e-12
_FORM, _SIZE, _START, _MOST, _BEST = range(5)
# Unsigned: numba makes floats of what is computed of both kinds.
_U0, _U1, _U3, _U4, _U7 = (np.uint64(number) for number in (0, 1, 3, 4, 7))
_U14, _U32 = np.uint64(0x3FFF), np.uint64(0xFFFFFFFF)
_LANES, _HIGHEST = np.uint64(0x0001000100010001), np.uint64(0x8000800080008000)
_MASKS = (((np.arange(256)[:, None] >> np.arange(8)) & 1) * 0xFFFF).astype(np.uint16)  # a row for each byte


def _array(dtype: Any, ndim: int = 1) -> Any:
    return types.Array(dtype, ndim, "C", readonly=True)


_bytes, _table = _array(types.uint8), _array(types.int64, 2)
_untyped: Any = (
    types  # whose constructors mypy knows only where numba is installed, as functions without types
)
_pair = _untyped.UniTuple(types.int64, 2)


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


@_compile(types.uint64(_bytes, types.int64))
def _eight(data: NDArray[np.uint8], at: Number) -> Number:
    """The 64-bit number at a byte: one load. (Of signed indices numba would test whether they are negative.)"""
    u = np.uint64(at)
    return (
        np.uint64(data[u])
        | np.uint64(data[u + _U1]) << np.uint64(8)
        | np.uint64(data[u + np.uint64(2)]) << np.uint64(16)
        | np.uint64(data[u + np.uint64(3)]) << np.uint64(24)
        | np.uint64(data[u + np.uint64(4)]) << np.uint64(32)
        | np.uint64(data[u + np.uint64(5)]) << np.uint64(40)
        | np.uint64(data[u + np.uint64(6)]) << np.uint64(48)
        | np.uint64(data[u + np.uint64(7)]) << np.uint64(56)
    )


@_compile(_pair(_bytes, _table, types.int64, types.int64, types.int64))
def _span(
    data: NDArray[np.uint8], lists: NDArray[np.int64], v: Number, passages: Number, chunk: Number
) -> tuple[Number, Number]:
    """Which postings of list v lie in a chunk; (1, 0) if its directory is impossible."""
    low: Number = np.int64(0)
    high: Number = lists[v, _SIZE]
    if chunk > 0:
        low = np.int64(_eight(data, lists[v, _START] + 4 * (chunk - 1)) & _U32)
    if chunk < (passages - 1) >> lists[v, _FORM]:
        high = np.int64(_eight(data, lists[v, _START] + 4 * chunk) & _U32)
    if not 0 <= low <= high <= lists[v, _SIZE]:
        return np.int64(1), np.int64(0)
    return low, high


@_compile(types.int64(_bytes, _table, types.int64, types.int64, types.int32[::1], types.int64))
def _unpack(
    data: NDArray[np.uint8],
    lists: NDArray[np.int64],
    v: Number,
    passages: Number,
    unpacked: NDArray[np.int32],
    at: Number,
) -> Number:
    """Write the passages of a list with offsets of 16 or 24 bits to `unpacked[at:]`; -1 if they are impossible."""
    form, last = lists[v, _FORM], np.int64(-1)
    chunks = (passages - 1) >> form
    step, mask = form >> 3, (_U1 << np.uint64(form)) - _U1
    offsets = lists[v, _START] + 4 * chunks
    done: Number = np.int64(0)
    for chunk in range(chunks + 1):
        low, high = _span(data, lists, v, passages, chunk)
        if low > high or low != done:
            return -1
        for j in range(low, high):
            passage = (chunk << form) + np.int64(_eight(data, offsets + step * j) & mask)
            if passage <= last:
                return -1
            unpacked[at + j] = last = passage
        done = high
    return 0 if done == lists[v, _SIZE] and last < passages else -1


@_compile(types.int64(_bytes, types.int64, types.int64))
def _offset(data: NDArray[np.uint8], offsets: Number, j: Number) -> Number:
    """Offset j of those of 14 bits that begin at a byte."""
    return np.int64(_eight(data, offsets + (14 * j >> 3)) >> np.uint64(14 * j & 7) & _U14)


@_compile(types.int64(_bytes, types.int64, types.int64, types.int64, types.int64))
def _lower_bound(
    data: NDArray[np.uint8], offsets: Number, low: Number, high: Number, wanted: Number
) -> Number:
    """The first of the offsets [low, high) that is not less than `wanted`; they have 14 bits."""
    while low < high:
        middle = (low + high) >> 1
        if _offset(data, offsets, middle) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@_compile(types.boolean(_bytes, _table, types.int64, types.int64))
def _ends_well(data: NDArray[np.uint8], lists: NDArray[np.int64], v: Number, passages: Number) -> bool:
    """Whether the last chunk of a bitmap or of a list with offsets of 14 bits has no passage that does not exist."""
    if lists[v, _FORM] == 1:
        last = data[lists[v, _START] + ((passages - 1) >> 3)]
        return bool(last >> np.uint8((passages - 1) & 7) <= 1)
    chunk = (passages - 1) >> 14
    low, high = _span(data, lists, v, passages, chunk)
    for j in range(low, high):
        if (chunk << 14) + _offset(data, lists[v, _START] + 4 * chunk, j) >= passages:
            return False
    return bool(low <= high)


@_compile(
    types.uint64(types.uint64, types.uint64, types.uint64, types.uint16[::1], types.uint16[::1], types.uint64)
)
def _note(
    place: Number,
    weight: Number,
    lacking: Number,
    sums: NDArray[np.uint16],
    touched: NDArray[np.uint16],
    many: Number,
) -> Number:
    """Add a weight to a sum; note the place if the sum was at least `lacking`, and less than that and the weight."""
    sum_ = np.uint64(sums[place])
    touched[many] = place
    sums[place] = sum_ + weight
    return many + np.uint64(sum_ - lacking < weight)


@_compile(types.int64(_bytes, _pair, types.int64, _pair, types.uint16[::1], types.uint16[::1], types.int64))
def _gather(
    data: NDArray[np.uint8],
    span: tuple[Number, Number],
    offsets: Number,
    weights: tuple[Number, Number],
    sums: NDArray[np.uint16],
    touched: NDArray[np.uint16],
    many: Number,
) -> Number:
    """Add a weight to the sums of the postings `span` of a list whose offsets, of 14 bits, begin at a byte.

    A place whose sum reaches the second of `weights` hereby is noted in `touched`, which has `many` of them.

    Returns:
        How many it has now.
    """
    low, high = span
    weight, n = np.uint64(weights[0]), np.uint64(many)
    lacking = np.uint64(weights[1]) - weight
    at, shift = offsets + (14 * low >> 3), np.uint64(14 * low & 7)
    for _ in range((high - low) >> 2):  # four offsets in seven bytes
        x = _eight(data, at) >> shift
        n = _note(x & _U14, weight, lacking, sums, touched, n)
        n = _note(x >> np.uint64(14) & _U14, weight, lacking, sums, touched, n)
        n = _note(x >> np.uint64(28) & _U14, weight, lacking, sums, touched, n)
        n = _note(x >> np.uint64(42) & _U14, weight, lacking, sums, touched, n)
        at += 7
    x = _eight(data, at) >> shift
    for _ in range((high - low) & 3):
        n = _note(x & _U14, weight, lacking, sums, touched, n)
        x >>= np.uint64(14)
    return np.int64(n)


@_compile(types.void(_bytes, _pair, types.int64, types.uint16, types.uint16[::1]))
def _add(
    data: NDArray[np.uint8],
    span: tuple[Number, Number],
    offsets: Number,
    weight: Number,
    sums: NDArray[np.uint16],
) -> None:
    """The same without noting anything."""
    low, high = span
    at, shift = offsets + (14 * low >> 3), np.uint64(14 * low & 7)
    for _ in range((high - low) >> 2):
        x = _eight(data, at) >> shift
        sums[x & _U14] += weight
        sums[x >> np.uint64(14) & _U14] += weight
        sums[x >> np.uint64(28) & _U14] += weight
        sums[x >> np.uint64(42) & _U14] += weight
        at += 7
    x = _eight(data, at) >> shift
    for _ in range((high - low) & 3):
        sums[x & _U14] += weight
        x >>= np.uint64(14)


@_compile(types.void(_bytes, types.int64, types.int64, types.uint16, types.uint16[::1]))
def _add_bitmap(
    data: NDArray[np.uint8], at: Number, width: Number, weight: Number, sums: NDArray[np.uint16]
) -> None:
    """Add a weight to the sums of the passages of a bitmap whose window begins at a byte."""
    for i in range((width + 7) >> 3):
        row = data[np.uint64(at) + np.uint64(i)]
        for bit in range(8):
            sums[np.uint64(i) * np.uint64(8) + np.uint64(bit)] += _MASKS[row, np.uint64(bit)] & weight


@_compile(types.int64(types.uint64[:, ::1], types.int64, types.int64, types.uint16[::1]))
def _scan(words: NDArray[np.uint64], width: Number, least: Number, touched: NDArray[np.uint16]) -> Number:
    """Note the places with a sum of at least `least`, 1 to 2^15; returns how many.

    Four sums are one number of 64 bits, and a row of `words` is compared at once: what reaches `least` has its highest bit set
    after the addition. Then the words are noted that have one, behind the places, and at last their places: branches for single
    ones would be guessed wrong too often.
    """
    n, m, added = _U0, np.uint64(_WINDOW), np.uint64(0x8000 - least) * _LANES
    for row in range((width + _TOGETHER - 1) // _TOGETHER):
        some = _U0
        for i in range(_TOGETHER // 4):
            some |= words[row, i] + added
        if some & _HIGHEST != _U0:
            for i in range(_TOGETHER // 4):
                touched[m] = row * (_TOGETHER // 4) + i
                m += np.uint64(words[row, i] + added & _HIGHEST != _U0)
    for t in range(_WINDOW, np.int64(m)):
        word = np.int64(touched[t])
        reached = words[word // (_TOGETHER // 4), word % (_TOGETHER // 4)] + added
        for lane in range(4):
            touched[n] = 4 * word + lane
            n += reached >> np.uint64(16 * lane + 15) & _U1
    return np.int64(n)


@_compile(types.void(_bytes, types.int64, types.uint16[::1], types.int64, types.uint16, types.uint16[::1]))
def _add_bits(
    data: NDArray[np.uint8],
    at: Number,
    touched: NDArray[np.uint16],
    many: Number,
    weight: Number,
    sums: NDArray[np.uint16],
) -> None:
    """Add a weight to the sums of those noted places that are in a bitmap whose window begins at a byte.

    Without a branch: the processor then need not wait for one byte before it reads the next.
    """
    for t in range(many):
        place = np.uint64(touched[np.uint64(t)])
        bit = data[np.uint64(at) + (place >> _U3)] >> np.uint8(place & _U7) & np.uint8(1)
        sums[place] += weight * bit


@_compile(
    types.int64(
        types.uint16[::1],
        types.uint16[::1],
        types.int64,
        _bytes,
        types.int64,
        types.int64[::1],
        types.int64,
    )
)
def _keep(
    sums: NDArray[np.uint16],
    touched: NDArray[np.uint16],
    many: Number,
    lengths: NDArray[np.uint8],
    start: Number,
    least: NDArray[np.int64],
    more: Number,
) -> Number:
    """Keep the places whose sum, and what may be added, reaches what is wanted of their lengths; returns how many."""
    n, first = _U0, np.uint64(start)
    for t in range(many):
        place = touched[np.uint64(t)]
        touched[n] = place
        n += np.uint64(np.int64(sums[place]) + more >= least[lengths[first + np.uint64(place)]])
    return np.int64(n)


@_compile(types.int64(_bytes, _table, types.int64, types.int64, types.int64))
def _find(
    data: NDArray[np.uint8], lists: NDArray[np.int64], v: Number, passages: Number, passage: Number
) -> Number:
    """The number of a passage's posting in a bitmap (0) or a list with offsets of 14 bits; -1 if it has none."""
    if lists[v, _FORM] == 1:
        byte = data[np.uint64(lists[v, _START] + (passage >> 3))]
        return np.int64(byte >> np.uint8(passage & 7) & 1) - 1
    chunk = passage >> 14
    low, high = _span(data, lists, v, passages, chunk)
    offsets, wanted = lists[v, _START] + 4 * ((passages - 1) >> 14), passage & 0x3FFF
    low = _lower_bound(data, offsets, low, high, wanted)
    if low < high and _offset(data, offsets, low) == wanted:
        return low
    return -1


@_compile(types.int64(types.int32[::1], types.int64, types.int64, types.int64))
def _find_unpacked(unpacked: NDArray[np.int32], low: Number, high: Number, passage: Number) -> Number:
    """Where a passage is in unpacked[low:high]; -1 if it is not."""
    while low < high:
        middle = (low + high) >> 1
        if unpacked[middle] == passage:
            return middle
        if unpacked[middle] < passage:
            low = middle + 1
        else:
            high = middle
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
    types.int64(
        _bytes,
        _bytes,
        _array(types.float64),
        _table,
        _array(types.float64, 2),
        _pair,
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
    codes: tuple[Number, Number],
    found: NDArray[np.int32],
    scores: NDArray[np.float64],
) -> Number:
    """The best passages for a query.

    Args:
        data: the records of all terms as `layout` writes them, and `PADDING` bytes.
        lengths: the length code of every passage.
        parts: the part of the score by count and length, as `parts_table` computes it.
        lists: int64 [lists, 5]: the fields of each list of postings, by term.
        terms: float64 [terms, 3], by falling bound: the idf of each term of the query, how often it occurs in the query, and
            the number of its lists.
        codes: the smallest length code of a passage with words, and one that few exceed: bounds are tight up to it.
        found: int32 [k]; receives the positions of the hits, best first.
        scores: float64 [k]; receives their scores.

    Returns:
        The number of hits; -1 if postings are of passages that do not exist, or their directory is impossible.
    """
    many_lists, many_terms, k = len(lists), len(terms), len(found)
    passages: Number = np.int64(len(lengths))
    size: Number = 0
    shortest, usual = codes
    chunks = (passages - 1) >> 14  # but the last
    # 1. What each list adds to a sum: its gain over the part of a passage with the same length and count 1. This
    #    ratio rises with the length, and beyond `usual` no faster than the part of the count 1 falls.
    owner = np.empty(many_lists, np.int64)
    ratios: Any = np.empty(many_lists)
    bounds: Any = np.empty(many_lists)
    reach: Any = np.zeros(many_terms + 1)  # the most that the terms from the i-th on add to a score
    total = 0.0
    v: Number = 0
    for i in range(many_terms):
        most_ratio = 0.0
        for _ in range(np.int64(terms[i, 2])):
            owner[v] = i
            gain = terms[i, 0] * terms[i, 1] * _SLACK
            ratios[v] = gain * parts[lists[v, _MOST] * 256 + usual] / parts[256 + usual]
            bounds[v] = gain * parts[lists[v, _BEST]]
            most_ratio = max(most_ratio, ratios[v])
            reach[i] = max(reach[i], bounds[v])
            v += 1
        total += most_ratio
    for i in range(many_terms - 1, -1, -1):
        reach[i] += reach[i + 1]
    unit = total / _SUM
    weights: Any = np.empty(many_lists, np.uint16)
    for v in range(many_lists):
        weights[v] = np.uint16(ratios[v] / unit) + 1
    scale = parts[256:512] * (unit * _SLACK)  # what a sum of one is at most worth, by length
    scale[usual:] = scale[usual]
    inverse = 1.0 / scale
    # 2. Short lists are unpacked now; the ends of the others are compared.
    rare = np.zeros(many_lists + 1, np.int64)  # where the passages of short lists begin
    for v in range(many_lists):
        rare[v + 1] = rare[v] + (lists[v, _SIZE] if lists[v, _FORM] > 14 else 0)
    unpacked = np.empty(rare[many_lists], np.int32)
    for v in range(many_lists):
        if lists[v, _FORM] > 14:
            if _unpack(data, lists, v, passages, unpacked, rare[v]) < 0:
                return -1
        elif not _ends_well(data, lists, v, passages):
            return -1
    order = np.argsort(bounds)
    next_: Any = rare[:-1].copy()  # of short lists: the first posting in the window, and the first after it
    after: Any = rare[:-1].copy()
    amounts = np.zeros(many_lists, np.int64)  # postings in the window
    spans = np.zeros((many_lists, 2), np.int64)  # of lists with offsets of 14 bits: which they are
    summed, rest = (
        np.empty(many_lists, np.int64),
        np.empty(many_lists, np.int64),
    )  # lists to be read, and set aside
    before = np.empty(many_lists, np.int64)  # the most that those before it add to a sum
    best_bound: Any = np.empty(many_terms)  # by term, of the lists that are set aside
    best_weight: Any = np.empty(many_terms, np.int64)
    sums = np.zeros(_WINDOW, np.uint16)
    words = sums.view(np.uint64).reshape(-1, _TOGETHER // 4)
    # Twice the size, because a list that is damaged may have a place several times.
    touched = np.empty(2 * _WINDOW + _TOGETHER, np.uint16)
    least = np.zeros(256, np.int64)  # the sum that is wanted, by length
    worst = known = -1.0  # the score of the k-th best passage, and that which `least` was computed from
    start: Number = np.int64(0)
    end: Number = np.int64(min(_FIRST, passages))
    while start < passages:
        width, base = end - start, start & -_WINDOW  # places are counted from the beginning of the chunk
        # 3. The postings of each list in this window.
        for v in range(many_lists):
            form = lists[v, _FORM]
            if form > 14:
                next_[v] = j = after[v]
                while j < rare[v + 1] and unpacked[j] < end:
                    j += 1
                after[v] = j
                amounts[v] = j - next_[v]
            elif form == 1:
                amounts[v] = width
            else:
                low, high = _span(data, lists, v, passages, base >> 14)
                if start > base:
                    low = spans[v, 1]
                if end - base < _WINDOW:
                    high = _lower_bound(data, lists[v, _START] + 4 * chunks, low, high, end - base)
                spans[v] = low, high
                amounts[v] = high - low
                if not 0 <= amounts[v] <= _WINDOW:
                    return -1
        # 4. The first lists in `order` are not essential: a passage that has no other one cannot be among the best.
        best_bound[:] = 0.0
        first, most = 0, 0.0
        while first < many_lists:
            v = order[first]
            if amounts[v] > 0:
                most += bounds[v] - best_bound[owner[v]]
                if most * _SLACK >= worst:
                    break
                best_bound[owner[v]] = bounds[v]
            first += 1
        essential: Number = np.int64(0)
        for n in range(first, many_lists):
            essential += amounts[order[n]]
        # 5. The sums of the others, and of those lists that are read faster than looked up. The rest can add `more`.
        best_weight[:] = 0
        taken, aside, more = 0, 0, np.int64(0)
        for n in range(many_lists):
            v = order[n]
            weight = np.int64(weights[v])
            if amounts[v] == 0:
                continue
            if n < first and (lists[v, _FORM] == 1 or amounts[v] > _SCAN * essential):
                rest[aside], before[aside] = v, more
                more += max(0, weight - best_weight[owner[v]])
                best_weight[owner[v]] = max(best_weight[owner[v]], weight)
                aside += 1
            else:
                summed[taken] = v
                taken += 1
        wanted: Number = max(1, least[shortest] - more)
        dense = essential > _DENSE * width
        many: Number = np.int64(0)
        for n in range(taken):
            v = summed[n]
            form, weight = lists[v, _FORM], np.int64(weights[v])
            if many > _WINDOW:
                return -1
            if form == 1:
                _add_bitmap(data, lists[v, _START] + (start >> 3), width, weights[v], sums[start - base :])
            elif form == 14:
                span, offsets = (spans[v, 0], spans[v, 1]), lists[v, _START] + 4 * chunks
                if dense:
                    _add(data, span, offsets, weights[v], sums)
                else:
                    many = _gather(data, span, offsets, (weight, wanted), sums, touched, many)
            else:
                for j in range(next_[v], after[v]):
                    place = np.uint64(unpacked[j] - base)
                    sum_: Number = np.int64(sums[place])
                    touched[many] = place
                    many += sum_ < wanted <= sum_ + weight and not dense
                    sums[place] = sum_ + weight
        if dense:
            many = _scan(words, end - base, wanted, touched)
        many = _keep(sums, touched, many, lengths, base, least, more)
        # 6. The lists that were set aside, the largest bound first, only for passages that can still be among the best.
        for n in range(aside - 1, -1, -1):
            if many == 0:
                break
            v = rest[n]
            form, weight = lists[v, _FORM], weights[v]
            if form == 1:
                _add_bits(data, lists[v, _START] + (base >> 3), touched, many, weight, sums)
            elif form > 14:
                for j in range(next_[v], after[v]):
                    sums[np.uint64(unpacked[j] - base)] += weight
            elif amounts[v] <= _SCAN * many:
                offsets = lists[v, _START] + 4 * chunks
                _add(data, (spans[v, 0], spans[v, 1]), offsets, weight, sums)
            else:
                for t in range(many):
                    place = np.uint64(touched[t])
                    if _find(data, lists, v, passages, base + np.int64(place)) >= 0:
                        sums[place] += weight
            many = _keep(sums, touched, many, lengths, base, least, before[n])
        # 7. The scores of what is left. At first there is no threshold: begin with the best sums.
        level = _level(sums, touched, many, k) if size < k < many else np.int64(0)
        for pass_ in range(2):
            for t in range(many):
                place = touched[t]
                sum_ = np.int64(sums[place])
                if (sum_ >= level) != (pass_ == 0):
                    continue
                passage = base + np.int64(place)
                length = np.int64(lengths[passage])
                if sum_ * scale[length] < worst:
                    continue
                score, v = 0.0, np.int64(0)
                for i in range(many_terms):
                    if sum_ == 0:  # no other list has the passage
                        break
                    if (score + reach[i]) * _SLACK < worst:
                        score = -1.0
                        break
                    last = v + np.int64(terms[i, 2])
                    while v < last:
                        if amounts[v] > 0:
                            form = lists[v, _FORM]
                            if form > 14:
                                j = _find_unpacked(unpacked, next_[v], after[v], passage)
                                j -= rare[v] if j >= 0 else 0
                            else:
                                j = _find(data, lists, v, passages, passage)
                            if j >= 0:
                                count: Number = lists[v, _MOST]
                                if count > 2:
                                    counts = lists[v, _START] + 4 * ((passages - 1) >> form)
                                    counts += (lists[v, _SIZE] * form + 7) // 8
                                    count = np.int64(data[counts + j])
                                score += terms[i, 0] * parts[count * 256 + length] * terms[i, 1]
                                sum_ -= weights[v]
                                break
                        v += 1
                    v = last
                if score <= 0.0:
                    continue
                if size < k:
                    found[size], scores[size] = passage, score
                    _sift_up(found, scores, size)
                    size += 1
                elif _worse(scores[0], found[0], score, passage):
                    found[0], scores[0] = passage, score
                    _sift_down(found, scores, size)
                if size == k:
                    worst = scores[0]
            if level == 0:
                break
        if worst > known:
            known = worst
            for code in range(256):
                least[code] = np.int64(worst * inverse[code] / _SLACK)
        sums[:] = 0
        start, end = end, min(base + _WINDOW if end < base + _WINDOW else end + _WINDOW, passages)
    for tail in range(size - 1, 0, -1):  # heap sort: the worst goes last
        found[0], found[tail] = found[tail], found[0]
        scores[0], scores[tail] = scores[tail], scores[0]
        _sift_down(found, scores, tail)
    return size
