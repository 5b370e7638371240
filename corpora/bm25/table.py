"""The files of a BM25 table, memory-mapped, checked before anything indexes with what they contain.

Sizes and types are compared on opening. Blocks are compared with their checksums when they are first read, those of a
term's postings when the term is first looked up. What passes because checksums were computed of damaged data is caught
too: the record of a term has to end where the next one begins, and the searches refuse passages that do not exist.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import DamagedFileError

from ..indexing.checksums import CheckedFile
from ..indexing.sealed import open_checked
from .analyzer import MAX_LENGTH
from .build import TOGETHER, first_bytes
from .layout import PADDING, PostingList, read_record, unpack
from .shards import length_codes

__all__ = ["LAZY", "Entry", "Table"]

_ARRAYS = (("lengths.npy", "|u1", 1), ("places.npy", "<u4", 1), ("blocks.npy", "<u8", 2))
LAZY = (*(name for name, _, _ in _ARRAYS), "terms.txt", "postings.bin")
"""The files whose blocks are compared when they are first read."""
_LONGEST = 4 * MAX_LENGTH + 1  # bytes of a line of terms.txt


class Entry(NamedTuple):
    """A term of the table: its number, how many passages have it, and its lists of postings."""

    number: int
    frequency: int
    lists: list[PostingList]


class Table:
    """What `build_table` wrote.

    Args:
        files: those of `LAZY`, in this order.
        facts: the content of `bm25.json`.

    Attributes:
        postings: the records of all terms, bytes; see `layout`.
        lengths: the length code of every passage, uint8.
        facts: the totals.

    Raises:
        DamagedFileError: a file is damaged, or the files do not fit together.
    """

    def __init__(self, files: Sequence[CheckedFile], facts: dict[str, int]) -> None:
        self._files, self.facts = tuple(files), facts
        arrays, self._offsets = [], []
        for file, (_, dtype, dimensions) in zip(files, _ARRAYS, strict=False):
            array, offset = file.array(dtype)
            if array.ndim != dimensions:
                file.refuse(f"it has {array.ndim} dimensions instead of {dimensions}")
            arrays.append(array)
            self._offsets.append(offset)
        lengths_file, places_file, blocks_file, self._terms_file, self._postings_file = files
        self._places_file, self._blocks_file = places_file, blocks_file
        self.lengths: NDArray[np.uint8] = arrays[0]
        self.postings: NDArray[np.uint8] = np.frombuffer(self._postings_file.data, np.uint8)
        self._places: NDArray[np.uint32] = arrays[1]
        blocks = arrays[2]
        count = -(-len(self._places) // TOGETHER)
        if blocks.shape != (3, count + 1):
            blocks_file.refuse(
                f"it has the shape {blocks.shape}, where the other files have {count:,} blocks"
            )
        # Numbers of a memoryview are read at half the cost, and `bisect` takes it.
        self._prefixes, self._texts, self._records = (row.data for row in blocks)
        if _total(facts, "passages", lengths_file) != len(self.lengths):
            lengths_file.refuse(
                f"it has {len(self.lengths):,} numbers, where bm25.json has {facts['passages']:,}"
            )
        if _total(facts, "words", lengths_file) < 1 or not count:
            lengths_file.refuse("the table has no words")
        if not 1 <= _total(facts, "documents", lengths_file) <= facts["passages"]:
            lengths_file.refuse(f"bm25.json beside it says that {facts['documents']:,} passages have words")
        self._compared = False  # whether all lengths and all blocks of the vocabulary were
        self._extremes: tuple[int, int] | None = None

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

    def find(self, term: str) -> Entry | None:
        """The entry of a term, whose postings and all lengths can be read then; None if the table does not have it.

        Raises:
            DamagedFileError: what has to be read for it is damaged.
        """
        if not self._compared:  # small, and read at random
            for file in (self._files[0], self._blocks_file):
                file.check(0, len(file.data))
            self._compared = True
        wanted = term.encode()
        prefix, count = first_bytes(wanted), len(self._prefixes) - 1
        low = bisect_left(self._prefixes, prefix, 0, count)
        high = bisect_right(self._prefixes, prefix, low, count)
        block = low - 1 + bisect_right(range(low, high), wanted, key=self._first_term)
        if block < 0:
            return None
        low, high = self._texts[block], self._texts[block + 1]
        self._terms_file.check(low, high)
        lines = b"\n" + self._terms_file.data[low:high]
        place = lines.find(b"\n" + wanted + b"\n")
        if place < 0:
            return None
        number = block * TOGETHER + lines.count(b"\n", 0, place)
        if number >= min(len(self._places), (block + 1) * TOGETHER):
            self._terms_file.refuse(f"block {block} has more than {TOGETHER} terms")
        return self._entry(number)

    def unpacked(self, entry: Entry) -> list[tuple[NDArray[np.int64], int | NDArray[np.uint8]]]:
        """The passages of each list of a term, and its count in them: one number, or one for each.

        Raises:
            DamagedFileError: postings are of passages that do not exist.
        """
        try:
            return list(unpack(self.postings, entry.lists, len(self.lengths)))
        except ValueError:
            self.refuse_postings()

    def extremes(self) -> tuple[int, int]:
        """The length code of the shortest passage with words, and that of twice the mean, which few passages exceed."""
        if self._extremes is None:
            lengths = self.lengths[self.lengths > 0]
            twice = np.array([2 * self.facts["words"] // self.facts["documents"]])
            self._extremes = int(lengths.min(initial=255)), int(length_codes(twice)[0])
        return self._extremes

    def _first_term(self, block: int) -> bytes:
        low = self._texts[block]
        high = min(low + _LONGEST, len(self._terms_file.data))
        self._terms_file.check(low, high)
        return self._terms_file.data[low:high].partition(b"\n")[0]

    def _entry(self, number: int) -> Entry:
        """The entry of term `number`, after its postings were compared with their checksums."""
        block = number // TOGETHER
        place = self._offsets[1] + 4 * number
        self._places_file.check(place, min(place + 8, len(self._places_file.data)))
        start = self._records[block] + int(self._places[number])
        end = self._records[block + 1]
        if number + 1 < min(len(self._places), (block + 1) * TOGETHER):
            end = self._records[block] + int(self._places[number + 1])
        self._postings_file.check(start, end + PADDING)
        try:
            lists = read_record(self._postings_file.data, start, end, len(self.lengths))
        except (ValueError, IndexError) as error:
            self._postings_file.refuse(f"the record of term {number:,} cannot be read ({error})")
        return Entry(number, sum(one.size for one in lists), lists)

    def refuse_postings(self) -> NoReturn:
        """Raise `DamagedFileError`: a posting is of a passage that does not exist."""
        self._postings_file.refuse("postings are impossible, or of passages that do not exist")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Table, (self._files, self.facts))


def _total(facts: dict[str, int], name: str, file: CheckedFile) -> int:
    total = facts.get(name)
    if type(total) is not int or total < 0:
        file.refuse(f"bm25.json beside it says that the index has {total!r:.40} {name}")
    return total
