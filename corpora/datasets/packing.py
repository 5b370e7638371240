"""Packs passages and questions into memory-mapped files, with bounded memory for any number of them.

Only the ids of one run of passages are in memory at a time: each run is sorted and written, and the runs are merged (an
external merge sort). A dictionary of all ids would take 4 GB for the 21 million passages of Wikipedia.
"""

from __future__ import annotations

import hashlib
import heapq
import mmap
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from searchgym.records.question import Passage

from ..indexing.checksums import BLOCK, SHIFT
from ..indexing.sealed import open_checked
from .lines import Line

__all__ = [
    "Packed",
    "PassageIds",
    "PassagePacker",
    "content_hash",
    "decode_passage",
    "packed_size",
    "save_rows",
]

T = TypeVar("T")

RUN = 250_000
"""Ids that are sorted in memory at a time: about 80 MB."""
_ROW = struct.Struct("<4q")  # where the id, title and text of a passage begin, and where it ends
_ENTRY = struct.Struct("<IQ32s")  # an id's length, which passage it is, and its row of offsets; then the id
_COMPRESSION = 3.2  # plain size of passages by compressed size (2.8 measured on Wikipedia)
_BUFFER = 1 << 20  # bytes read at a time from each run while merging
_SCAN = 16_384  # records after which a scan releases the pages it has read


class Packed(Sequence[T], Generic[T]):
    """A read-only sequence of records in a memory-mapped file, decoded one at a time.

    `NAME.bin` contains the bytes, `NAME.npy` one row of offsets per record: where each field begins, and the end.

    Args:
        store: the directory.
        name: the name of the files.
        decode: makes a record from the bytes and its row of offsets.
    """

    def __init__(self, store: Path, name: str, decode: Callable[[bytes | mmap.mmap, list[int]], T]) -> None:
        self._rows_file, self._file = open_checked(store, f"{name}.npy", f"{name}.bin")
        self.rows: NDArray[np.int64]
        self.rows, self._offset = self._rows_file.array("<i8")
        self._rows_file.check(0, self._offset)  # the size of the file does not say how long the rows are
        if self.rows.ndim != 2:
            self._rows_file.refuse("it is not a table of offsets")
        self._first = 0  # the record of row 0
        self._decode = decode

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[T]: ...
    def __getitem__(self, position: int | slice) -> T | Sequence[T]:
        if isinstance(position, slice):
            part: Packed[T] = Packed.__new__(Packed)
            part.__dict__ |= self.__dict__
            start, _, step = position.indices(len(self.rows))
            if step != 1:  # the rows of the part are then not those of one range of the file
                self._check_rows(0, len(self.rows))
            part.rows, part._first = self.rows[position], self._first + start
            return part
        return self._record(self.row(position))

    def row(self, position: int) -> list[int]:
        """The offsets of a record; negative positions count from the end."""
        place = self._offset + (self._first + position) * (8 * self.rows.shape[1])
        seen = self._rows_file.seen
        if position < 0 or not (seen[place >> SHIFT] and seen[(place + 8 * self.rows.shape[1] - 1) >> SHIFT]):
            index = range(len(self.rows))[position]
            self._check_rows(index, index + 1)
        row: list[int] = self.rows[position].tolist()
        return row

    def read(self, low: int, high: int) -> bytes:
        """The bytes from `low` to `high` of the records."""
        self._file.check(low, high)
        return self._file.data[low:high]

    def __iter__(self) -> Iterator[T]:
        return map(self._record, self.each_row())

    def each_row(self) -> Iterator[list[int]]:
        """The offsets of every record, in order; a scan that decodes nothing and uses little memory."""
        for start in range(0, len(self), _SCAN):
            self._check_rows(start, min(start + _SCAN, len(self)))
            yield from self.rows[start : start + _SCAN].tolist()
            if len(self) > _SCAN and hasattr(mmap, "MADV_DONTNEED"):
                for pages in (self._rows_file.data, self._file.data):
                    if isinstance(pages, mmap.mmap):
                        pages.madvise(
                            mmap.MADV_DONTNEED
                        )  # they stay in the page cache, but not in this process

    def _record(self, row: list[int]) -> T:
        low, high, seen = row[0], row[-1], self._file.seen
        if (
            not 0 <= low < high <= len(self._file.data)
            or high - low >= BLOCK
            or not (seen[low >> SHIFT] and seen[(high - 1) >> SHIFT])
        ):
            self._file.check(low, high)
        try:
            return self._decode(self._file.data, row)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._file.refuse(f"bytes {low:,} to {high:,} are not a record ({error!r:.100})")

    def _check_rows(self, low: int, high: int) -> None:
        size = 8 * self.rows.shape[1]
        first = self._offset + self._first * size
        self._rows_file.check(first + low * size, first + high * size)


def decode_passage(data: bytes | mmap.mmap, row: list[int]) -> Passage:
    """The `decode` of `Packed` for passages."""
    id, title, text, end = row
    return Passage(data[id:title].decode(), data[title:text].decode(), data[text:end].decode())


class PassageIds:
    """The ids of the packed passages, found by bisection."""

    def __init__(self, passages: Packed[Passage]) -> None:
        self._passages = passages

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.position(id) is not None

    def position(self, id: str) -> int | None:
        """The position of the passage with this id; None if there is none."""
        passages, wanted = self._passages, id.encode()

        def text(position: int) -> bytes:
            low, high, *_ = passages.row(position)
            return passages.read(low, high)

        found = bisect_left(range(len(passages)), wanted, key=text)
        if found == len(passages) or text(found) != wanted:
            return None
        return found


class PassagePacker:
    """Writes `passages.bin` and `passages.npy`, ordered by id; refuses duplicate ids.

    Args:
        store: the directory; it also contains the sorted runs until `finish`.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._bytes = (store / "passages.bin").open("wb")
        self._end = 0
        self._count = 0
        self._run: dict[bytes, tuple[int, bytes]] = {}  # id -> the number of the passage, and its row
        self._runs: list[Path] = []
        self._blocks: list[tuple[int, int, Line]] = []  # the first passage of each block of consecutive lines

    def add(self, passage: Passage, line: Line) -> None:
        """Append a passage from `line`; raises `CorpusError` if the run already contains its id."""
        id, title, text = passage.id.encode(), passage.title.encode(), passage.text.encode()
        block = self._blocks[-1] if self._blocks else None
        # Passages and lines have the same numbers, except where a file begins or a line was skipped.
        if block is None or block[2].file != line.file or line.number - block[1] != self._count - block[0]:
            self._blocks.append((self._count, line.number, Line(line.file, line.number, {})))
        if id in self._run:
            raise self._repeated(id, self._run[id][0], self._count)
        start = self._end
        self._bytes.write(id + title + text)
        middle = start + len(id)
        self._end = middle + len(title) + len(text)
        self._run[id] = self._count, _ROW.pack(start, middle, middle + len(title), self._end)
        self._count += 1
        if len(self._run) >= RUN:
            self._write_run()

    def finish(self) -> int:
        """Merge the runs; returns the number of passages. Raises `CorpusError` for a duplicate id."""
        self._bytes.close()
        self._write_run()
        shape = {"descr": "<i8", "fortran_order": False, "shape": (self._count, 4)}
        before, first = None, 0
        with (self._store / "passages.npy").open("wb", buffering=_BUFFER) as out:
            np.lib.format.write_array_header_1_0(out, shape)
            for id, position, row in heapq.merge(*map(_read_run, self._runs)):
                if id == before:
                    raise self._repeated(id, first, position)
                before, first = id, position
                out.write(row)
        for run in self._runs:
            run.unlink()
        return self._count

    def _write_run(self) -> None:
        file = self._store / f"run-{len(self._runs):05d}.tmp"
        with file.open("wb", buffering=_BUFFER) as out:
            for id, (position, row) in sorted(self._run.items()):
                out.write(_ENTRY.pack(len(id), position, row) + id)
        self._runs.append(file)
        self._run = {}

    def _repeated(self, id: bytes, first: int, second: int) -> Exception:
        here, there = self._line(second), self._line(first)
        where = "" if here.file == there.file else f" of {there.file}"
        reason = f"id {id.decode()[:100]!r} was already used in {there.unit} {there.number}{where}"
        return here.error(reason, "Give each line its own id.")

    def _line(self, position: int) -> Line:
        """The line of the passage that was added as number `position`."""
        start, number, line = self._blocks[-1]
        for block in self._blocks:
            if block[0] <= position:
                start, number, line = block
        return Line(line.file, number + position - start, {})


def _read_run(file: Path) -> Iterator[tuple[bytes, int, bytes]]:
    with file.open("rb", buffering=_BUFFER) as stream:
        while head := stream.read(_ENTRY.size):
            length, position, row = _ENTRY.unpack(head)
            yield stream.read(length), position, row


def packed_size(files: Iterable[tuple[str, int]]) -> int:
    """The approximate number of bytes that packing files of passages takes, from their names and sizes."""
    plain = sum(size if name.endswith(".jsonl") else size * _COMPRESSION for name, size in files)
    return int(1.25 * plain)  # less the syntax of JSON, plus offsets and runs


def save_rows(file: Path, offsets: array[int], width: int, order: list[int]) -> None:
    """Write the rows of offsets that `Packed` reads, rearranged into `order`."""
    rows = np.array(offsets, np.int64).reshape(-1, width)
    np.save(file, rows[order], allow_pickle=False)


def content_hash(passages: Packed[Passage]) -> str:
    """A digest of ids, titles and texts, in order."""
    state = hashlib.blake2b(digest_size=16)
    for row in passages.each_row():
        for begin, end in pairwise(row):
            state.update((end - begin).to_bytes(8, "little"))
            state.update(passages.read(begin, end))
    return state.hexdigest()
