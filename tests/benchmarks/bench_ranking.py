"""Prints how many gold passages each retriever finds on the real questions, and hybrid against the better part.

    python tests/benchmarks/bench_ranking.py --corpus ../shared/data/hotpotqa ../shared/data/2wiki

recall@k is the share of a question's gold passages among the first k hits, averaged over questions; all@10 the
share of questions with every gold passage among the first 10. overlap@10 is the share of Lucene's first 10 passages
that are among the embedded BM25's first 10. The difference is hybrid's minus the better single
retriever's in that column; its 95 % interval is a paired bootstrap over questions. A retriever whose extra is not
installed is left out. The first run encodes the passages (minutes); later ones find them in the cache.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import MissingExtraError, PluginError
from searchgym.records.question import Question
from searchgym.records.retriever import Retriever
from searchgym.specs import open_corpus, open_retriever

COLUMNS = ("recall@3", "recall@5", "recall@10", "all@10")
RESAMPLES = 10_000


def first_ten(retriever: Retriever, questions: list[Question]) -> list[list[str]]:
    """The ids of the first 10 hits of every question."""
    results = retriever.search([q.text for q in questions], 10)
    for hits in results:
        if not isinstance(hits, list):
            raise hits
    return [[hit.id for hit in hits] for hits in results if isinstance(hits, list)]


def scores(found_ids: list[list[str]], questions: list[Question]) -> NDArray[np.float64]:
    """[questions, columns]"""
    rows = []
    for question, ids in zip(questions, found_ids, strict=True):
        gold = set(question.supporting_ids)
        found = [len(gold.intersection(ids[:k])) / len(gold) for k in (3, 5, 10)]
        rows.append([*found, float(found[-1] == 1)])
    return np.array(rows)


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--retriever", nargs="+", default=["bm25", "lucene", "dense"], help="names or JSON")
    parser.add_argument("--parts", nargs="+", default=["bm25", "dense"], help="of hybrid")
    options = parser.parse_args()
    for place in options.corpus:
        corpus = open_corpus(place)
        questions = [q for split in corpus.splits for q in corpus.questions(split) if q.supporting_ids]
        print(
            f"{Path(place).name}: {len(corpus.passages):,} passages, {len(questions)} questions, recall in %"
        )
        hits: dict[str, list[list[str]]] = {}
        for name in options.retriever:
            spec = json.loads(name) if name.startswith("{") else name
            try:
                hits[name] = first_ten(open_retriever(spec, corpus), questions)
            except (MissingExtraError, PluginError) as error:
                print(f"  {name}: left out ({error})")
        parts = [json.loads(part) if part.startswith("{") else part for part in options.parts]
        hits["hybrid"] = first_ten(open_retriever({"name": "hybrid", "parts": parts}, corpus), questions)
        table = {name: scores(found, questions) for name, found in hits.items()}
        for name, rows in table.items():
            shown = "  ".join(
                f"{column} {value:5.1f}" for column, value in zip(COLUMNS, 100 * rows.mean(0), strict=True)
            )
            print(f"  {name:<8} {shown}")
        if {"bm25", "lucene"} <= hits.keys():
            pairs = zip(hits["bm25"], hits["lucene"], strict=True)
            overlap = np.mean([len(set(ours) & set(theirs)) / max(1, len(theirs)) for ours, theirs in pairs])
            print(f"  overlap@10 of bm25 with lucene: {overlap:.4f}")
        single = [name for name in options.parts if name in table]
        for column, name in enumerate(COLUMNS):
            best = max(single, key=lambda part: table[part][:, column].mean())
            differences = 100 * (table["hybrid"][:, column] - table[best][:, column])
            low, high = interval(differences)
            print(
                f"  hybrid - {best} {name}: {differences.mean():+.1f} points, 95 % interval [{low:+.1f}, {high:+.1f}]"
            )


if __name__ == "__main__":
    main()
