"""Numbers that are not finite, in vectors, encoders and scores: refused when indexing, a failure when searching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import skip_without
from list_corpus import ListCorpus
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="the extra dense is not installed")
skip_without("sentence_transformers", "the extra dense is not installed")

import searchgym  # noqa: E402
from searchgym.corpora.dense.encoders import Encoder  # noqa: E402
from searchgym.corpora.dense.index import DENSE_BACKEND  # noqa: E402
from searchgym.corpora.dense.vectors import load_faiss  # noqa: E402
from searchgym.errors import ConfigError, RetrievalError  # noqa: E402
from searchgym.records.question import Question  # noqa: E402
from searchgym.records.retriever import CachedRetriever  # noqa: E402

KINDS = ["flat", "hnsw", "ivf"]
TEXTS = [f"Passage number {n} about otters." for n in range(40)]
CORPUS = ListCorpus(TEXTS, [Question("q", "Where?", ("x",), "train")])


def unit_rows(count: int, dimension: int = 32, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def save_faiss(file: Path, rows: NDArray[Any]) -> None:
    index = load_faiss().IndexFlatIP(rows.shape[1])
    index.add(rows.astype(np.float32))
    load_faiss().write_index(index, str(file))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [0, 17, 39])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_published_row_that_is_not_finite_is_named(
    tmp_path: Path, home: Path, model: str, kind: str, row: int, value: float
) -> None:
    rows = unit_rows(40)
    rows[row, row % 32] = value
    np.save(tmp_path / "v.npy", rows)
    with pytest.raises(
        ConfigError, match=rf"v.npy', row {row} \(passage 'p{row:03}'\) .*not a finite number"
    ):
        DENSE_BACKEND(CORPUS, encoder=model, kind=kind, vectors=str(tmp_path / "v.npy"))
    assert list(home.rglob("*.faiss")) == []


@pytest.mark.parametrize(
    "save",
    [
        lambda file, rows: np.save(file.with_suffix(".npy"), rows.astype(np.float16)),
        lambda file, rows: np.save(
            file.with_suffix(".npy"), np.where(np.isnan(rows), 1e300, rows.astype(float))
        ),
        lambda file, rows: save_faiss(file.with_suffix(".faiss"), rows),
    ],
    ids=["float16", "too large for float32", "faiss"],
)
def test_in_every_kind_of_file(
    tmp_path: Path, model: str, save: Callable[[Path, NDArray[np.float32]], None]
) -> None:
    rows = unit_rows(42)
    rows[29] = np.nan
    save(tmp_path / "v", rows)
    (file,) = tmp_path.glob("v.*")
    (tmp_path / "ids.txt").write_text("".join(f"p{39 - n:03}\n" for n in range(40)) + "x\ny\n")
    with pytest.raises(ConfigError, match=r"row 29 \(passage 'p010'\)"):
        DENSE_BACKEND(CORPUS, encoder=model, vectors=str(file), vector_ids=str(tmp_path / "ids.txt"))


def test_a_row_that_no_passage_has_may_be_anything(tmp_path: Path, model: str) -> None:
    rows = unit_rows(41)
    rows[40] = np.nan
    np.save(tmp_path / "v.npy", rows)
    (tmp_path / "ids.txt").write_text("".join(f"p{n:03}\n" for n in range(41)))
    options = {"vectors": str(tmp_path / "v.npy"), "vector_ids": str(tmp_path / "ids.txt")}
    index = DENSE_BACKEND(CORPUS, encoder=model, **options)
    assert len(index.search(["otters"], 50)[0]) == 40  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1e38, 1e20, 1e13])
def test_vectors_whose_products_may_overflow_are_refused(
    tmp_path: Path, model: str, kind: str, factor: float
) -> None:
    """faiss ends the process when it clusters such vectors."""
    np.save(tmp_path / "v.npy", unit_rows(40) * np.float32(factor))
    with pytest.raises(ConfigError, match=r"row 0 \(passage 'p000'\)"):
        DENSE_BACKEND(CORPUS, encoder=model, kind=kind, vectors=str(tmp_path / "v.npy"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_that_is_not_finite_is_a_failure(
    model: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = DENSE_BACKEND(CORPUS, encoder=model, kind=kind)
    real = index._index.search  # type: ignore[attr-defined]

    def broken(queries: Any, count: int) -> Any:
        scores, rows = real(queries, count)
        return np.where(scores == scores.max(), np.nan, scores), rows

    monkeypatch.setattr(index._index, "search", broken)  # type: ignore[attr-defined]
    assert isinstance(index.search(["otters"], 3)[0], RetrievalError)
    monkeypatch.setattr(index._index, "search", lambda *_: (np.zeros((1, 4)), np.full((1, 4), -1)))  # type: ignore[attr-defined]
    assert isinstance(index.search(["otters"], 3)[0], RetrievalError)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that gives NaN for texts with the word "bad", as half precision does for some."""
    whole = Encoder._model.func  # type: ignore[attr-defined]

    def loaded(self: Encoder) -> Any:
        model = whole(self)

        def spoil(real: Any) -> Any:
            def encode(texts: list[str], **options: Any) -> Any:
                found = real(texts, **options)
                found[["bad" in text for text in texts]] = np.nan
                return found

            return encode

        model.encode_query, model.encode_document = spoil(model.encode_query), spoil(model.encode_document)
        return model

    monkeypatch.setattr(Encoder, "_model", property(loaded))


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("kind", KINDS)
def test_a_passage_that_the_encoder_cannot_encode_is_refused(model: str, home: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"not finite for the passage that begins with 'A bad passage"):
        DENSE_BACKEND(ListCorpus([*TEXTS, "A bad passage."]), encoder=model, kind=kind)
    assert list(home.rglob("*.faiss")) == []


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_the_encoder_cannot_encode_fails_alone(model: str, kind: str) -> None:
    index = DENSE_BACKEND(CORPUS, encoder=model, kind=kind)
    good, bad, again = index.search(["otters", "a bad query", "otters"], 3)
    assert isinstance(bad, RetrievalError)
    assert good == again == index.search(["otters"], 3)[0]
    env = searchgym.SearchEnv(corpus=CORPUS, retriever=CachedRetriever(index), top_k=3)
    env.reset(seed=0)
    observation, _, _, truncated, info = env.step("<search>a bad query</search>")
    assert (observation, truncated, info["retrieval"]["status"]) == ("", True, "error")
    assert info["valid_for_training"] is False


# -- equal vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "equal"), [(499, 300), (1200, 900), (300, 299), (300, 300)])
def test_many_equal_vectors_hide_no_passage(
    tmp_path: Path, model: str, kind: str, count: int, equal: int
) -> None:
    corpus = ListCorpus([f"Different passage {n}." for n in range(count)])
    rows = unit_rows(count)
    rows[:: max(1, count // equal)][:equal] = rows[0]
    rows[-1] = rows[0] * 1.0
    rows[-1][rows[-1] == 0] = -0.0
    np.save(tmp_path / "v.npy", rows)
    options = {"vectors": str(tmp_path / "v.npy"), "encoder": model, "nprobe": 512}
    index, flat = (DENSE_BACKEND(corpus, kind=k, **options) for k in (kind, "flat"))
    queries = [f"query {n}" for n in range(20)]
    recall = [
        len({hit.id for hit in one} & {hit.id for hit in other}) / 10  # type: ignore[union-attr]
        for one, other in zip(index.search(queries, 10), flat.search(queries, 10), strict=True)
    ]
    assert sum(recall) / len(recall) >= 0.95
    everything = index.search(queries[:1], count)[0]
    assert len(everything) == count  # type: ignore[arg-type]
    # Those with equal vectors have equal scores, in order of id.
    assert everything == sorted(everything, key=lambda hit: (-hit.score, hit.id))  # type: ignore[arg-type]


def test_a_hash_covers_how_queries_are_encoded(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bits of the query vectors, as another processor or number of threads gives them, are another hash."""
    one = DENSE_BACKEND(CORPUS, encoder=model)
    assert DENSE_BACKEND(CORPUS, encoder=model).index_hash == one.index_hash
    real = Encoder.encode_query
    monkeypatch.setattr(
        Encoder, "encode_query", lambda self, query: np.nextafter(real(self, query), np.float32(1))
    )
    assert DENSE_BACKEND(CORPUS, encoder=model).index_hash != one.index_hash
