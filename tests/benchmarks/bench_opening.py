"""What comparing an index with its checksums costs when a new process opens it, and with the first query.

    python tests/benchmarks/bench_opening.py [--passages 60000] [--rounds 5]

Each round is a process of its own, in which the corpus is open already; medians in milliseconds. Reading the manifest does not
count as a check: its key says what the index was made from, which has to be read in any case.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from searchgym.corpora import build_index, open_index
from searchgym.corpora.bm25 import BM25_BACKEND
from searchgym.corpora.indexing import backend, sealed
from searchgym.corpora.indexing.checksums import CheckedFile
from searchgym.specs import open_corpus


class Clock:
    """Adds up the time in some functions, which may call each other."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts."""

        def timed(*arguments: Any, **options: Any) -> Any:
            started, self._depth = time.perf_counter(), self._depth + 1
            try:
                return function(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - started

        return timed

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time does not count where another one calls it."""

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                if self._depth:
                    self.seconds -= time.perf_counter() - started

        return timed


def child(passages: int, directory: str) -> None:
    """Open the index in this process and print what it took."""
    corpus = open_corpus({"name": "country", "size": passages})
    _ = corpus.passages[0], corpus.hash
    clock = Clock()
    checks: tuple[tuple[Any, str], ...] = (
        (backend, "damage"),
        (sealed, "read_checksums"),
        (CheckedFile, "check"),
    )
    for owner, name in checks:
        setattr(owner, name, clock.around(getattr(owner, name)))
    sealed._read_manifest = clock.apart(sealed._read_manifest)
    started = time.perf_counter()
    index = open_index(directory, corpus)
    opened, checked = time.perf_counter() - started, clock.seconds
    index.search(["Which river flows past the town?"], 5)
    print(json.dumps([opened, checked, time.perf_counter() - started, clock.seconds]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--passages", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.passages, options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = f"{folder}/index"
        build_index(BM25_BACKEND, open_corpus({"name": "country", "size": options.passages}), directory, {})
        command = [sys.executable, __file__, "--passages", str(options.passages), "--child", directory]
        rows = [json.loads(subprocess.check_output(command)) for _ in range(options.rounds)]
    opened, checked, answered, checked_all = (1e3 * median(column) for column in zip(*rows, strict=True))
    print(f"opening: {opened:.1f} ms, checks {checked:.2f} ms: {checked / opened:.1%}")
    print(
        f"with the first query: {answered:.1f} ms, checks {checked_all:.2f} ms: {checked_all / answered:.1%}"
    )


if __name__ == "__main__":
    main()
