"""Freed memory that the C library keeps, given back to the system.

glibc serves blocks of less than 32 MB from a heap and keeps the pages of those that are freed. The tensors of a growing
cache, and of passes of different lengths, rarely fit the holes that others left. So the heap of a long run becomes two to three
times as large as what it ever holds at one time, unless the pages of holes are given back now and then.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["give_back_freed"]

_SPARE = 2**28  # bytes that may stay: to give back pages that are needed again at once costs time


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def give_back_freed() -> None:
    """Return the pages of freed blocks to the system, if there are many; without glibc 2.33 or later nothing happens."""
    libc = _glibc()
    if libc is not None and libc.mallinfo2().fordblks >= _SPARE:
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Usage
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError, TypeError):  # another C library; Windows takes no None
        return None
    return libc
