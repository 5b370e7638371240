"""Prints what the embedded BM25 does on the default world: build, open, queries per second of one thread.

    python tests/benchmarks/bench_bm25.py

bm25s's own `retrieve` runs in the same process on the same queries, tokenised by its own `tokenize`, in turns
with ours. Seconds are processor time. `--corpus` takes another corpus name or directory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import bm25s  # noqa: E402
import Stemmer  # noqa: E402

from searchgym.corpora import build_index, open_index  # noqa: E402
from searchgym.corpora.bm25.index import BM25, BM25_BACKEND, open_bm25  # noqa: E402
from searchgym.records.retriever import CachedRetriever  # noqa: E402
from searchgym.specs import open_corpus  # noqa: E402


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()  # of this process alone: a busy machine matters little
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="country")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    k = options.k

    corpus = open_corpus(options.corpus)
    asked = [question.text for split in corpus.splits for question in corpus.questions(split)]
    queries = asked[: options.queries]
    passages = list(corpus.passages)

    build = min(seconds(lambda: BM25.build(corpus)) for _ in range(3))
    with tempfile.TemporaryDirectory() as directory:
        index = build_index(BM25_BACKEND, corpus, Path(directory) / "index")
        opened = min(seconds(lambda: open_index(index, corpus)) for _ in range(5))
    ours = open_bm25(corpus)

    stemmer = Stemmer.Stemmer("porter")
    theirs = bm25s.BM25(k1=0.9, b=0.4, backend="numpy")

    def tokenize(texts: list[str]) -> object:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    theirs.index(tokenize([f"{p.title}\n{p.text}" for p in passages]), show_progress=False)

    def our_batches() -> None:
        for start in range(0, len(queries), options.batch):
            ours.search(queries[start : start + options.batch], k)

    def our_singles() -> None:
        for query in queries:
            ours.search([query], k)

    def their_batches() -> None:
        for start in range(0, len(queries), options.batch):
            part = tokenize(queries[start : start + options.batch])
            ids, scores = theirs.retrieve(part, k=k, show_progress=False, n_threads=0)
            for row, row_scores in zip(ids.tolist(), scores.tolist(), strict=True):
                for position, score in zip(row, row_scores, strict=True):
                    _ = (passages[position], score)

    cached = CachedRetriever(ours)

    def from_cache() -> None:
        for start in range(0, len(queries), options.batch):
            cached.search(queries[start : start + options.batch], k)

    runs = {"batched": our_batches, "single": our_singles, "bm25s": their_batches, "cached": from_cache}
    for work in runs.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, work in runs.items():
            times[name].append(seconds(work))
    rate = {name: len(queries) / statistics.median(values) for name, values in times.items()}
    print(
        f"bm25 {corpus.name} passages={len(passages)} k={k} batch={options.batch} "
        f"build={build:.2f}s open={opened * 1000:.0f}ms batched={rate['batched']:.0f}/s "
        f"single={rate['single']:.0f}/s cached={rate['cached']:.0f}/s bm25s_retrieve={rate['bm25s']:.0f}/s "
        f"batched/bm25s={rate['batched'] / rate['bm25s']:.1f}x"
    )


if __name__ == "__main__":
    main()
