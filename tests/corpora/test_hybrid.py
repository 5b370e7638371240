"""Rank fusion by hand-worked numbers; its promises, and what a failing part does to it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from searchgym.conformance import check_retriever
from searchgym.corpora.hybrid import Hybrid, open_hybrid
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError, RetrievalError, UnknownIdError
from searchgym.records.retriever import Hit, SearchResult
from searchgym.specs import open_retriever


class Fixed:
    """Gives the same ranking for every query; `calls` has what it was asked."""

    def __init__(self, name: str, ranking: Sequence[tuple[str, float]]) -> None:
        self.name = name
        self.index_hash = f"hash of {name}"
        self.ranking = [Hit(id, "", f"text of {id}", score) for id, score in ranking]
        self.calls: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.calls.append((list(queries), k))
        return [self.ranking[:k] for _ in queries]


class Failing(Fixed):
    """Fails on the query "bad", and altogether on "worse"."""

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        if "worse" in queries:
            raise RetrievalError("no server at all")
        return [RetrievalError("timeout") if query == "bad" else self.ranking[:k] for query in queries]


class Short(Fixed):
    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return []


def fused(hybrid: Hybrid, k: int = 10, query: str = "q") -> list[tuple[str, float]]:
    result = hybrid.search([query], k)[0]
    assert isinstance(result, list)
    return [(hit.id, hit.score) for hit in result]


def test_scores_are_sums_of_reciprocal_ranks() -> None:
    one = Fixed("one", [("a", 9.0), ("b", 8.0), ("c", 7.0)])
    two = Fixed("two", [("c", 0.9), ("d", 0.8)])
    expected = [("c", 1 / 63 + 1 / 61), ("a", 1 / 61), ("b", 1 / 62), ("d", 1 / 62)]
    assert fused(Hybrid([one, two])) == expected  # b before d: equal scores by id
    assert fused(Hybrid([one, two]), 2) == expected[:2]
    assert Hybrid([one, two]).search(["q"], 1)[0] == [Hit("c", "", "text of c", 1 / 63 + 1 / 61)]


def test_three_parts_and_weights() -> None:
    parts = [Fixed("x", [("a", 2.0)]), Fixed("y", [("b", 5.0), ("a", 4.0)]), Fixed("z", [("c", 1.0)])]
    assert fused(Hybrid(parts, weights=[1, 0.5, 3])) == [
        ("c", 3 / 61),
        ("a", 1 / 61 + 0.5 / 62),
        ("b", 0.5 / 61),
    ]


def test_equal_scores_share_a_rank() -> None:
    one = Fixed("one", [("a", 2.0), ("b", 2.0), ("c", 1.0)])
    two = Fixed("two", [("z", 1.0)])
    assert fused(Hybrid([one, two])) == [("a", 1 / 61), ("b", 1 / 61), ("z", 1 / 61), ("c", 1 / 63)]


def test_of_each_part_the_first_hits_count_and_those_equal_to_the_last() -> None:
    one = Fixed("one", [(f"p{i:02}", 5.0 if i < 2 else 4.0 if i < 30 else 3.0) for i in range(40)])
    two = Fixed("two", [("z", 1.0)])
    found = dict(fused(Hybrid([one, two], depth=3), 100))
    assert set(found) == {"z", *(f"p{i:02}" for i in range(30))}  # p02 to p29 share rank 3
    assert [k for _, k in one.calls] == [4, 8, 16, 32]
    assert [k for _, k in two.calls] == [4]
    exact = Fixed("one", [("a", 3.0), ("b", 2.0), ("c", 1.0)])
    assert set(dict(fused(Hybrid([exact, two], depth=2)))) == {"a", "b", "z"}
    assert [k for _, k in exact.calls] == [3]


def test_a_failed_part_fails_the_query_and_only_it() -> None:
    good, failing = Fixed("good", [("a", 1.0)]), Failing("flaky", [("b", 1.0)])
    for parts in ([good, failing], [failing, good]):
        results = Hybrid(parts).search(["fine", "bad", "fine too"], 5)
        assert isinstance(results[1], RetrievalError)
        assert str(results[1]) == "part 'flaky' of hybrid: timeout"
        assert [hit.id for hit in results[0]] == [hit.id for hit in results[2]] == ["a", "b"]  # type: ignore[union-attr]
        with pytest.raises(RetrievalError, match="part 'flaky' of hybrid: no server at all"):
            Hybrid(parts).search(["fine", "worse"], 5)


def test_a_part_that_answers_too_little_is_a_failure() -> None:
    with pytest.raises(RetrievalError, match="'short' of hybrid returned 0 results for 1 queries"):
        Hybrid([Fixed("good", []), Short("short", [])]).search(["q"], 3)


@pytest.mark.parametrize("depth", [3, 7, 100])
def test_it_keeps_the_promises_of_a_retriever(small_corpus: Any, depth: int) -> None:
    parts = ["bm25", {"name": "bm25", "k1": 2.0, "b": 0.9}, {"name": "bm25", "k1": 0.1}]
    hybrid = open_hybrid(small_corpus, parts=parts, depth=depth)
    check_retriever(hybrid, small_corpus)
    again = pickle.loads(pickle.dumps(hybrid))
    assert again.index_hash == hybrid.index_hash
    assert again.search(["river Aln0"], 9) == hybrid.search(["river Aln0"], 9)


def test_the_hash_is_that_of_the_parts_and_options(small_corpus: Any) -> None:
    specs: list[dict[str, Any]] = [
        {"parts": ["bm25", {"name": "bm25", "k1": 2.0}]},
        {"parts": [{"name": "bm25", "k1": 2.0}, "bm25"]},
        {"parts": ["bm25", {"name": "bm25", "k1": 2.1}]},
        {"parts": ["bm25", {"name": "bm25", "k1": 2.0}], "weights": [1, 2]},
        {"parts": ["bm25", {"name": "bm25", "k1": 2.0}], "depth": 99},
    ]
    hashes = [open_hybrid(small_corpus, **spec).index_hash for spec in specs]
    assert len(set(hashes)) == len(specs)
    assert open_hybrid(small_corpus, **specs[0], weights=[1, 1]).index_hash == hashes[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parts": ["bm25"]}, r"hybrid has 1 part\(s\)"),
        ({"parts": "bm25"}, "parts is 'bm25': give a list"),
        ({"parts": ["bm25", "bm26"]}, "unknown retriever 'bm26'"),
        ({"weights": [1.0]}, "give a list of 2 numbers"),
        ({"weights": [1.0, 0]}, "a weight of hybrid is 0"),
        ({"weights": [1.0, True]}, "weight of hybrid is True"),
        ({"weights": [1.0, float("nan")]}, "weight of hybrid is nan"),
        ({"depth": 0}, "depth is 0"),
    ],
    ids=str,
)
def test_bad_options_are_refused(small_corpus: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_hybrid(small_corpus, **{"parts": ["bm25", {"name": "bm25", "k1": 2.0}], **options})
    with pytest.raises(UnknownIdError, match="Did you mean 'weights'"):
        open_retriever({"name": "hybrid", "weight": [1, 1]}, small_corpus)


def test_it_is_a_retriever_by_name(toy: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra dense is not installed")
    pytest.importorskip("faiss", reason="the extra dense is not installed")
    from tiny_encoder import write_encoder

    encoder = str(write_encoder(tmp_path / "encoder"))
    spec = {"name": "hybrid", "parts": ["bm25", {"name": "dense", "encoder": encoder}]}
    env = gym.make("searchgym:SearchQA-v0", corpus=toy, retriever=spec)
    assert json.loads(env.spec.to_json())["kwargs"]["retriever"] == spec  # type: ignore[union-attr]
    env.reset(seed=0)
    info = env.step("<search>river</search>")[4]
    assert (info["retrieval"]["status"], info["retrieval"]["backend"]) == ("ok", "hybrid")
    assert info["hits"]


def test_an_episode_is_truncated_when_a_part_is_down(toy: str) -> None:
    hybrid = Hybrid([Fixed("good", [("a", 1.0)]), Failing("down", [])])
    env = SearchEnv(corpus=toy, retriever=hybrid)
    env.reset(seed=0)
    observation, _, terminated, truncated, info = env.step("<search>worse</search>")
    assert (observation, terminated, truncated) == ("", False, True)
    assert info["retrieval"]["status"] == "error"
    assert info["valid_for_training"] is False
