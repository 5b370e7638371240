"""Searches batches of 64 with the installed build, a round per line of input; `bench_scale.py --against` compares two builds with it.

    python -P batch_probe.py INDEX PASSAGES CORES

Corpus and queries are those of the checkout that the interpreter has installed, and only names that both builds have are
used. INDEX is built if it is not there. Each round prints the queries per second of processor time and of wall time, and a
digest of the hits.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import searchgym  # noqa: E402

BATCH, BATCHES, K = 64, 10, 10


class _Ids:
    """Passages without texts, so that hits cost what the engine costs."""

    def __init__(self, passages: Any) -> None:
        self._size, self._kind = len(passages), type(passages[0])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> Any:
        return self._kind(f"{position:08}", "", "")


def main() -> None:
    directory, size, cores = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, str(Path(searchgym.__file__).parents[1] / "tests" / "benchmarks"))
    from generated import GeneratedCorpus

    from searchgym.corpora import build_index, open_index

    corpus: Any = GeneratedCorpus(size)
    if not directory.exists():
        (backend,) = entry_points(group="searchgym.retrievers", name="bm25")
        build_index(backend.load(), corpus, directory)
    queries = corpus.queries(BATCH * BATCHES)
    corpus.passages = _Ids(corpus.passages)
    index = open_index(directory, corpus)
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    batches = [queries[begin : begin + BATCH] for begin in range(0, len(queries), BATCH)]
    index.search(queries[:1], K)
    for thread in threading.enumerate():  # the one that loads the compiled search
        if "numba" in thread.name:
            thread.join()
    found = [index.search(batch, K) for batch in batches]
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    print(json.dumps({"hits": digest}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for batch in batches:
            index.search(batch, K)
        rates = {
            "processor": len(queries) / (time.process_time() - processor),
            "wall": len(queries) / (time.perf_counter() - wall),
        }
        print(json.dumps(rates), flush=True)


if __name__ == "__main__":
    main()
