"""Flat search through 8-bit codes: the same rows and the same bits as faiss, whatever the vectors look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import skip_without
from list_corpus import ListCorpus

skip_without("sentence_transformers", "the extra dense is not installed")
faiss = pytest.importorskip("faiss", reason="the extra dense is not installed")

from searchgym.corpora.dense import scan  # noqa: E402
from searchgym.corpora.dense.index import DENSE_BACKEND  # noqa: E402
from searchgym.corpora.dense.scan import ByteScan  # noqa: E402
from searchgym.errors import RetrievalError  # noqa: E402

ROWS, DIMENSION = 1000, 24
Floats = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 rows, so that a thousand rows are many, and no limit of candidates."""
    monkeypatch.setattr(scan, "_BLOCK", 64)
    monkeypatch.setattr(scan, "_LEAST_ROWS", 128)
    monkeypatch.setattr(scan, "_MOST_HITS", 32)
    monkeypatch.setattr(scan, "_SHARE", 1)


def plain(rng: np.random.Generator) -> Floats:
    stored = rng.standard_normal((ROWS, DIMENSION)).astype(np.float32)
    return stored / np.linalg.norm(stored, axis=1, keepdims=True)


def clustered(rng: np.random.Generator) -> Floats:
    """All rows of a topic are neighbours in the file, the best ones last."""
    centres = plain(rng)[:5]
    stored = np.repeat(centres, ROWS // 5, axis=0) + 0.1 * rng.standard_normal((ROWS, DIMENSION))
    return stored.astype(np.float32)


def tied(rng: np.random.Generator) -> Floats:
    """Forty different vectors, each 25 times."""
    return plain(rng)[rng.integers(0, 40, ROWS)]


def scaled(rng: np.random.Generator) -> Floats:
    """Norms of a thousand to a ten-thousandth."""
    return (plain(rng) * 10 ** rng.uniform(-4, 3, (ROWS, 1))).astype(np.float32)


def sparse(rng: np.random.Generator) -> Floats:
    """One large component, which leaves few codes for the others; a block of zeros."""
    stored = 0.02 * plain(rng)
    stored[np.arange(ROWS), rng.integers(0, DIMENSION, ROWS)] += 1
    stored[128:200] = 0
    return stored.astype(np.float32)


def opposite(rng: np.random.Generator) -> Floats:
    """Every score is negative for the queries that are rows of it, turned round."""
    return np.abs(plain(rng))


KINDS: list[Callable[[np.random.Generator], Floats]] = [plain, clustered, tied, scaled, sparse, opposite]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("k", [1, 7, 32])
def test_rows_and_scores_are_those_of_faiss(make: Callable[[np.random.Generator], Floats], k: int) -> None:
    rng = np.random.default_rng(0)
    stored = np.ascontiguousarray(make(rng))
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(stored)
    queries = np.concatenate([stored[5:300:9], -stored[:20:4], plain(rng)[:11]])
    queries = queries[queries.any(axis=1)]
    found = ByteScan(index, 1).search(queries, k)
    scores, rows = index.search(queries, ROWS)
    for one, all_scores, all_rows in zip(found, scores, rows, strict=True):
        assert one is not None
        last = all_scores[k - 1]
        expected = {(row, score) for row, score in zip(all_rows, all_scores, strict=True) if score >= last}
        assert set(zip(one[1], one[0], strict=True)) == expected  # also those that are equal to the last


def test_few_rows_are_scored_in_full() -> None:
    stored = plain(np.random.default_rng(0))
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(stored)
    codes = scan._Codes(index)
    counts = [len(rows) for rows in codes.candidates(stored[:20], 3) if rows is not None]
    assert len(counts) == 20
    assert np.mean(counts) < 0.05 * ROWS


def test_a_query_of_many_candidates_is_left_to_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    stored = plain(rng)
    stored[500:] = stored[500]  # equal scores: all of them are candidates
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(stored)
    monkeypatch.setattr(scan, "_SHARE", 4)
    found = ByteScan(index, 1).search(stored[[500, 100]], 3)
    assert found[0] is None
    assert found[1] is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-30])
def test_numbers_without_bounds_are_left_to_faiss(value: float) -> None:
    stored = plain(np.random.default_rng(0))
    stored[64:128] = value
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(stored)
    assert ByteScan(index, 1).search(stored[:4], 3) == [None] * 4
    stored[64:128] = 0
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(stored)
    queries = stored[:3].copy()
    queries[1] = value
    queries[2] = 0
    found = ByteScan(index, 1).search(queries, 3)
    assert [one is None for one in found] == [False, True, True]


def test_large_numbers_keep_their_bounds() -> None:
    stored = plain(np.random.default_rng(0)) * np.float32(1e12)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(stored)
    for (scores, rows), best, nearest in zip(
        ByteScan(index, 1).search(stored[:8], 1), *index.search(stored[:8], 1), strict=True
    ):
        assert (scores.tolist(), rows.tolist()) == (best.tolist(), nearest.tolist())


@pytest.fixture
def published(tmp_path: Path, model: str) -> tuple[ListCorpus, dict[str, Any]]:
    """A corpus whose vectors repeat, and the options of a flat index over them."""
    rng = np.random.default_rng(1)
    stored = rng.standard_normal((600, 32)).astype(np.float32)[rng.integers(0, 600, ROWS)]
    np.save(tmp_path / "v.npy", stored)
    corpus = ListCorpus(f"passage {number}" for number in range(ROWS))
    return corpus, {"encoder": model, "kind": "flat", "vectors": str(tmp_path / "v.npy")}


def test_an_index_ranks_the_same_with_and_without_it(
    published: tuple[ListCorpus, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, options = published
    queries = [f"query number {number} of many" for number in range(70)]
    with monkeypatch.context() as patched:
        patched.setattr("searchgym.corpora.dense.index.has_fast_bytes", lambda: False)
        without = DENSE_BACKEND(corpus, **options)
        assert without._scan is None
    monkeypatch.setattr("searchgym.corpora.dense.index.has_fast_bytes", lambda: True)
    index = DENSE_BACKEND(corpus, **options)
    assert index._scan is not None
    assert index.index_hash == without.index_hash
    for k in (1, 3, 20, 31, ROWS):
        expected = without.search(queries, k)
        assert index.search(queries, k) == expected
        assert index.search(queries[3:5], k) == expected[3:5]
    assert index._scan._codes is not None


def test_a_damaged_vector_is_a_failure_with_it_too(
    published: tuple[ListCorpus, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, options = published
    monkeypatch.setattr("searchgym.corpora.dense.index.has_fast_bytes", lambda: True)
    index = DENSE_BACKEND(corpus, **options)
    damaged = faiss.IndexFlatIP(32)
    damaged.add(np.full((ROWS, 32), np.nan, np.float32))
    index._index._shards[0] = damaged
    index._scan = ByteScan(damaged, 1)
    assert all(isinstance(one, RetrievalError) for one in index.search(["a", "b"], 3))


def test_vectors_of_one_component() -> None:
    """torch 2.13 multiplies their codes wrongly: faiss answers, or the products are right."""
    stored = np.random.default_rng(0).standard_normal((ROWS, 1)).astype(np.float32)
    index = faiss.IndexFlatIP(1)
    index.add(stored)
    queries = stored[:8].copy()
    expected = index.search(queries, 1)[1]
    for one, nearest in zip(ByteScan(index, 1).search(queries, 1), expected.tolist(), strict=True):
        assert one is None or one[1].tolist() == nearest
