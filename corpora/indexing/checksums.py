"""Checksums of blocks of files: damage is found when a block is first read, so that opening stays fast at any size.

Every sealed directory has a file with the CRC-32 of each block of its other files. Small files are compared when the
directory is opened. A file that is memory-mapped is compared block by block, each block once per process, before
anything is read from it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import DamagedFileError

__all__ = [
    "BLOCK",
    "CHECKSUMS",
    "DAMAGED",
    "SHIFT",
    "CheckedFile",
    "block_sums",
    "read_checksums",
    "write_checksums",
]

SHIFT = 16
BLOCK = 1 << SHIFT
"""Bytes per checksum. Reading less than that from a disk is hardly faster."""
CHECKSUMS = "checksums.u32"
"""The file of checksums: little-endian, those of one file after the other, in order of name."""
DAMAGED = "damaged.txt"
"""Left in a directory whose damage was found while it was read, so that it is not opened again."""
_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)\{'descr': '(?P<type>[<|][a-z]\d)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>\d{1,18},|\d{1,18}, \d{1,18})\), \} *\n",
    re.DOTALL,
)


def block_sums(file: Path) -> NDArray[np.uint32]:
    """The CRC-32 of every block of a file."""
    sums = []
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            sums.append(zlib.crc32(block))
    return np.array(sums, np.uint32)


def write_checksums(directory: Path, names: Iterable[str]) -> None:
    """Write the checksums of some files of a directory.

    Args:
        directory: the directory.
        names: the files, in order of name.
    """
    sums = [block_sums(directory / name) for name in names]
    np.concatenate([*sums, np.empty(0, np.uint32)]).astype("<u4").tofile(directory / CHECKSUMS)


def read_checksums(directory: Path, sizes: Mapping[str, int]) -> dict[str, NDArray[np.uint32]]:
    """The checksums of each file.

    Args:
        directory: the directory.
        sizes: the size of each file, in order of name.

    Raises:
        OSError: the file of checksums cannot be read.
        ValueError: it does not fit the sizes.
    """
    with open(f"{directory}/{CHECKSUMS}", "rb", buffering=0) as file:
        content = file.readall()
    sums = np.frombuffer(content[: len(content) & -4], "<u4")
    counts = {name: -(-size // BLOCK) for name, size in sizes.items()}
    if len(sums) != sum(counts.values()):
        raise ValueError(
            f"{directory / CHECKSUMS} has {len(sums)} checksums instead of {sum(counts.values())}"
        )
    split, first = {}, 0
    for name, count in counts.items():
        split[name] = sums[first : first + count]
        first += count
    return split


class CheckedFile:
    """The content of a file, memory-mapped or in memory; compared with its checksums before it is first read.

    Callers on a hot path look at `seen` themselves: `check` is needed only for blocks whose flag is 0.

    Args:
        path: the file.
        sums: the checksum of every block; None for a file that this process has just written or checked.
        mapped: map the file; otherwise read it into memory.

    Attributes:
        path: the file.
        data: its bytes.
        seen: one byte per block (of `BLOCK` bytes), 1 if it was compared.
    """

    def __init__(self, path: Path, sums: NDArray[np.uint32] | None = None, *, mapped: bool = True) -> None:
        self.path = path
        self._sums = sums
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            self.data: bytes | mmap.mmap = (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped and size else file.read()
            )
        self.seen = bytearray(b"\1" if sums is None else b"\0") * -(-size // BLOCK)

    def check(self, low: int, high: int) -> None:
        """Compare the blocks of data[low:high], as far as that was not done yet.

        Args:
            low: the first byte.
            high: the byte after the last.

        Raises:
            DamagedFileError: a block has changed since it was written, or the file does not have these bytes.
        """
        if not 0 <= low <= high <= len(self.data):
            self.refuse(f"something else in it points to bytes {low:,} to {high:,} of {len(self.data):,}")
        end = -(-high // BLOCK)
        block = self.seen.find(0, low >> SHIFT, end)
        while block >= 0:
            self._compare(block)
            block = self.seen.find(0, block + 1, end)

    def check_rows(self, rows: NDArray[np.int64], offset: int, size: int) -> None:
        """Compare the blocks of rows of a table in the file.

        Args:
            rows: numbers of rows.
            offset: where row 0 begins.
            size: bytes per row.

        Raises:
            DamagedFileError: see `check`.
        """
        low = (rows * size + offset) >> SHIFT
        high = (rows * size + (offset + size - 1)) >> SHIFT
        flags = np.frombuffer(self.seen, np.uint8)
        if len(rows) and not (int(low.min()) >= 0 and int(high.max()) < len(flags)):
            self.refuse("a row beyond its end is asked for")
        if flags[low].all() and flags[high].all() and int((high - low).max(initial=0)) < 2:
            return
        for first, last in zip(low.tolist(), high.tolist(), strict=True):
            self.check(first << SHIFT, min((last + 1) << SHIFT, len(self.data)))

    def array(self, dtype: str) -> tuple[NDArray[Any], int]:
        """The array in a `.npy` file without reading it, and the byte where it begins.

        Its block is compared when something is read from it: the head of a one-dimensional array says nothing that its
        type and the size of the file do not say as well, and all of that is compared here. Of a two-dimensional one, callers that
        do not know the shape compare the head themselves: `check(0, place)`.

        Args:
            dtype: the type it must have.

        Raises:
            DamagedFileError: the file is not a one- or two-dimensional array of this type.
        """
        # numpy's own reader opens the file again and compiles the head as Python, which takes longer than all checks.
        head = _HEAD.match(self.data)
        if head is None or head.end() != 10 + int.from_bytes(head["size"], "little"):
            self.refuse(f"it is not an array of {dtype} as numpy 1.0 writes it")
        shape = tuple(int(one) for one in head["shape"].split(b",") if one.strip())
        found, offset, count = np.dtype(dtype), head.end(), math.prod(shape)
        if head["type"].decode() != found.str or len(shape) not in (1, 2):
            self.refuse(f"it is an array of {head['type'].decode()} and shape {shape}, not of {dtype}")
        if len(self.data) != offset + count * found.itemsize:
            self.refuse(f"it is an array of shape {shape} in {len(self.data)} bytes")
        return np.frombuffer(self.data, found, count, offset).reshape(shape), offset

    def refuse(self, reason: str) -> NoReturn:
        """Raise `DamagedFileError`, and mark the directory so that it is not opened again.

        Args:
            reason: what is wrong with the file.
        """
        message = f"{self.path} is damaged: {reason}"
        if self._sums is not None:
            with contextlib.suppress(OSError):  # where nothing can be written, it will be found again
                (self.path.parent / DAMAGED).write_text(message, "utf-8")
        raise DamagedFileError(f"{message}. Build it again; if it is in the cache, opening it again does so.")

    def _compare(self, block: int) -> None:
        assert self._sums is not None
        low = block << SHIFT
        if zlib.crc32(self.data[low : low + BLOCK]) != self._sums[block]:
            high = min(low + BLOCK, len(self.data))
            self.refuse(f"bytes {low:,} to {high:,} have changed since it was written")
        self.seen[block] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Of a file in memory, which may be gone, the content is sent.
        if isinstance(self.data, bytes):
            return (_in_memory, (self.path, self.data))
        return (CheckedFile, (self.path, self._sums))


def _in_memory(path: Path, data: bytes) -> CheckedFile:
    file = CheckedFile.__new__(CheckedFile)
    file.path, file.data, file._sums = path, data, None
    file.seen = bytearray(b"\1") * -(-len(data) // BLOCK)
    return file
