"""Prints what a corpus of JSONL files costs to open, and how much of the gold evidence BM25 finds in it.

    python tests/benchmarks/bench_jsonl.py DIRECTORY

Recall is the mean share of a question's gold passages among the top k when the question itself is the query;
bm25s's is that of its own tokenizer and `retrieve` with the same k1 and b.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import bm25s  # noqa: E402
import Stemmer  # noqa: E402

from searchgym.corpora.bm25.index import open_bm25  # noqa: E402
from searchgym.corpora.datasets.jsonl import open_jsonl  # noqa: E402
from searchgym.scoring import recall  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    directory = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as home:
        os.environ["SEARCHGYM_HOME"] = home
        times = []
        for _ in range(3):
            started = time.perf_counter()
            corpus = open_jsonl(directory)
            times.append(time.perf_counter() - started)
        asked = [q for split in corpus.splits for q in corpus.questions(split) if q.supporting_ids]
        queries = [question.text for question in asked]
        ours = [[hit.id for hit in hits] for hits in open_bm25(corpus).search(queries, 10)]  # type: ignore[union-attr]

        stemmer = Stemmer.Stemmer("porter")
        passages = list(corpus.passages)
        index = bm25s.BM25(k1=0.9, b=0.4)
        texts = [f"{p.title}\n{p.text}" for p in passages]
        index.index(
            bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
        )
        rows, _ = index.retrieve(
            bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, show_progress=False),
            k=10,
            show_progress=False,
        )
        theirs = [[passages[position].id for position in row] for row in rows.tolist()]

        def found(results: Sequence[Sequence[str]], k: int) -> float:
            return sum(
                recall(ids[:k], q.supporting_ids) for ids, q in zip(results, asked, strict=True)
            ) / len(asked)

        print(
            f"jsonl {corpus.name} passages={len(passages)} questions={len(asked)} packed={times[0]:.2f}s "
            f"opened={min(times[1:]) * 1000:.0f}ms recall@3/5/10="
            + "/".join(f"{found(ours, k):.3f}" for k in (3, 5, 10))
            + " bm25s="
            + "/".join(f"{found(theirs, k):.3f}" for k in (3, 5, 10))
        )


if __name__ == "__main__":
    main()
