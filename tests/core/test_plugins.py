"""Opening parts by name, path and dict; sharing; errors that say the next move."""

from __future__ import annotations

import builtins
import importlib.metadata
import json
import pickle
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from toys import FixedRetriever, Probe, write_toy

import searchgym
from searchgym import errors
from searchgym.corpora.hybrid import Hybrid
from searchgym.errors import ConfigError, MissingExtraError, PluginError, UnknownIdError
from searchgym.options import plugins
from searchgym.records.question import Corpus
from searchgym.records.retriever import CachedRetriever, Hit, Retriever

Register = Callable[[str, str, str], None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Register]:
    """Adds entry points as an installed package would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    extra: list[importlib.metadata.EntryPoint] = []
    real = importlib.metadata.entry_points

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [*real(group=group), *(e for e in extra if e.group == group)]

    def add(group: str, name: str, value: str) -> None:
        extra.append(importlib.metadata.EntryPoint(name, value, f"searchgym.{group}"))
        plugins._entry_points.cache_clear()

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    yield add
    plugins._entry_points.cache_clear()


def test_opening_by_path_name_dict_and_object(toy: str, small_world: dict[str, Any]) -> None:
    by_path = searchgym.open_corpus(toy)
    assert by_path.hash == searchgym.open_corpus({"name": "jsonl", "path": toy}).hash
    assert by_path is searchgym.open_corpus(toy)
    assert searchgym.open_corpus(by_path) is by_path
    world = searchgym.open_corpus(small_world)
    assert len(world.passages) == 1000
    assert world is searchgym.open_corpus(dict(reversed(list(small_world.items()))))  # a dict has no order
    assert isinstance(world, Corpus)
    retriever = searchgym.open_retriever("bm25", by_path)
    assert retriever is searchgym.open_retriever({"name": "bm25"}, by_path)
    assert retriever is not searchgym.open_retriever({"name": "bm25", "k1": 1.5}, by_path)
    assert retriever is not searchgym.open_retriever("bm25", world)
    assert isinstance(retriever, Retriever)
    fixed = FixedRetriever()
    assert searchgym.open_retriever(fixed, by_path) is fixed


def test_environments_share_one_index(toy: str) -> None:
    first, second = (searchgym.SearchEnv(corpus=toy, top_k=k) for k in (1, 2))
    assert first.retriever is second.retriever
    assert first.corpus is second.corpus
    assert searchgym.SearchVectorEnv(2, corpus=toy).config.retriever is first.retriever


def test_an_edited_corpus_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_toy(tmp_path / "corpus")
    before = searchgym.open_corpus(folder)
    with (Path(folder) / "passages.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "p9", "title": "New", "text": "Something new."}) + "\n")
    after = searchgym.open_corpus(folder)
    assert (len(before.passages), len(after.passages)) == (9, 10)
    assert before.hash != after.hash
    # A relative path means another corpus in another working directory.
    write_toy(tmp_path / "elsewhere" / "corpus")
    sizes = []
    for place in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(place)
        sizes.append((len(searchgym.open_corpus("corpus").passages),))
        sizes.append((len(searchgym.open_corpus({"name": "jsonl", "path": "corpus"}).passages),))
    assert sizes == [(10,), (10,), (9,), (9,)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("contry", "Did you mean 'country'"),
        ("no/such/folder", "not a path either"),
        ({"name": "country", "sise": 3}, "Did you mean 'size'"),
        ({"name": "jsonl"}, "path"),
        ({"name": "jsonl", "path": 3}, "path is 3"),
        ({"nam": "country"}, "give a name, or a dict"),
        ({"name": 3}, "give a name, or a dict"),
        (None, "corpus is None"),
        (7, "corpus is 7"),
        ({"name": "country", "size": {1, 2}}, "not a JSON value"),
        ({"name": "country", "size": 10}, "10"),
    ],
    ids=str,
)
def test_bad_corpora(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        searchgym.open_corpus(spec)
    assert message in str(caught.value)


def test_unknown_names_suggest_and_say_how_to_install() -> None:
    for group, near, meant in (
        ("retrievers", "bm52", "bm25"),
        ("agents", "orakle", "oracle"),
        ("trainers", "grop", "grpo"),
    ):
        with pytest.raises(UnknownIdError) as caught:
            plugins.load(group, near)
        assert f"Did you mean {meant!r}" in str(caught.value)
        assert "installed again" in str(caught.value)
        assert meant in caught.value.known
    assert plugins.names("corpora") == sorted(plugins.names("corpora"))


def test_a_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, register: Register, tmp_path: Path
) -> None:
    (tmp_path / "needs_torch.py").write_text("import torch.nn\nclass Agent: ...\n")
    register("agents", "heavy", "needs_torch:Agent")
    real = builtins.__import__

    def without_torch(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(MissingExtraError) as caught:
        plugins.load("agents", "heavy")
    assert str(caught.value) == "agent 'heavy' needs the module 'torch': pip install \"searchgym[train]\""
    assert isinstance(caught.value, ImportError)


def test_third_party_parts_are_found_like_built_in_ones(register: Register, tmp_path: Path, toy: str) -> None:
    (tmp_path / "strange_parts.py").write_text(
        "from searchgym.records.retriever import Hit\n"
        "class First:\n"
        "    name = 'first'\n"
        "    def __init__(self, corpus, offset=0):\n"
        "        self.index_hash = f'{corpus.hash}-{offset}'\n"
        "        self.hit = corpus.passages[offset]\n"
        "    def search(self, queries, k):\n"
        "        p = self.hit\n"
        "        return [[Hit(p.id, p.title, p.text, 1)] for _ in queries]\n"
        "def none(corpus): return None\n"
        "def nothing(): return 3\n"
        "def fails(): raise KeyError('inside')\n"
    )
    register("retrievers", "first", "strange_parts:First")
    register("retrievers", "none", "strange_parts:none")
    register("corpora", "nothing", "strange_parts:nothing")
    env = searchgym.SearchEnv(corpus=toy, retriever={"name": "first", "offset": 2})
    env.reset()
    hits = env.step("<search>whatever</search>")[4]["hits"]
    assert [(h["id"], h["score"], type(h["score"])) for h in hits] == [("p2", 1.0, float)]
    with pytest.raises(UnknownIdError, match="Did you mean 'offset'"):
        searchgym.SearchEnv(corpus=toy, retriever={"name": "first", "ofset": 2})
    with pytest.raises(PluginError, match="gave a NoneType, not a searchgym Retriever"):
        searchgym.SearchEnv(corpus=toy, retriever="none")
    with pytest.raises(PluginError, match="gave a int, not a searchgym Corpus"):
        searchgym.open_corpus("nothing")


def test_a_name_registered_twice_is_refused(register: Register) -> None:
    value = next(
        e.value for e in importlib.metadata.entry_points(group="searchgym.retrievers") if e.name == "bm25"
    )
    register("retrievers", "bm25", value)  # the same package found twice on the path is harmless
    assert callable(plugins.load("retrievers", "bm25"))
    register("retrievers", "bm25", "json:dumps")
    with pytest.raises(PluginError, match=r"registered twice, as .* and json:dumps"):
        plugins.load("retrievers", "bm25")


def test_every_error_survives_pickling() -> None:
    """Worker processes send errors home; one that cannot be unpickled hangs or hides the cause."""
    made = [
        UnknownIdError("agent", "x", ["y", "xx"], "A hint."),
        MissingExtraError("agent 'tiny'", "torch", "train"),
        *(
            getattr(errors, name)("what, value, next move")
            for name in errors.__all__
            if name.endswith("Error") and name not in ("UnknownIdError", "MissingExtraError")
        ),
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
    for error in made:
        assert isinstance(error, errors.SearchGymError)


# -- the query cache -------------------------------------------------------------------------------------------


@pytest.fixture
def probe(toy: str) -> Probe:
    inner = searchgym.open_retriever("bm25", searchgym.open_corpus(toy))
    return Probe(inner)


def test_the_cache_asks_once_and_never_keeps_a_failure(probe: Probe) -> None:
    cache = CachedRetriever(probe)
    first = cache.search(["Velm", "Tarn", "Velm"], 2)
    assert probe.calls == [["Velm", "Tarn"]]
    assert first[0] == first[2] == probe.inner.search(["Velm"], 2)[0]
    first[0].clear()  # type: ignore[union-attr]
    assert cache.search(["Velm"], 2)[0] == first[2]
    assert (cache.hits, cache.misses) == (2, 2)  # the repeat within the batch, and the later one
    assert cache.search(["Velm"], 1)[0] == first[2][:1]  # type: ignore[index]
    assert probe.calls[1:] == [["Velm"]]
    probe.fails = lambda query: True
    assert isinstance(cache.search(["new"], 2)[0], errors.RetrievalError)
    probe.fails = lambda query: False
    assert cache.search(["new", "Twin"], 2)[0] == []
    assert len(cache.search(["new"], 2)) == 1
    assert probe.calls[-1] == ["new", "Twin"]


class Long:
    """Finds k passages of `length` characters for every query; only `passages` different ones, if given."""

    name, index_hash = "long", "long"

    def __init__(self, length: int, passages: int | None = None) -> None:
        self.length, self.passages, self.asked = length, passages, 0

    def search(self, queries: Sequence[str], k: int) -> list[Any]:
        self.asked += len(queries)
        names = [
            [q if self.passages is None else hash(q) % self.passages, n] for q in queries for n in range(k)
        ]
        hits = [Hit(f"{q} {n}", "T", f"{q} {n} ".ljust(self.length, "x"), 1.0) for q, n in names]
        return [hits[start : start + k] for start in range(0, len(hits), k)]


@pytest.mark.parametrize("length", [10, 1_000, 100_000])
def test_the_cache_is_bounded_in_bytes(length: int) -> None:
    size = 1_000_000
    cache, inner = CachedRetriever(long := Long(length), size=size), Long(length)
    tracemalloc.start()
    for number in range(6 * size // (length + 300)):
        cache.search([str(number)], 1)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / 16 < kept < size  # small entries cost less than their estimate
    asked = long.asked
    assert cache.search([str(number)], 1) == inner.search([str(number)], 1)
    assert long.asked == asked  # the latest is kept
    cache.search(["0"], 1)
    assert long.asked == asked + 1  # the first was dropped


def test_what_is_used_again_stays_in_the_cache() -> None:
    cache = CachedRetriever(long := Long(1_000), size=300_000)
    for number in range(2_000):
        cache.search([str(number), "often"], 1)
    assert long.asked == 2_001


def test_passages_that_several_results_contain_are_kept_once() -> None:
    size = 3_000_000
    cache = CachedRetriever(long := Long(50_000, passages=10), size=size)
    tracemalloc.start()
    for number in range(2_000):
        cache.search([str(number)], 1)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 500_000 < kept < size
    cache.search([str(number) for number in range(2_000)], 1)
    assert long.asked == 2_000  # all of them are there


@pytest.mark.parametrize(("size", "kept"), [(0, False), (1, False), (10_000, False), (40_000, True)])
def test_a_result_larger_than_the_cache_is_not_kept(size: int, kept: bool) -> None:
    cache = CachedRetriever(long := Long(10_000), size=size)
    assert cache.search(["a"], 1) == cache.search(["a"], 1)
    assert long.asked == (1 if kept else 2)


def test_the_size_of_the_cache_is_an_option_of_every_retriever(toy: str) -> None:
    corpus = searchgym.open_corpus(toy)
    small, large = (
        searchgym.open_retriever({"name": "bm25", "cache_bytes": size}, corpus) for size in (0, 2**20)
    )
    for cache, hits in ((small, 0), (large, 1)):
        assert cache.search(["Velm"], 2) == cache.search(["Velm"], 2)
        assert cache.hits == hits  # type: ignore[attr-defined]
    assert searchgym.open_retriever({"name": "bm25", "cache_bytes": 2**20}, corpus) is large
    again = pickle.loads(pickle.dumps(large))
    assert again.search(["Velm"], 2) == large.search(["Velm"], 2)
    for wrong in (-1, 1.5, "1", True):
        with pytest.raises(errors.ConfigError, match="cache_bytes is"):
            searchgym.open_retriever({"name": "bm25", "cache_bytes": wrong}, corpus)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_not_finite_is_a_failure_of_its_query(score: float, place: int) -> None:
    class Broken:
        name, index_hash = "broken", "broken"

        def search(self, queries: Sequence[str], k: int) -> list[Any]:
            scores = [3.0, 2.0, 1.0]
            return [
                [Hit(f"{n}", q, q, score if q == "bad" and n == place else s) for n, s in enumerate(scores)]
                for q in queries
            ]

    good, bad = CachedRetriever(Broken()).search(["good", "bad"], 3)
    assert isinstance(good, list)
    assert isinstance(bad, errors.RetrievalError)
    assert "'broken'" in str(bad)
    (fused,) = Hybrid([Broken(), Broken()]).search(["bad"], 3)
    assert isinstance(fused, errors.RetrievalError)


def test_threads_may_share_a_retriever(probe: Probe) -> None:
    class Slow:
        name, index_hash = "slow", "slow"

        def search(self, queries: Sequence[str], k: int) -> list[Any]:
            return [[Hit(q, q, q, 1.0)] for q in queries]

    cache = CachedRetriever(Slow(), size=3)
    wrong: list[BaseException | str] = []

    def hammer(seed: int) -> None:
        try:
            for i in range(4_000):
                query = str((i * seed) % 7)
                ((hit,),) = cache.search([query], 1)
                if hit.id != query:
                    wrong.append(f"{hit.id} for {query}")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
