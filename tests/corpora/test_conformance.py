"""The conformance checks themselves: each broken promise must be caught, and named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from searchgym.conformance import check_corpus, check_retriever
from searchgym.corpora.bm25.index import BM25
from searchgym.errors import ConfigError, ConformanceError, RetrievalError, SearchGymError
from searchgym.records.question import Hop, Passage, Question
from searchgym.records.retriever import Hit, SearchResult


class Overlap:
    """A correct retriever in a few lines: the number of words shared with the query."""

    name = "overlap"
    index_hash = "1"

    def __init__(self, corpus: Any) -> None:
        self.passages = corpus.passages

    def score(self, words: set[str], passage: Passage) -> float:
        return float(len(words & set(f"{passage.title} {passage.text}".lower().split())))

    def rank(self, query: str) -> list[Hit]:
        words = set(query.lower().split())
        hits = [Hit(p.id, p.title, p.text, self.score(words, p)) for p in self.passages]
        return sorted((hit for hit in hits if hit.score > 0), key=lambda hit: (-hit.score, hit.id))

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        if k < 1:
            raise ConfigError(f"k={k}")
        return [self.rank(query)[:k] for query in queries]


def test_a_correct_retriever_passes(small_corpus: Any) -> None:
    check_retriever(Overlap(small_corpus), small_corpus)
    check_retriever(Overlap(small_corpus), small_corpus, ["bridge of Bor2", "river"])


class NoName(Overlap):
    name = ""


class NoHash(Overlap):
    index_hash = None  # type: ignore[assignment]


class NoSearch:
    name, index_hash = "none", "1"

    def __init__(self, corpus: Any) -> None: ...


class HashDrifts(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        self.index_hash += "x"
        return super().search(queries, k)


class FindsNothing(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return []


class TooMany(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return super().search(queries, k + 1)


class DropsAResult(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return list(super().search(queries, k))[: max(1, len(queries) - 1)]


class SwapsResults(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return list(super().search(queries, k))[::-1]


class WorstFirst(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return sorted(super().rank(query), key=lambda hit: (hit.score, hit.id))


class TiesByReverseId(Overlap):
    def rank(self, query: str) -> list[Hit]:
        by_id = sorted(super().rank(query), key=lambda hit: hit.id, reverse=True)
        return sorted(by_id, key=lambda hit: -hit.score)


class TiesSortedAfterTheCut(TiesByReverseId):
    """What sorting only the top k gives: ordered, but of the wrong members."""

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        results = super().search(queries, k)
        return [sorted(hits, key=lambda hit: (-hit.score, hit.id)) for hits in results]  # type: ignore[union-attr, arg-type]


class TwinsDiffer(Overlap):
    def score(self, words: set[str], passage: Passage) -> float:
        return super().score(words, passage) and super().score(words, passage) - int(passage.id[1:]) * 1e-6


class ForgetsATwin(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [hit for hit in super().rank(query) if hit.id != "p050"]


class Repeats(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [hit for hit in super().rank(query) for _ in range(2)]


class Invents(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [hit._replace(id=f"x{hit.id}") for hit in super().rank(query)]


class OtherText(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [hit._replace(text=hit.text.lower()) for hit in super().rank(query)]


class IntegerScores(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [hit._replace(score=int(hit.score)) for hit in super().rank(query)]


class NanScores(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [hit._replace(score=float("nan")) for hit in super().rank(query)]


class Tuples(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return [tuple(hit) for hit in super().rank(query)]  # type: ignore[misc]


class Generators(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return [iter(hits) for hits in super().search(queries, k)]  # type: ignore[misc]


class BatchShift(Overlap):
    """Scores depend on the batch, as padded matrix products do."""

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        results = super().search(queries, k)
        return [[h._replace(score=h.score + 1e-9 * len(queries)) for h in hits] for hits in results]  # type: ignore[union-attr]


class Neighbour(Overlap):
    """A query's result depends on the one before it in the batch."""

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        results = super().search(queries, k)
        same = [hits if i == 0 or queries[i] != queries[i - 1] else [] for i, hits in enumerate(results)]
        return same if len(set(queries)) < len(queries) else results


class Moody(Overlap):
    def __init__(self, corpus: Any) -> None:
        super().__init__(corpus)
        self.calls = 0

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        self.calls += 1
        results = super().search(queries, k)
        return [[h._replace(score=h.score + self.calls) for h in hits] for hits in results]  # type: ignore[union-attr]


class EmptyBatch(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return super().search(queries, k) or [[]]


class EmptyFindsAll(Overlap):
    def rank(self, query: str) -> list[Hit]:
        return super().rank(query if query.strip() else "river")


class Encodes(Overlap):
    def rank(self, query: str) -> list[Hit]:
        query.encode()
        return super().rank(query)


class AnyK(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return super().search(queries, max(k, 1))


class WrongErrorForK(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        if k < 1:
            raise IndexError(k)
        return super().search(queries, k)


class LargeKFails(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        if k > len(self.passages):
            raise ValueError("k is larger than the number of passages")
        return super().search(queries, k)


class Fails(Overlap):
    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return [RetrievalError("server down") for _ in queries]


class OneThread(Overlap):
    def __init__(self, corpus: Any) -> None:
        super().__init__(corpus)
        self.owner = threading.get_ident()

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        if threading.get_ident() != self.owner:
            raise RuntimeError("used from another thread than it was made in")
        return super().search(queries, k)


BROKEN: dict[Callable[[Any], Any], str] = {
    NoName: "name is ''",
    NoHash: "index_hash is None",
    NoSearch: "lacks name, index_hash or search",
    HashDrifts: "index_hash changed",
    FindsNothing: "found anything",
    TooMany: "2 hits at k=1|the first k hits depend on k",
    DropsAResult: "results for",
    SwapsResults: "alone and in a batch differ|depend",
    WorstFirst: "score rises",
    TiesByReverseId: "score the same but are not in order of id",
    TiesSortedAfterTheCut: "depend on k .*ordered by id before the cut",
    TwinsDiffer: "scores differ between the identical passages",
    ForgetsATwin: "39 of 40 found of the identical passages",
    Repeats: "occurs twice|hits at k",
    Invents: "is not in the corpus",
    OtherText: "another title or text",
    IntegerScores: "score 1 of|score [0-9]+ of",
    NanScores: "score nan of",
    Tuples: "is a tuple, not a Hit",
    Generators: "not a list",
    BatchShift: "alone and in a batch differ",
    Neighbour: "depends on its neighbours|neighbour",
    Moody: "depend on k|second time",
    EmptyBatch: "an empty batch",
    EmptyFindsAll: "an empty string as a query must find nothing",
    Encodes: "half a surrogate pair as a query raised UnicodeEncodeError",
    AnyK: "k=0 must raise ConfigError, but gave a result",
    WrongErrorForK: "k=0 must raise ConfigError, not IndexError",
    LargeKFails: "raised ValueError at k=78",
    Fails: "failed for .*server down",
    OneThread: "raised RuntimeError .*another thread",
}


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_every_broken_promise_of_a_retriever_is_caught(small_corpus: Any, make: Callable[[Any], Any]) -> None:
    with pytest.raises(ConformanceError, match=BROKEN[make]) as caught:
        check_retriever(make(small_corpus), small_corpus)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, SearchGymError)


def test_the_shuffled_control_does_not_conform(small_corpus: Any) -> None:
    """On purpose: it returns a passage where an identical one was meant."""
    with pytest.raises(ConformanceError, match="identical"):
        check_retriever(BM25.build(small_corpus, shuffle=1), small_corpus)


def test_correct_corpora_pass(small_corpus: Any, make_corpus: Any) -> None:
    check_corpus(small_corpus)
    check_corpus(make_corpus(["no questions at all"]))


def broken_question(corpus: Any, **changes: Any) -> None:
    fields = {"id": "q9", "text": "?", "answers": ("x",), "split": "train", **changes}
    corpus._questions.append(Question(**fields))


def unsort(corpus: Any) -> None:
    corpus.passages[3], corpus.passages[4] = corpus.passages[4], corpus.passages[3]


def repeat(corpus: Any) -> None:
    corpus.passages[3] = corpus.passages[4]


def no_hash(corpus: Any) -> None:
    corpus.hash = ""


def no_passages(corpus: Any) -> None:
    corpus.passages = []


def dictionaries(corpus: Any) -> None:
    corpus.passages[0] = {"id": "p000", "title": "", "text": "x"}


def wrong_errors(corpus: Any) -> None:
    corpus.question = {question.id: question for question in corpus._questions}.get


def other_question(corpus: Any) -> None:
    corpus.question = lambda id: corpus._questions[0]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (unsort, "'p003' follows 'p004'"),
        (repeat, "'p004' follows 'p004'"),
        (no_hash, "corpus.hash is ''"),
        (no_passages, "has len 0"),
        (dictionaries, r"passages\[0\] is a dict"),
        (wrong_errors, r"question\('no such thing'\) must raise UnknownIdError"),
        (other_question, r"corpus.question\('q2'\) differs"),
        (lambda c: broken_question(c, split="validation"), "split 'validation' is not"),
        (lambda c: broken_question(c, answers=()), "'q9' has no answer"),
        (lambda c: broken_question(c, answers=("x", "")), "'q9' has no answer, or an empty one"),
        (lambda c: broken_question(c, id="q1"), "'q1' occurs twice"),
        (lambda c: broken_question(c, supporting_ids=("p999",)), "unknown passages: .*p999"),
        (lambda c: broken_question(c, chain=(Hop("a", "b", ("p998",), "c"),)), "unknown passages: .*p998"),
    ],
)
def test_every_broken_promise_of_a_corpus_is_caught(
    small_corpus: Any, harm: Callable[[Any], None], message: str
) -> None:
    harm(small_corpus)
    with pytest.raises(ConformanceError, match=message):
        check_corpus(small_corpus)
