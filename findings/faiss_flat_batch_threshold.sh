#!/usr/bin/env bash
# faiss: `distance_compute_blas_threshold` has another unit since 1.15: a batch over a flat index on one core is as slow as its
# queries one by one, and the queries of a batch get other score bits from another batch size on.
#
# Versions: faiss-cpu 1.15.1 and 1.12.0, numpy 2.4.6, Python 3.11.
# Behaviour: the threshold was 20, in queries; now it is 128,000, in queries times components, chosen on machines with many
#   threads. With 384 components, batches of up to 333 queries are scored vector by vector. On one thread (a searching service,
#   a forked worker) the 64 queries of a batch then cost as much as 64 searches, and several times what they cost with BLAS, which
#   1.12.0 takes from 20 queries on. Code that sets the threshold to the old 20, or to 100, now takes BLAS for single queries too. And because
#   BLAS sums in another order, a query's scores differ in the last bits between a small batch and one above the threshold (334
#   queries in 1.15.1, 20 in 1.12.0), so near ties change places: whoever caches results, or compares them across batch sizes,
#   must stay on one side of the threshold, or score the best candidates again.
# Seen 2026-11-29:
#   faiss 1.15.1: ms per query: 2.04 alone, 2.08 in a batch of 64, 0.24 with BLAS; other scores than alone from a batch of 334 on
#   faiss 1.12.0: ms per query: 2.34 alone, 0.24 in a batch of 64, 0.23 with BLAS; other scores than alone from a batch of 20 on
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/probe.py" <<'PY'
import sys
import time

import faiss
import numpy as np

ROWS, COMPONENTS = 20_000, 384
faiss.omp_set_num_threads(1)
rng = np.random.default_rng(0)
stored = rng.standard_normal((ROWS, COMPONENTS), np.float32)
stored /= np.linalg.norm(stored, axis=1, keepdims=True)
index = faiss.IndexFlatIP(COMPONENTS)
index.add(stored)


def cost(size):
    """Processor time per query, the least of five searches."""
    times = []
    for _ in range(5):
        started = time.process_time()
        index.search(stored[:size], 10)
        times.append((time.process_time() - started) / size)
    return 1000 * min(times)


def first_other(sizes):
    """The first batch size at which the first query has other scores than alone."""
    alone = index.search(stored[:1], 10)[0][0]
    return next(size for size in sizes if (index.search(stored[:size], 10)[0][0] != alone).any())


default = faiss.cvar.distance_compute_blas_threshold
one, batch = cost(1), cost(64)
other = first_other((2, 19, 20, 64, 333, 334))
faiss.cvar.distance_compute_blas_threshold = 1
blas = cost(64)
print(f"faiss {faiss.__version__}: threshold {default}; ms per query: {one:.2f} alone, {batch:.2f} in a batch of 64, "
      f"{blas:.2f} with BLAS; other scores than alone from a batch of {other} on")
if sys.argv[1] == "1.15.1":
    assert (default, other) == (128_000, 334), (default, other)
    assert batch > 0.6 * one and batch > 1.5 * blas, (one, batch, blas)
else:
    assert (default, other) == (20, 20), (default, other)
    assert batch < 0.6 * one, (one, batch)
PY
for version in 1.15.1 1.12.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "faiss-cpu==$version" numpy==2.4.6
  OPENBLAS_NUM_THREADS=1 "$work/$version/bin/python" "$work/probe.py" "$version"
done
