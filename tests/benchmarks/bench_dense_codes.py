"""How else the rows of an ivf index could be stored: recall, latency, memory and time to build of faiss's other codes.

    python tests/benchmarks/bench_dense_codes.py [--size 100000] [--corpus PATH]

All have the same cells (nlist of corpora/dense/faiss_files.py) and read the same number of them; one thread, vectors and queries of
bench_dense.py, or those of a real corpus. `SQ8` is what `kind="ivf"` stores: the difference to the centre of the cell (the residual)
with eight bits per component. Those with `RFlat` score the best 10 k candidates again with the float32 vectors, which they keep.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before these are imported

import faiss  # noqa: E402
import numpy as np  # noqa: E402
from bench_dense import DIMENSION, QUERIES, exact, latency, mixture, natural  # noqa: E402

from searchgym.corpora.dense.faiss_files import cells_for  # noqa: E402

CODES = ("SQ8", "SQ6", "SQ4", "PQ48", "PQ96x4fs,RFlat", "RaBitQ", "RaBitQ,RFlat", "RQ24x8_Nfloat")
PROBES = 128
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--corpus", help="the directory of a corpus with questions")
    parser.add_argument("--codes", nargs="+", default=CODES)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if options.corpus:
        with tempfile.TemporaryDirectory() as temporary:
            file, queries = natural(options.corpus, Path(temporary))
            vectors = np.load(file)
    else:
        vectors = np.concatenate(list(mixture(options.size, seed=1)))
        queries = np.concatenate(list(mixture(QUERIES, seed=2)))
    cells = cells_for(len(vectors), None)
    truth = exact(vectors, queries)
    for code in options.codes:
        index = faiss.index_factory(DIMENSION, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
        started = time.process_time()
        index.train(vectors)
        trained = time.process_time() - started
        index.add(vectors)
        built = time.process_time() - started
        inner = index.base_index if isinstance(index, faiss.IndexRefine) else index
        faiss.extract_index_ivf(inner).nprobe = PROBES
        if inner is not index:
            index.k_factor = 10
        each = faiss.extract_index_ivf(inner).code_size + 8 + (4 * DIMENSION if inner is not index else 0)
        rows = [set(index.search(query[None], K)[1][0].tolist()) for query in queries]
        recall = np.mean([len(a & b) / K for a, b in zip(rows, truth, strict=True)])
        took = latency(lambda number, index=index: index.search(queries[number][None], K), len(queries))
        print(
            f"IVF{cells},{code} vectors={len(vectors)} nprobe={PROBES} recall@{K}={recall:.3f} cpu50={took['cpu50_ms']:.2f}ms "
            f"cpu99={took['cpu99_ms']:.2f}ms bytes/vector={each} train={trained:.0f}s build={built:.0f}s",
            flush=True,
        )


if __name__ == "__main__":
    main()
