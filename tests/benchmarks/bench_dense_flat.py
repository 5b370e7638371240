"""Exact dense search of batches: 8-bit candidates scored again (corpora/dense/scan.py) beside faiss's IndexFlatIP, one thread.

    python tests/benchmarks/bench_dense_flat.py [--size 1000000] [--queries 64] [--k 10] [--rounds 3]

Vectors and queries are those of bench_dense.py, in memory. The three searches take turns: ours; faiss as it is installed, which
from version 1.15 on uses BLAS from queries x components = 128,000 on only; faiss with BLAS for every batch. Printed: medians in
seconds, the ratios, whether all rows and scores are those of faiss without BLAS, candidates per query, the limits of the machine
(bytes per second of a sum over the vectors, and of the 8-bit products alone), and what making the codes takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before these are imported

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_dense import DIMENSION, mixture  # noqa: E402

from searchgym.corpora.dense.scan import _BLOCK, ByteScan, has_fast_bytes  # noqa: E402


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def equal(found: Any, scores: Any, rows: Any, k: int) -> int:
    """Queries whose k best rows and scores are those of a full search."""
    same = 0
    for one, all_scores, all_rows in zip(found, scores, rows, strict=True):
        if one is not None:
            ours = sorted(zip((-one[0]).tolist(), one[1].tolist(), strict=True))[:k]
            same += ours == sorted(zip((-all_scores).tolist(), all_rows.tolist(), strict=True))[:k]
    return same


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not has_fast_bytes():
        raise SystemExit("this processor has no VNNI instructions: flat indexes are searched by faiss")
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(DIMENSION)
    for block in mixture(options.size, seed=1):
        index.add(block)
    queries = np.concatenate(list(mixture(options.queries, seed=2)))
    scan = ByteScan(index, 1)
    first = seconds(lambda: scan.search(queries[:2], options.k))
    shipped = faiss.cvar.distance_compute_blas_threshold
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ours"] = scan.search(queries, options.k)

    def theirs(threshold: int) -> None:
        faiss.cvar.distance_compute_blas_threshold = threshold
        found[str(threshold)] = index.search(queries, options.k)

    runs: dict[str, Callable[[], None]] = {
        "ours": ours,
        "faiss": lambda: theirs(shipped),
        "faiss with BLAS": lambda: theirs(1),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    middle = {name: statistics.median(each) for name, each in times.items()}
    codes = scan._codes
    assert codes is not None
    candidates = [len(rows) for rows in codes.candidates(queries, options.k) if rows is not None]
    vectors = torch.from_numpy(faiss.rev_swig_ptr(index.get_xb(), options.size * DIMENSION))
    read = statistics.median(seconds(vectors.sum) for _ in range(3))
    wanted = torch.zeros((options.queries, DIMENSION), dtype=torch.int8)

    def products() -> None:
        for start in range(0, options.size, _BLOCK):
            torch._int_mm(wanted, codes._codes[start : start + _BLOCK].t())

    multiplied = statistics.median(seconds(products) for _ in range(3))
    operations = 2 * options.size * options.queries * DIMENSION / 1e9
    print(
        f"flat {options.size:,} x {DIMENSION}, batch {options.queries}, k={options.k}, one thread, {options.rounds} rounds in turns, "
        f"faiss {faiss.__version__}: "
        + ", ".join(f"{name} {each:.3f} s" for name, each in middle.items())
        + f"; ours is {middle['faiss'] / middle['ours']:.1f}x faiss and "
        f"{middle['faiss with BLAS'] / middle['ours']:.1f}x faiss with BLAS (rounds: "
        + ", ".join(f"{b / a:.1f}" for a, b in zip(times["ours"], times["faiss with BLAS"], strict=True))
        + f"); equal to faiss in rows and scores: {equal(found['ours'], *found[str(shipped)], options.k)} of "
        f"{options.queries}; candidates per query: median {statistics.median(candidates):.0f}, most {max(candidates)}; "
        f"8-bit products alone {multiplied:.3f} s, {operations / multiplied:.0f} billion operations/s; reading the vectors once "
        f"{read:.3f} s, {4e-9 * options.size * DIMENSION / read:.1f} GB/s; codes made with the first search in {first:.1f} s"
    )


if __name__ == "__main__":
    main()
