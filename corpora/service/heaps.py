"""Settings of glibc's memory allocator for processes that serve."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["limit_heaps"]

# Parameters of mallopt and their values: bytes, more than asyncio reads at once (2**18); the most heaps.
_M_MMAP_THRESHOLD, _MAPPED = -3, 2**19
_M_ARENA_MAX, _HEAPS = -8, 2


def limit_heaps() -> None:
    """Keep the memory of a server flat. Call it before threads are started: a thread that has a heap keeps it.

    - Large answers go back to the system when they were sent. By default glibc keeps ever larger ones in its heaps.
    - All threads share two heaps. Threads take turns filling bounded caches, and by default each has a heap, which grows to the
      largest share that its thread ever had. With a single heap, cold requests took 1.2 times as long.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library; Windows takes no None
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
