"""Embedded BM25 against a slow plain version, and its promises on ties, files and odd input."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchgym.conformance import check_retriever
from searchgym.corpora.bm25 import index as module
from searchgym.corpora.bm25 import shards
from searchgym.corpora.bm25.analyzer import stem, words
from searchgym.corpora.bm25.index import BM25, MAX_QUERY_TERMS, open_bm25
from searchgym.errors import ConfigError, CorpusError
from searchgym.records.retriever import CachedRetriever, Retriever


def terms(text: str) -> list[str]:
    found = words(text)
    stems = stem(found)
    return [stems[word] for word in found if word in stems]


def rounded(length: int) -> int:
    """Lucene's one-byte length, from its definition: exact up to 40, then four significant bits beyond 24."""
    if length < 40:
        return length
    shift = (length - 24).bit_length() - 4
    return 24 + ((length - 24) >> shift << shift)


def plain_bm25(corpus: Any, query: str, k1: float = 0.9, b: float = 0.4) -> list[tuple[str, float]]:
    """All hits by the formula, in double precision, ordered as promised."""
    documents = [Counter(terms(f"{p.title}\n{p.text}")) for p in corpus.passages]
    lengths = [sum(document.values()) for document in documents]
    average = sum(lengths) / len(documents)
    scored = []
    for passage, document, length in zip(corpus.passages, documents, lengths, strict=True):
        score = 0.0
        for term in terms(query):
            tf = document[term]
            df = sum(term in d for d in documents)
            if tf:
                idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                score += idf * tf / (tf + k1 * (1 - b + b * rounded(length) / average))
        if score:
            scored.append((passage.id, score))
    return sorted(scored, key=lambda pair: (-round(pair[1], 9), pair[0]))


def random_text(rng: random.Random, length: int, vocabulary: int) -> str:
    return " ".join(f"w{int(rng.paretovariate(0.7)) % vocabulary}" for _ in range(length))


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (0.0, 0.0), (2.0, 1.0)])
def test_scores_and_order_are_those_of_the_formula(make_corpus: Any, k1: float, b: float) -> None:
    rng = random.Random(7)
    corpus = make_corpus(random_text(rng, rng.randrange(1, 300), 60) for _ in range(200))
    index = BM25.build(corpus, k1=k1, b=b)
    for _ in range(15):
        query = random_text(rng, rng.randrange(1, 12), 60)
        expected = plain_bm25(corpus, query, k1, b)
        hits = index.search([query], 200)[0]
        assert {hit.id for hit in hits} == {id for id, _ in expected}
        assert dict(expected) == pytest.approx({hit.id: hit.score for hit in hits}, rel=1e-12)
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], rel=1e-12)


def test_ties_are_ordered_by_id_across_every_cut(make_corpus: Any) -> None:
    """Few words, many identical passages: the top k of the full ordering, for every k and any batch."""
    rng = random.Random(3)
    corpus = make_corpus(random_text(rng, 3, 6) for _ in range(700))
    index = BM25.build(corpus)
    queries = [random_text(rng, n, 6) for n in (1, 1, 2, 3, 4)]
    for query, everything in zip(queries, index.search(queries, 1000), strict=True):
        assert everything == sorted(everything, key=lambda hit: (-hit.score, hit.id))
        assert len({hit.score for hit in everything}) < len(everything) / 3  # there are ties indeed
        for k in (*range(1, 40), 63, 64, 65, 127, 128, 129, 300, 699, 700, 701, np.int64(12)):
            assert index.search([query], k)[0] == everything[:k]


@pytest.mark.parametrize("scores_at_once", [1, 1_000, 3_000, 1 << 16])
def test_queries_that_are_computed_together_find_what_each_finds_alone(
    make_corpus: Any, monkeypatch: pytest.MonkeyPatch, scores_at_once: int
) -> None:
    rng = random.Random(11)
    index = BM25.build(make_corpus(random_text(rng, rng.choice((3, 3, 9)), 40) for _ in range(500)))
    queries = [random_text(rng, n % 7, 40) for n in range(40)]  # some are empty
    for k in (1, 3, 40, 500):
        alone = [index.search([query], k)[0] for query in queries]
        monkeypatch.setattr(module, "_SCORES_AT_ONCE", scores_at_once)
        assert index.search(queries, k) == alone
        monkeypatch.undo()


def test_it_conforms(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    assert isinstance(index, Retriever)
    check_retriever(index, small_corpus)
    check_retriever(CachedRetriever(index), small_corpus)
    check_retriever(open_bm25(small_corpus, k1=1.2, b=0.75), small_corpus)


def test_only_passages_with_a_word_of_the_query_are_hits(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    assert [hit.id for hit in index.search(["Mira"], 10)[0]] == [f"p{i:03}" for i in range(72, 77)]
    assert index.search(["", "of the and", "zzz unknown", "?!"], 10) == [[], [], [], []]
    assert index.search([], 10) == []


def test_stop_words_match_nothing_even_beside_a_word_without_stem(make_corpus: Any) -> None:
    index = BM25.build(make_corpus(["grade s steel", "the river", "of the town"]))
    assert index.search(["the of"], 3) == [[]]
    assert [hit.id for hit in index.search(["the s of"], 3)[0]] == ["p000"]


def test_titles_are_searched_and_hits_carry_the_passage(small_corpus: Any) -> None:
    hit = BM25.build(small_corpus).search(["Voss"], 1)[0][0]
    passage = small_corpus.passages[72]
    assert (hit.id, hit.title, hit.text) == (passage.id, passage.title, passage.text)
    assert type(hit.score) is float


def test_repeated_words_count_as_often_as_they_occur(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    once, thrice = index.search(["river", "river RIVERS river"], 100)
    assert [hit.id for hit in thrice] == [hit.id for hit in once]
    assert [hit.score for hit in thrice] == pytest.approx([3 * hit.score for hit in once])


def test_a_query_is_cut_after_so_many_distinct_known_words(make_corpus: Any) -> None:
    known = [f"word{i}" for i in range(MAX_QUERY_TERMS + 50)]
    index = BM25.build(make_corpus([*known, "filler"]))
    noise = "unknown0 of the "  # neither unknown words nor stop words use up the limit
    hits = index.search([noise + " ".join([*known, known[0]])], 10_000)[0]
    assert {hit.text for hit in hits} == set(known[:MAX_QUERY_TERMS])
    assert hits[0].text == known[0]  # counted twice, although its second occurrence comes after the limit


def test_one_megabyte_of_text_is_a_query(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    rng = random.Random(1)
    letters = "".join(rng.choice("abcdefghij éü東ひ-") for _ in range(1_000_000))
    results = index.search([letters, "river " * 170_000, "\ud800" * 1_000_000, "s" * 1_000_000], 3)
    assert len(index._query_terms(letters)) <= MAX_QUERY_TERMS
    assert [hit.id for hit in results[1]] == [hit.id for hit in index.search(["river"], 3)[0]]
    assert results[2:] == [[], []]


def test_the_tables_start_afresh_when_they_are_full(
    small_corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHED_WORDS", 5)
    monkeypatch.setattr(module, "_CACHED_PASSAGES", 3000)
    monkeypatch.setattr(module, "_CACHED_GAINS", 160)
    index = BM25.build(small_corpus)
    before = index.search(["river hills town bridge"], 9)
    index.search([f"noise{i} river" for i in range(50)], 3)
    assert len(index._words) <= 5
    assert sum(len(gains) for _, gains in index._gains.values()) <= 80
    kept = index._cached_passages
    assert 0 < sum(module._passage_bytes(*entry) for entry in kept.items()) <= 1500
    assert len(kept) < 9
    assert index.search(["river hills town bridge"], 9) == before


@pytest.mark.parametrize("k", [0, -1, 1.0, "3", None, True])
def test_bad_k(small_corpus: Any, k: Any) -> None:
    with pytest.raises(ConfigError, match=r"k is .*whole number"):
        BM25.build(small_corpus).search(["river"], k)


def test_bad_queries(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    with pytest.raises(ConfigError, match="pass a list of strings"):
        index.search("river", 3)
    with pytest.raises(ConfigError, match="NoneType"):
        index.search(["river", None], 3)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k1": -0.1}, "k1 is -0.1: give a number from 0"),
        ({"k1": float("nan")}, "k1 is nan"),
        ({"k1": float("inf")}, "k1 is inf"),
        ({"b": 1.1}, "b is 1.1: give a number from 0 to 1"),
        ({"b": "0.4"}, "b is '0.4'"),
        ({"k1": True}, "k1 is True"),
        ({"shuffle": -1}, "shuffle is -1"),
        ({"shuffle": 0.5}, "shuffle is 0.5"),
        ({"shuffle": True}, "shuffle is True"),
    ],
)
def test_bad_settings(small_corpus: Any, home: Path, setting: dict[str, Any], message: str) -> None:
    for make in (BM25.build, open_bm25):
        with pytest.raises(ConfigError, match=message):
            make(small_corpus, **setting)
    assert not home.exists()


def test_corpora_that_cannot_be_indexed(make_corpus: Any, home: Path) -> None:
    with pytest.raises(CorpusError, match="0 passages without any word"):
        BM25.build(make_corpus([]))
    with pytest.raises(CorpusError, match="2 passages without any word"):
        open_bm25(make_corpus(["?!", "the of"]))
    assert [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    unsorted = make_corpus(["river", "town", "hill"])
    unsorted.passages = [unsorted.passages[i] for i in (0, 2, 1)]
    with pytest.raises(CorpusError, match="not sorted by id: 'p001' follows 'p002'"):
        BM25.build(unsorted)


def test_the_hash_names_everything_that_fixes_the_ranking(small_corpus: Any, make_corpus: Any) -> None:
    same = [BM25.build(small_corpus), BM25.build(small_corpus, k1=0.9), open_bm25(small_corpus)]
    others = [
        BM25.build(small_corpus, k1=1),
        BM25.build(small_corpus, b=0.5),
        BM25.build(small_corpus, shuffle=0),
        BM25.build(small_corpus, shuffle=1),
        BM25.build(make_corpus(["another text"])),
    ]
    assert len({index.index_hash for index in same}) == 1
    assert len({index.index_hash for index in [same[0], *others]}) == 1 + len(others)


def test_shuffle_returns_another_passage_for_every_passage(make_corpus: Any) -> None:
    corpus = make_corpus(f"unique{i} river" for i in range(50))
    plain, shuffled, twin = BM25.build(corpus), BM25.build(corpus, shuffle=5), open_bm25(corpus, shuffle=5)
    queries = [f"unique{i}" for i in range(50)]
    returned = [hits[0].id for hits in shuffled.search(queries, 3)]
    assert sorted(returned) == [passage.id for passage in corpus.passages]
    assert all(id != hits[0].id for id, hits in zip(returned, plain.search(queries, 3), strict=True))
    assert twin.search(queries, 3) == shuffled.search(queries, 3)
    ties = shuffled.search(["river"], 20)[0]
    assert [hit.id for hit in ties] == [f"p{i:03}" for i in range(20)]  # ties are by the id that is returned


def test_the_rearrangement_of_a_seed_never_changes() -> None:
    assert shards._derangement(8, 0).tolist() == [5, 7, 1, 0, 6, 4, 2, 3]
    assert shards._derangement(1, 0).tolist() == [0]
