"""The query cache stays within its bound over 100,000 different queries.

    python tests/campaigns/query_cache_memory.py

Prints by how much each process grew; exits with 1 if one grew by more than the bound. Each case runs in a process of its
own, because memory that was freed stays with a process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from searchgym.records.retriever import CACHE_BYTES, CachedRetriever, Hit

QUERIES = 100_000
CASES = {"short": (200, None), "usual": (2_000, None), "long": (43_000, None), "shared": (2_000, 5_000)}
"""Characters of a passage, and how many different ones there are; None for new ones in every result."""


class Passages:
    """Finds passages of a given length, as a remote server sends them: new strings for every reply."""

    name, index_hash = "passages", "passages"

    def __init__(self, length: int, distinct: int | None) -> None:
        self.length, self.distinct = length, distinct

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[self._hit(int(query) * k + n) for n in range(k)] for query in queries]

    def _hit(self, number: int) -> Hit:
        if self.distinct is not None:
            number = number * 7919 % self.distinct
        return Hit(str(number), f"Title {number}", f"{number} ".ljust(self.length, "x"), 1.0)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(case: str) -> None:
    cache = CachedRetriever(Passages(*CASES[case]))
    before = largest = resident()
    for number in range(QUERIES):
        cache.search([str(number)], 5)
        if number % 500 == 0:
            largest = max(largest, resident())
    grown = max(largest, resident()) - before
    print(f"{case}: {QUERIES:,} queries, {grown / 2**20:.0f} MB more, bound {CACHE_BYTES / 2**20:.0f} MB")
    sys.exit(grown > CACHE_BYTES)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        measure(sys.argv[1])
    codes = [subprocess.run([sys.executable, __file__, case], check=False).returncode for case in CASES]
    sys.exit(any(codes))
