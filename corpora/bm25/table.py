"""The files of a BM25 table, memory-mapped, checked before anything indexes with what they contain.

Sizes and types are compared on opening. Blocks are compared with their checksums when they are first read, those of a
term's postings when the term is first looked up. What passes because checksums were computed of damaged data is caught
too: positions of postings are compared with the size of their files, and the searches refuse passages that do not exist.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import DamagedFileError

from ..indexing.checksums import SHIFT, CheckedFile
from ..indexing.sealed import open_checked

__all__ = ["LAZY", "Entry", "Table"]

_ARRAYS = (
    ("positions", "<i4"),
    ("counts", "|u1"),
    ("starts", "<i8"),
    ("most", "<f8"),
    ("lengths", "|u1"),
    ("term_starts", "<i8"),
)
LAZY = (*(f"{name}.npy" for name, _ in _ARRAYS), "terms.txt")
"""The files whose blocks are compared when they are first read."""


class Entry(NamedTuple):
    """A term of the table: its number, where its postings begin and end, and the largest part of any of them."""

    number: int
    start: int
    end: int
    most: float


class Table:
    """What `build_table` wrote. Term t owns `starts[t]:starts[t + 1]` of `positions` and `counts`.

    Args:
        files: those of `LAZY`, in this order.
        facts: the content of `bm25.json`.

    Attributes:
        positions: passages of all postings, int32.
        counts: how often the term occurs in each of them, uint8.
        facts: the totals.

    Raises:
        DamagedFileError: a file is damaged, or the files do not fit together.
    """

    def __init__(self, files: Sequence[CheckedFile], facts: dict[str, int]) -> None:
        self._files, self.facts = tuple(files), facts
        arrays = {name: file.array(dtype) for (name, dtype), file in zip(_ARRAYS, files, strict=False)}
        (
            self._positions_file,
            self._counts_file,
            self._starts_file,
            self._most_file,
            self._lengths_file,
            self._spans_file,
        ) = files[:-1]
        self._terms_file = files[-1]
        self.positions: NDArray[np.int32] = arrays["positions"][0]
        self.counts: NDArray[np.uint8] = arrays["counts"][0]
        self._lengths: NDArray[np.uint8] = arrays["lengths"][0]
        self._offsets = {name: offset for name, (_, offset) in arrays.items()}
        views: list[Any] = [arrays[name][0].data for name in ("starts", "most", "term_starts")]
        self._starts, self._most, self._spans = views  # numbers of a memoryview are read at half the cost
        self._terms = self._terms_file.data
        for name, (array, _) in arrays.items():
            if array.ndim != 1:
                self._file(name).refuse(f"it has {array.ndim} dimensions instead of one")
        sizes = {
            "positions": len(self.counts),
            "starts": len(self._most) + 1,
            "term_starts": len(self._most) + 1,
            "lengths": _total(facts, "passages", self._lengths_file),
        }
        for name, size in sizes.items():
            if len(arrays[name][0]) != size:
                self._file(name).refuse(
                    f"it has {len(arrays[name][0]):,} numbers, where the other files have {size:,}"
                )
        words, documents = (_total(facts, name, self._lengths_file) for name in ("words", "documents"))
        if words < 1 or not 1 <= documents <= facts["passages"] or not len(self._most):
            self._lengths_file.refuse("the table has no words")

    @classmethod
    def load(cls, directory: Path, *, mapped: bool) -> Table:
        """Open the files of a directory.

        Args:
            directory: where `build_table` wrote them.
            mapped: map the files, which are then compared with their checksums; otherwise read them into memory.

        Raises:
            DamagedFileError: see `Table`.
        """
        try:
            files = (
                open_checked(directory, *LAZY)
                if mapped
                else [CheckedFile(directory / name, mapped=False) for name in LAZY]
            )
            facts = json.loads((directory / "bm25.json").read_text("utf-8"))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFileError(
                f"the BM25 index in {directory} cannot be read ({error}): build it again"
            ) from error
        if not isinstance(facts, dict):
            raise DamagedFileError(
                f"{directory / 'bm25.json'} holds {facts!r:.60}, no totals: build the index again"
            )
        return cls(files, facts)

    @cached_property
    def lengths(self) -> NDArray[np.uint8]:
        """The length code of every passage; compared as a whole when it is first asked for, because it is read at random.

        Raises:
            DamagedFileError: the file has changed since it was written.
        """
        self._lengths_file.check(0, len(self._lengths_file.data))
        return self._lengths

    def find(self, term: str) -> Entry | None:
        """The entry of a term; None if the table does not have it.

        Raises:
            DamagedFileError: what has to be read for it is damaged.
        """
        wanted, count = term.encode(), len(self._most)
        spans, spans_seen, check_spans = self._spans, self._spans_file.seen, self._spans_file.check
        terms, terms_seen, check_terms = self._terms, self._terms_file.seen, self._terms_file.check
        first = self._offsets["term_starts"]

        def text(number: int) -> bytes:
            place = first + 8 * number
            if not (spans_seen[place >> SHIFT] and spans_seen[(place + 15) >> SHIFT]):
                check_spans(place, place + 16)
            low, high = spans[number], spans[number + 1]
            if not 0 <= low < high <= len(terms):
                check_terms(low, high)  # refuses it
                self._terms_file.refuse(f"term {number} is in bytes {low} to {high}")
            if not (terms_seen[low >> SHIFT] and terms_seen[(high - 1) >> SHIFT]):
                check_terms(low, high)
            return terms[low : high - 1]

        number = bisect_left(range(count), wanted, key=text)
        if number == count or text(number) != wanted:
            return None
        return self._entry(number)

    def _entry(self, number: int) -> Entry:
        """The entry of term `number`, after its postings were compared with their checksums."""
        place = self._offsets["starts"] + 8 * number
        self._starts_file.check(place, place + 16)
        place = self._offsets["most"] + 8 * number
        self._most_file.check(place, place + 8)
        start, end, most = self._starts[number], self._starts[number + 1], self._most[number]
        if not 0 <= start < end <= len(self.positions):
            self._starts_file.refuse(
                f"term {number} has postings {start:,} to {end:,} of {len(self.positions):,}"
            )
        if not (math.isfinite(most) and 0 <= most <= 1):
            self._most_file.refuse(f"the largest part of term {number} is {most}")
        place = self._offsets["positions"]
        self._positions_file.check(place + 4 * start, place + 4 * end)
        place = self._offsets["counts"]
        self._counts_file.check(place + start, place + end)
        return Entry(number, start, end, most)

    def refuse_postings(self) -> NoReturn:
        """Raise `DamagedFileError`: a posting is of a passage that does not exist, or out of order."""
        self._positions_file.refuse("postings are out of order or of passages that do not exist")

    def _file(self, name: str) -> CheckedFile:
        return self._files[[array for array, _ in _ARRAYS].index(name)]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Table, (self._files, self.facts))


def _total(facts: dict[str, int], name: str, file: CheckedFile) -> int:
    total = facts.get(name)
    if type(total) is not int or total < 0:
        file.refuse(f"bm25.json beside it says that the index has {total!r:.40} {name}")
    return total
