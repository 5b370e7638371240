"""How the postings of a term are stored: three lists by count, each in one of four forms.

A term has one list of the passages that contain it once, one of those that contain it twice, and one of those that
contain it more often, with their counts. So the gains of a list are nearly equal, and a search can skip a whole list
that cannot matter ("impact layers", Ding & Suel 2011). A list has one of these forms:

- a bitmap of all passages (lists of more than every 24th passage: twice the space of offsets at most, but a passage is
  found in it at once, and what frequent words add is rarely worth reading as a whole);
- offsets of 14, 16 or 24 bits within chunks of 2^14, 2^16 or 2^24 consecutive passages, after a directory: for
  each chunk but the last, how many postings it and those before it have, as 32-bit numbers. Which passages a chunk covers
  is known, so that the postings of any range are found without a search. (Offsets of 14 bits follow each other bit by bit.)

Of at most 65,536 passages all offsets have 16 bits, without a directory: there is little to gain, and nothing to decode.

The record of a term: a byte of flags (bit i: list i is there); for each list its size as a base-128 number, the codes of
its best posting (list 0 and 1: the length; list 2: the largest count, the count and the length); then the lists, each as
directory, offsets, counts. Numbers are little-endian. After the last record are `PADDING` bytes, so that eight bytes can be read
wherever a number begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from mmap import mmap
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BITMAP",
    "LISTS",
    "PADDING",
    "PostingList",
    "forms_of",
    "payload_size",
    "read_record",
    "unpack",
    "write_records",
]

LISTS = 3
"""Lists of a term: of the passages with the count 1, 2, and 3 or more."""
BITMAP = 1
"""The form of a bitmap; the other forms are the bits of an offset."""
PADDING = 8
"""Bytes after the last record."""
_FORMS = (24, 16, 14, BITMAP)
_PLAIN_UP_TO = 1 << 16  # passages up to which all offsets have 16 bits
_SHIFTS = np.arange(0, 56, 14, dtype="<u8")  # of four offsets of 14 bits, which are seven bytes
_SPARSE = 24  # a list of more than every 24th passage is a bitmap
_MOST_BYTES = 5  # of a base-128 number


class PostingList(NamedTuple):
    """Where a list is.

    Attributes:
        form: bits of an offset, or `BITMAP`.
        size: the number of postings.
        start: the byte where its directory begins.
        most: the largest count of a posting.
        best: count * 256 + length code of the posting with the largest gain.
    """

    form: int
    size: int
    start: int
    most: int
    best: int


def payload_size(size: Any, form: int, passages: int) -> Any:
    """The bytes that a list of this size takes in a form, without counts; of several sizes, those of each."""
    if form == BITMAP:
        return -(-passages // 8)
    return (size * form + 7) // 8 + 4 * ((passages - 1) >> form)


def _limits(passages: int) -> tuple[int, ...]:
    """The least sizes of lists that have each of `_FORMS`: offsets have the bits that take the least space."""
    if passages <= _PLAIN_UP_TO:
        return (0, 0)
    chunks = {bits: (passages - 1) >> bits for bits in (24, 16, 14)}
    return (0, 4 * (chunks[16] - chunks[24]) + 1, 16 * (chunks[14] - chunks[16]) + 1, -(-passages // _SPARSE))


def forms_of(sizes: NDArray[np.int64], passages: int, *, counted: bool) -> NDArray[np.int64]:
    """The form of lists of each size; lists with counts are never bitmaps."""
    limits = _limits(passages)[: len(_FORMS) - counted]
    chosen: NDArray[np.int64] = np.array(_FORMS)[np.searchsorted(limits, sizes, side="right") - 1]
    return chosen


def write_records(
    where: NDArray[np.int32],
    often: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.uint8],
    parts: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The records of consecutive terms.

    Args:
        where: the passages of all postings, ascending for each term.
        often: their counts, at least 1.
        starts: where the postings of each term begin; ends with the number of postings.
        lengths: the length code of every passage of the index.
        parts: the part of a score by count and length code, as `parts_table` computes it.

    Returns:
        The bytes, and where each record begins in them; ends with their number.
    """
    terms, passages = len(starts) - 1, len(lengths)
    postings, sizes, heads, forms = [], [], [], []
    for layer in range(LISTS):
        kept = np.flatnonzero(often == layer + 1 if layer < LISTS - 1 else often >= LISTS)
        ends = kept.searchsorted(starts)
        size, there = np.diff(ends), ends[:-1][np.diff(ends) > 0]
        there_where, there_often = where[kept], often[kept]
        codes = lengths[there_where].astype(np.int64)
        head = np.zeros((terms, 3 if layer == LISTS - 1 else 1), np.uint8)
        if len(kept) and layer < LISTS - 1:
            head[size > 0, 0] = np.minimum.reduceat(codes, there)
        elif len(kept):
            codes += there_often.astype(np.int64) * 256
            gains = parts[codes]
            most = np.repeat(np.maximum.reduceat(gains, there), size[size > 0])
            best = np.minimum.reduceat(np.where(gains == most, codes, 1 << 30), there)
            head[size > 0] = np.stack(
                [np.maximum.reduceat(there_often, there), best >> 8, best & 255], axis=1
            ).astype(np.uint8)
        postings.append((there_where, there_often, ends))
        sizes.append(size)
        heads.append(head)
        forms.append(forms_of(size, passages, counted=layer == LISTS - 1))
    begins = np.ones(terms, np.int64)  # after the flags
    at = []
    for size, head in zip(sizes, heads, strict=True):
        at.append(begins.copy())
        for byte in range(_MOST_BYTES):
            begins += (size >> (7 * byte) > 0).astype(np.int64)
        begins += (size > 0) * head.shape[1]
    lists_at = []
    for layer, size in enumerate(sizes):
        lists_at.append(begins.copy())
        for form in _FORMS:
            chosen = (forms[layer] == form) & (size > 0)
            begins[chosen] += payload_size(size[chosen], form, passages)
        if layer == LISTS - 1:
            begins += size
    offsets = np.concatenate([[0], np.cumsum(begins)])
    out = np.zeros(int(offsets[-1]), np.uint8)
    for layer, (size, head) in enumerate(zip(sizes, heads, strict=True)):
        out[offsets[:-1]] |= (size > 0).astype(np.uint8) << layer
        place = offsets[:-1] + at[layer]
        for byte in range(_MOST_BYTES):
            has = size >> (7 * byte) > 0
            more = size >> (7 * (byte + 1)) > 0
            out[place[has]] = (size[has] >> (7 * byte)) & 127 | more[has].astype(np.int64) << 7
            place += has
        for column in range(head.shape[1]):
            out[place[size > 0] + column] = head[size > 0, column]
        _write_lists(out, offsets[:-1] + lists_at[layer], size, forms[layer], postings[layer], passages)
    return out, offsets


def _write_lists(
    out: NDArray[np.uint8],
    places: NDArray[np.int64],
    sizes: NDArray[np.int64],
    forms: NDArray[np.int64],
    postings: tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]],
    passages: int,
) -> None:
    where, often, ends = postings
    counted = bool(len(often)) and int(often[0]) >= LISTS
    # Most lists are short and have 24 bits: all of them at once.
    short = (forms == 24) & (sizes > 0)
    directory = 4 * ((passages - 1) >> 24)
    if short.any():
        size = sizes[short]
        mine = np.repeat(short, sizes)
        rank = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        first = np.repeat(places[short], size)
        for byte in range(3):
            out[first + directory + 3 * rank + byte] = (where[mine] >> (8 * byte)) & 255
        if counted:
            out[first + directory + 3 * np.repeat(size, size) + rank] = often[mine]
        for chunk in range(directory // 4):
            inside = np.add.reduceat(where[mine] >> 24 <= chunk, np.cumsum(size) - size, dtype=np.int64)
            for byte in range(4):
                out[places[short] + 4 * chunk + byte] = (inside >> (8 * byte)) & 255
    for number in np.flatnonzero((forms != 24) & (sizes > 0)).tolist():
        low, high, form, place = (
            int(ends[number]),
            int(ends[number + 1]),
            int(forms[number]),
            int(places[number]),
        )
        packed = _pack(where[low:high], form, passages)
        out[place : place + len(packed)] = packed
        if counted:
            out[place + len(packed) : place + len(packed) + high - low] = often[low:high]


def _pack(where: NDArray[np.int32], form: int, passages: int) -> NDArray[np.uint8]:
    if form == BITMAP:
        bits = np.zeros(passages, np.bool_)
        bits[where] = True
        return np.packbits(bits, bitorder="little")
    bounds = np.arange(1, ((passages - 1) >> form) + 1, dtype=np.int64) << form
    directory = where.searchsorted(bounds).astype("<u4").view(np.uint8)
    offsets = where & ((1 << form) - 1)
    if form == 14:
        fours = np.zeros((-(-len(offsets) // 4), 4), "<u8")
        fours.ravel()[: len(offsets)] = offsets
        sevens = (
            np.bitwise_or.reduce(fours << _SHIFTS, axis=1).astype("<u8").view(np.uint8).reshape(-1, 8)[:, :7]
        )
        packed = sevens.ravel()[: (len(offsets) * 14 + 7) // 8]
    else:
        packed = offsets.astype("<u2").view(np.uint8)
    return np.concatenate([directory, packed])


def read_record(data: bytes | mmap, start: int, end: int, passages: int) -> list[PostingList]:
    """The lists of a term.

    Args:
        data: what has the record.
        start: where it begins.
        end: where it ends.
        passages: of the index.

    Raises:
        ValueError: the record does not end there, or its lists are impossible; for others, no list reaches beyond it.
    """
    found = []
    flags, at = data[start], start + 1
    for layer in range(LISTS):
        if not flags >> layer & 1:
            continue
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift >= 7 * _MOST_BYTES:
                raise ValueError("the size of a list of postings is not one")
        if layer < LISTS - 1:
            found.append((layer, size, layer + 1, (layer + 1) * 256 + data[at]))
            at += 1
        else:
            found.append((layer, size, data[at], data[at + 1] * 256 + data[at + 2]))
            at += 3
    lists, limits = [], _limits(passages)
    for layer, size, most, best in found:
        if not 0 < size <= passages:
            raise ValueError(f"a list has {size:,} postings of {passages:,} passages")
        counted = layer == LISTS - 1
        form = _FORMS[bisect_right(limits[: len(_FORMS) - counted], size) - 1]
        lists.append(PostingList(form, size, at, most, best))
        at += payload_size(size, form, passages) + (size if counted else 0)
    if at != end or not lists:
        raise ValueError(f"the postings of a term end at byte {at:,}, not {end:,}")
    return lists


def unpack(
    data: NDArray[np.uint8], lists: list[PostingList], passages: int
) -> Iterator[tuple[NDArray[np.int64], int | NDArray[np.uint8]]]:
    """The passages of each list of a term, and its count in them: one number, or one for each.

    Raises:
        ValueError: postings are of passages that do not exist, or their directory is impossible.
    """
    for form, size, start, most, _ in lists:
        if form == BITMAP:
            bits = np.unpackbits(data[start : start + -(-passages // 8)], bitorder="little")
            where = np.flatnonzero(bits.view(np.bool_))
        else:
            chunks = (passages - 1) >> form
            at = start + 4 * chunks
            where = _offsets(data, at, form, size)
            if chunks:
                ends = np.empty(chunks + 2, np.int64)
                ends[0], ends[-1] = 0, size
                ends[1:-1] = data[start:at].view("<u4")
                amounts = np.diff(ends)
                if amounts.min() < 0:
                    raise ValueError
                where += np.repeat(np.arange(chunks + 1, dtype=np.int64) << form, amounts)
        if len(where) != size or int(where.max()) >= passages:
            raise ValueError
        if most < LISTS:
            yield where, most
        else:
            after = at + (size * form + 7) // 8
            yield where, data[after : after + size]


def _offsets(data: NDArray[np.uint8], at: int, form: int, size: int) -> NDArray[np.int64]:
    """Offsets that begin at a byte."""
    if form == 16:
        return data[at : at + 2 * size].view("<u2").astype(np.int64)
    if form == 24:
        low, middle, high = data[at : at + 3 * size].astype(np.int64).reshape(-1, 3).T
        return low | middle << 8 | high << 16
    # Four offsets in seven bytes, read as a number of 64 bits: `PADDING` has its last byte.
    fours = np.ndarray((-(-size // 4),), "<u8", data.data, at, (7,)).astype(np.int64)
    found = np.empty((len(fours), 4), np.int64)
    for i in range(4):
        found[:, i] = (fours >> 14 * i) & 0x3FFF
    return found.ravel()[:size]
