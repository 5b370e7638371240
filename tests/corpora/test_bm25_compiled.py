"""The compiled search gives what numpy gives, bit for bit; and how it comes in while numpy answers."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bm25_comparison import compare
from list_corpus import ListCorpus

from searchgym.conformance import check_retriever
from searchgym.corpora import build_index
from searchgym.corpora.bm25 import index as module
from searchgym.corpora.bm25 import layout
from searchgym.corpora.bm25 import loader as bm25_loader
from searchgym.corpora.bm25.index import BM25, BM25_BACKEND

needs_numba = pytest.mark.skipif(
    not bm25_loader.installed(), reason="needs numba: pip install searchgym[fast]"
)


def random_text(rng: random.Random, length: int, vocabulary: int) -> str:
    return " ".join(f"w{int(rng.paretovariate(0.6)) % vocabulary}" for _ in range(length))


def random_corpus(count: int, vocabulary: int) -> ListCorpus:
    rng = random.Random(count)
    texts = [random_text(rng, rng.choice((1, 3, 3, 3, 8, 30)), vocabulary) for _ in range(count)]
    texts[:: count // 40] = ["w1 w2 w5 w5 twin"] * len(texts[:: count // 40])
    return ListCorpus(texts)


def both(index: BM25, query: str, k: int) -> tuple[Any, Any]:
    terms = index._query_terms(query)
    one, other = (next(best([terms], k)) for best in (index._best, index._best_compiled))
    return one, other


QUERIES = [
    "twin", "w1", "w1 w1 w1 w2", "w5 twin w1", "w77 w1", "w1 w2 w3 w4 w5 w6 w7 w8 w9",
    " ".join(f"w{i}" for i in range(0, 400, 3)), "w399 w398 w397 w1 w2",
]  # fmt: skip


@needs_numba
@pytest.mark.parametrize("scan", [0, 3, 10**6])  # all looked up, some, all read
def test_reading_or_looking_up_gives_what_numpy_gives(monkeypatch: pytest.MonkeyPatch, scan: int) -> None:
    """The same Python code, not compiled, so that its constants can be others."""
    from searchgym.corpora.bm25 import compiled as bm25_compiled

    monkeypatch.setattr(bm25_compiled, "_SCAN", scan)
    monkeypatch.setattr(bm25_loader, "_search", bm25_compiled.search.py_func)  # type: ignore[attr-defined]
    monkeypatch.setattr(layout, "_PLAIN_UP_TO", 0)  # as in a large index
    index = BM25.build(random_corpus(9000, 400))
    for query in QUERIES[:4]:
        for k in (1, 17):
            one, other = both(index, query, k)
            assert one == other, (query, k)
            assert one[0]


@needs_numba
def test_compiled_it_gives_what_numpy_gives() -> None:
    assert bm25_loader.wait()
    rng = random.Random(1)
    index = BM25.build(
        random_corpus(70_001, 400)
    )  # several windows, a part of a chunk, and lists of every form
    for query in [*QUERIES, *(random_text(rng, rng.randrange(1, 12), 500) for _ in range(60))]:
        for k in (1, 2, 10, 100, 5000):
            if index._query_terms(query):
                one, other = both(index, query, k)
                assert one == other, (query, k)


@needs_numba
def test_random_corpora_give_what_numpy_gives() -> None:
    """More: `campaigns/bm25_exact.py`."""
    assert bm25_loader.wait()
    assert sum(compare(seed, largest=5000) for seed in range(40)) > 200


@needs_numba
def test_a_batch_is_divided_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the results of each query alone, in order."""
    assert bm25_loader.wait()
    monkeypatch.setattr(module, "_COMPILED_FROM", 0)
    monkeypatch.setattr(module, "default_processes", lambda: 3)
    index = BM25.build(random_corpus(3000, 400))
    rng = random.Random(2)
    queries = [random_text(rng, rng.randrange(1, 5), 400) for _ in range(50)]
    used = set()
    alone = [index.search([query], 7)[0] for query in queries]
    of_one = index._best_of_compiled

    def noted(terms: Any, k: int) -> Any:
        used.add(threading.current_thread().name)
        return of_one(terms, k)

    monkeypatch.setattr(index, "_best_of_compiled", noted)
    assert index.search(queries, 7) == alone
    assert used
    assert threading.main_thread().name not in used


@needs_numba
def test_it_conforms_and_threads_may_share_it(
    small_corpus: ListCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bm25_loader.wait()
    expected = BM25.build(small_corpus).search(["river Aln3", "Mira Voss bridge"], 50)
    monkeypatch.setattr(module, "_COMPILED_FROM", 0)
    monkeypatch.setattr(BM25, "_best", None)  # it is the compiled search indeed
    index = BM25.build(small_corpus)
    check_retriever(index, small_corpus)
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: index.search(["river Aln3", "Mira Voss bridge"], 50), range(200))
        assert all(result == expected for result in results)


def run(code: str, corpus: ListCorpus, tmp_path: Path) -> str:
    """Run code in a fresh process that has `index`, a saved index just opened, at hand."""
    place = build_index(BM25_BACKEND, corpus, tmp_path / "index")
    head = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from list_corpus import ListCorpus
        from searchgym.corpora import open_index
        assert not {{"numba", "bm25s", "torch"}} & set(sys.modules)
        corpus = ListCorpus([(p[0], p[1]) for p in {[(p.title, p.text) for p in corpus.passages]!r}])
        index = open_index({str(place)!r}, corpus)
        from searchgym.corpora.bm25 import index as bm25, loader as bm25_loader
        bm25._COMPILED_FROM = 10
        query = ["Mira Voss bridge"]
        best = index._best
    """
    code = textwrap.dedent(head) + textwrap.dedent(code)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_numba
def test_numpy_answers_until_the_compiled_search_is_there(small_corpus: ListCorpus, tmp_path: Path) -> None:
    code = """
        index._best = lambda *a: [best(*a), assert_light()][0]
        def assert_light():
            assert "numba" not in sys.modules and bm25_loader._thread is None
        first = index.search(query, 5)
        index._best = best
        assert bm25_loader._thread is not None
        meanwhile = index.search(query, 5)
        assert bm25_loader.wait() and bm25_loader.ready()
        index._best = None
        assert index.search(query, 5) == first == meanwhile
        print(first[0][0].id)
    """
    assert run(code, small_corpus, tmp_path) == "p072"


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_it_loads(small_corpus: ListCorpus, tmp_path: Path) -> None:
    code = """
        first = index.search(query, 5)  # the thread has begun
        child = os.fork()
        if child == 0:
            import numba  # would wait forever for an import that never finishes
            assert bm25_loader.ready() and bm25_loader.wait()
            os._exit(0 if index.search(query, 5) == first else 3)
        assert index.search(query, 5) == first
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if index.search(query, 5) == first else 4)
        print(*(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in (child, grandchild)))
    """
    assert run(code, small_corpus, tmp_path) == "0 0"


def test_without_numba_numpy_goes_on(small_corpus: ListCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25_loader, "_search", None)
    monkeypatch.setattr(bm25_loader, "_thread", None)
    monkeypatch.setattr(bm25_loader, "installed", lambda: False)
    monkeypatch.setattr(module, "_COMPILED_FROM", 0)
    index = BM25.build(small_corpus)
    first = index.search(["Mira Voss"], 5)
    assert not bm25_loader.wait()
    assert index.search(["Mira Voss"], 5) == first


def test_a_numba_that_does_not_work_is_said_once(small_corpus: ListCorpus, tmp_path: Path) -> None:
    code = """
        import warnings
        sys.modules["numba"] = None  # importing it fails
        bm25_loader.installed = lambda: True
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first = index.search(query, 5)
            assert not bm25_loader.wait()
            assert index.search(query, 5) == first
        (warning,) = caught
        print(warning.message)
    """
    assert "numba cannot be used, searching with numpy: " in run(code, small_corpus, tmp_path)
