"""The retrieval service over real sockets: the protocol, its limits, failures, load, workers and stopping."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import preloaded
import pytest
from click.testing import CliRunner
from list_corpus import ListCorpus

from searchgym.cli import main
from searchgym.conformance import check_retriever
from searchgym.corpora import BM25
from searchgym.errors import ConfigError, IndexMismatchError, RetrievalError
from searchgym.lru import LRUCache
from searchgym.records.retriever import Hit, SearchResult

MODULES = ("starlette", "uvicorn", "httpx", "prometheus_client")
pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(module) for module in MODULES),
    reason='needs pip install "searchgym[serve]"',
)
if all(importlib.util.find_spec(module) for module in MODULES):
    import httpx
    import numpy as np

    from searchgym.corpora.service import app as app_module
    from searchgym.corpora.service.client import RemoteRetriever, open_remote
    from searchgym.corpora.service.limits import Limits
    from searchgym.corpora.service.requests import Form
    from searchgym.corpora.service.server import served

DIRECT: dict[str, Any] = {"trust_env": False, "verify": False}
"""Of requests to this machine: no proxy, and no certificates, which each client would read anew in 27 ms."""


class Server:
    """The service in a thread of this process.

    Attributes:
        url: where it listens.
    """

    def __init__(self, retriever: Any, corpus: Any = None, **limits: Any) -> None:
        self._served = served(retriever, corpus, Limits(**limits))

    def __enter__(self) -> Server:
        self.url, app = self._served.__enter__()
        self.guard = app.state.guard
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__(None, None, None)

    def post(self, body: Any = None, **options: Any) -> httpx.Response:
        options |= {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(f"{self.url}/retrieve", **DIRECT, timeout=20, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, **DIRECT, timeout=20)


class Scripted:
    """A retriever that finds the query itself, can be held, and remembers what it was asked."""

    name, index_hash = "scripted", "hash-of-scripted"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        self.calls.append((list(queries), k))
        assert self.gate.wait(10)
        if "raise" in queries:
            raise RetrievalError("the whole index is down")
        if "bug" in queries:
            raise KeyError("a bug")
        if "short" in queries:
            return []
        return [
            RetrievalError("this one failed")
            if "fail" in query
            else [Hit(query, "T", f"about {query}", 2.5)][:k]
            for query in queries
        ]


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# -- the protocol --------------------------------------------------------------------------------------------


def test_the_client_over_the_service_conforms_and_equals_the_index(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    with Server(index, small_corpus) as server:
        remote = open_remote(small_corpus, url=server.url)
        check_retriever(remote, small_corpus)
        assert remote.index_hash == index.index_hash  # so snapshots can be taken here and restored there
        queries = ["river Aln3", "Mira  Voss\n", "", "of the", "silent copy"]
        assert remote.search(queries, 60) == index.search(queries, 60)


def test_it_answers_as_search_r1s_server(make_corpus: Any) -> None:
    corpus = make_corpus([("Mira Voss", "An engineer."), ("Aln", "A river, über alles 東京.")])
    with Server(BM25.build(corpus), corpus) as server:
        answer = server.post({"queries": ["engineer", "river", "nothing"], "topk": 1, "return_scores": True})
        assert answer.headers["content-type"] == "application/json"
        rows = answer.json()["result"]
        assert rows[0] == [
            {
                "document": {"id": "p000", "contents": '"Mira Voss"\nAn engineer.'},
                "score": rows[0][0]["score"],
            }
        ]
        assert rows[1][0]["document"]["contents"] == '"Aln"\nA river, über alles 東京.'
        assert rows[2] == []
        bare = server.post({"queries": ["engineer"], "topk": None, "unknown": 1}).json()["result"]
        assert bare == [[{"id": "p000", "contents": '"Mira Voss"\nAn engineer.'}]]
        assert server.post({"queries": []}).json() == {"result": []}
        assert "errors" not in answer.json()


def test_topk_has_a_default_and_a_most() -> None:
    retriever = Scripted()
    with Server(retriever, topk=7, max_topk=9) as server:
        server.post({"queries": ["a"]})
        assert server.post({"queries": ["b"], "topk": 9}).status_code == 200
        refused = server.post({"queries": ["c"], "topk": 10})
        assert (refused.status_code, refused.json()["detail"]) == (
            422,
            "'topk' is 10: use a whole number from 1 to 9",
        )
    assert [k for _, k in retriever.calls] == [7, 9]


BAD_BODIES: list[tuple[Any, str]] = [
    (b"{", "the body is not JSON"),
    (b"", "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (b"[" * 50_000, "the body is not JSON"),
    (b"[1]", "not a JSON object"),
    ({}, "'queries' is not a list of strings"),
    ({"queries": "river"}, "'queries' is not a list of strings"),
    ({"queries": ["river", None]}, "'queries' is not a list of strings: number 1 is None"),
    ({"query": {"text": "x"}}, "'query' is not a list of strings"),
    ({"queries": ["x"], "query": "y"}, "'queries' and 'query' contradict each other"),
    ({"query": ["x"], "topk": 2, "top_n": 3}, "'topk' and 'top_n' contradict each other"),
    (b'{"queries": ["x"], "a": [' + b"1," * 100_000 + b"1]}", "the body has more than 100,000 commas"),
    ({"queries": ["x"] * 5, "topk": 500}, "5 queries with 500 hits each are 2,500 hits, but at most 1,000"),
    ({"queries": ["x"] * 6}, "6 queries, but at most 5 are allowed: send several requests"),
    ({"queries": ["x" * 101]}, "a query is longer than 100 characters"),
    ({"queries": ["x"], "topk": -1}, "'topk' is -1"),
    ({"queries": ["x"], "topk": 2.5}, "'topk' is 2.5"),
    ({"queries": ["x"], "topk": [3]}, "'topk' is [3]"),
    ({"queries": ["x"], "topk": "many"}, "'topk' is 'many'"),
    ({"queries": ["x"], "topk": "9" * 5000}, "'topk' is '9999"),
    ({"queries": ["x"], "topk": 10**400}, "'topk' is 1000"),
    ({"query": "x", "top_n": 1e300}, "'top_n' is 1e+300"),
    (b'{"queries": ["x"], "topk": NaN}', "'topk' is nan"),
    ({"queries": ["x"], "return_scores": "maybe"}, "'return_scores' is 'maybe': use true or false"),
    ({"queries": ["x"], "return_score": [True]}, "'return_score' is [True]: use true or false"),
    ({"queries": ["x"], "partial": 2}, "'partial' is 2: use true or false"),
    (b"\x81", "the body is not msgpack"),
    (b"\x81\xa7queries\xc1", "the body is not msgpack"),
    (b"\x81\xa7queries\xa1x", "'queries' is not a list of strings"),
]


def test_bad_requests_are_refused_with_a_reason_and_the_server_goes_on() -> None:
    retriever = Scripted()
    with Server(retriever, queries=5, query_chars=100, body_bytes=10**6, hits=1000) as server:
        for body, reason in BAD_BODIES:
            answer = server.post(body)
            assert answer.status_code == 422, (body, answer.text)
            assert reason in answer.json()["detail"]
        large = {"queries": ["x" * 2 * 10**6]}
        chunks = iter([b"x" * 10**5] * 15)  # without announcing how many
        unannounced = httpx.post(f"{server.url}/retrieve", content=chunks, **DIRECT)
        for answer in (server.post(large), unannounced):
            assert (answer.status_code, answer.json()["detail"]) == (
                413,
                "the body is larger than 1,000,000 bytes: send fewer queries at once",
            )
        assert server.get("/retrieve").status_code == 405
        assert server.get("/nowhere").status_code == 404
        assert retriever.calls == []
        assert server.post({"queries": ["x"]}).status_code == 200


def test_a_client_that_leaves_or_lies_does_no_harm() -> None:
    with Server(Scripted()) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for sent in (
            b"",
            b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00",  # a client that speaks TLS
        ):
            with socket.create_connection(address) as connection:
                connection.sendall(sent)
        assert server.post({"queries": ["x"]}).status_code == 200


def test_health(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    with Server(index, small_corpus) as server:
        facts = server.get("/healthz").json()
    assert facts["version"]
    assert facts == {
        "status": "ok",
        "index_hash": index.index_hash,
        "backend": "bm25",
        "passages": len(small_corpus.passages),
        "corpus": "list",
        "corpus_hash": small_corpus.hash,
        "version": facts["version"],
    }


# -- batches, cache, overload --------------------------------------------------------------------------------


def test_the_service_describes_itself() -> None:
    """Every route is in the description, and what is served fits it."""
    with Server(Scripted(), topk=2, max_topk=7, queries=5) as server:
        described = server.get("/openapi.json").json()
        schemas = described["components"]["schemas"]
        used = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
        assert used == set(schemas)
        properties = schemas["Request"]["properties"]
        assert (properties["topk"]["maximum"], properties["topk"]["default"]) == (7, 2)
        assert properties["queries"]["maxItems"] == 5
        request = {"queries": ["a", "fail"], "topk": 2, "return_scores": True, "partial": True}
        assert set(properties) == {*request, "query"}
        reply = server.post(request).json()
        assert set(reply) == set(schemas["Reply"]["properties"])
        assert set(reply["result"][0][0]) == set(schemas["ScoredDocument"]["properties"])
        assert set(server.get("/healthz").json()) == set(schemas["Health"]["properties"])
        answered = set(described["paths"]["/retrieve"]["post"]["responses"])
        for body, status in ((request, 200), ({"queries": 3}, 422), ({"queries": ["fail"]}, 503)):
            assert server.post(body).status_code == status
            assert str(status) in answered
        for path, methods in described["paths"].items():
            assert server.get(path).status_code == (200 if "get" in methods else 405)
        assert server.get("/docs").status_code == 404


def test_the_cache_takes_the_memory_it_is_given() -> None:
    size, answer = 2_000_000, bytes(700)
    tracemalloc.start()
    try:
        cache = LRUCache[Any, bytes](size, app_module._cache_bytes)
        for n in range(5000):
            cache.put((f"query {n}", Form(n % 3, True)), answer + b"x")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.4 * size < held < 1.1 * size


def test_concurrent_requests_are_searched_in_batches() -> None:
    retriever = Scripted()
    with Server(retriever, window=0.1) as server, concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: server.post({"queries": [f"q{n}", "same"]}).json(), range(16)))
    assert [row[0]["id"] for answer in answers for row in answer["result"]] == [
        id for n in range(16) for id in (f"q{n}", "same")
    ]
    assert len(retriever.calls) < 8
    assert all(len(set(queries)) == len(queries) for queries, _ in retriever.calls)


def test_requests_for_different_numbers_of_hits_at_once_each_get_theirs() -> None:
    corpus = ListCorpus(f"river town {n}" for n in range(40))
    index = BM25.build(corpus)
    with Server(index, corpus, window=0.05) as server, concurrent.futures.ThreadPoolExecutor(24) as pool:
        asked = [(k, scores) for k in (1, 2, 7, 40) for scores in (True, False)] * 3
        jobs = [
            pool.submit(server.post, {"queries": ["river", "town 7"], "topk": k, "return_scores": scores})
            for k, scores in asked
        ]
        for job, (k, scores) in zip(jobs, asked, strict=True):
            rows = job.result().json()["result"]
            found = [[hit["document"]["id"] if scores else hit["id"] for hit in row] for row in rows]
            expected = [[hit.id for hit in hits] for hits in index.search(["river", "town 7"], k)]  # type: ignore[union-attr]
            assert found == expected


def test_any_query_is_answered_as_in_process(small_corpus: Any) -> None:
    index = BM25.build(small_corpus)
    queries = [
        "",
        " ",
        "of the",
        "река 東京 😀",
        "river " * 170_000,
        "half \ud83d river",
        "river\0Aln3",
        "'\"\\",
    ]
    with Server(index, small_corpus) as server:
        remote = open_remote(small_corpus, url=server.url, retries=0)
        assert remote.search(queries, 5) == index.search(queries, 5)
        raw = server.post(b'{"queries": ["half \\ud83d river"], "topk": 1}')
        assert raw.json()["result"][0][0]["id"] == index.search(["river"], 1)[0][0].id  # type: ignore[index]


def test_scores_of_numpy_are_sent_and_those_that_are_no_numbers_are_a_failure() -> None:
    class Odd(Scripted):
        def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
            return [[Hit("1", "T", "x", np.float32(query))] for query in queries]

    with Server(Odd()) as server:
        answer = server.post({"queries": ["0.5"], "return_scores": True})
        assert answer.json()["result"][0][0]["score"] == 0.5
        refused = server.post({"queries": ["nan"], "return_scores": True})
        assert (refused.status_code, "score nan" in refused.json()["detail"]) == (503, True)


def test_answers_are_cached_by_normalised_query_topk_and_form() -> None:
    retriever = Scripted()
    with Server(retriever) as server:
        for queries in (["a b"], [" a\tb "], ["a  b", "a b", "c"]):
            server.post({"queries": queries, "topk": 2})
        assert retriever.calls == [(["a b"], 2), (["c"], 2)]
        server.post({"queries": ["a b"], "topk": 3})
        server.post({"queries": ["a b"], "topk": 2, "return_scores": True})
        assert [k for _, k in retriever.calls[2:]] == [3, 2]
        assert "A b" not in str(retriever.calls)  # case is left to the backend
    uncached = Scripted()
    with Server(uncached, cache_bytes=0) as server:
        for _ in range(2):
            server.post({"queries": ["a"]})
    assert len(uncached.calls) == 2


def test_overload_is_refused_at_once_and_a_patient_client_gets_its_answer(small_corpus: Any) -> None:
    retriever = Scripted()
    with Server(retriever, waiting=4) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        retriever.gate.clear()
        held = pool.submit(server.post, {"queries": ["a", "b", "c"]})
        wait_for(lambda: retriever.calls)
        refused = server.post({"queries": ["d", "e"]})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "the queue is full; try again in" in refused.json()["detail"]
        patient = pool.submit(open_remote(small_corpus, url=server.url).search, ["d", "e"], 1)
        threading.Timer(0.2, retriever.gate.set).start()
        assert held.result().status_code == 200
        assert [hits[0].id for hits in patient.result()] == ["d", "e"]


# -- failures ------------------------------------------------------------------------------------------------


def test_failures_are_statuses_never_empty_results_and_are_not_cached(small_corpus: Any) -> None:
    retriever = Scripted()
    with Server(retriever) as server:
        for query, status, reason in (
            ("raise", 503, "1 of 1 queries failed: the whole index is down"),
            ("fail", 503, "1 of 1 queries failed: this one failed"),
            ("short", 503, "1 of 1 queries failed: the retriever returned 0 results for 1 queries"),
            ("bug", 500, "internal error: KeyError"),  # for that request alone, see test_batching
        ):
            for _ in range(2):
                answer = server.post({"queries": [query]})
                assert (answer.status_code, answer.json()["detail"]) == (status, reason)
        assert len(retriever.calls) == 8
        mixed = {"queries": ["good", "fail", "good"]}
        assert server.post(mixed).status_code == 503
        assert server.post({**mixed, "partial": True}).json() == {
            "result": [
                [{"id": "good", "contents": '"T"\nabout good'}],
                None,
                [{"id": "good", "contents": '"T"\nabout good'}],
            ],
            "errors": {"1": "this one failed"},
        }
        remote = open_remote(small_corpus, url=server.url, retries=0)
        good, failed, raised = (remote.search([query], 1)[0] for query in ("good", "fail", "raise"))
        assert good == [Hit("good", "T", "about good", 2.5)]
        assert "this one failed" in str(failed)
        assert "the whole index is down" in str(raised)
        assert isinstance(failed, RetrievalError)
        assert isinstance(raised, RetrievalError)


def test_a_client_that_leaves_while_its_query_is_searched_disturbs_nobody() -> None:
    retriever = Scripted()
    with Server(retriever) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        retriever.gate.clear()
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        body = json.dumps({"queries": ["left"]}).encode()
        with socket.create_connection(address) as connection:
            head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_for(lambda: retriever.calls)
        stays = pool.submit(server.post, {"queries": ["stays"]})
        time.sleep(0.1)
        retriever.gate.set()
        assert stays.result().json()["result"][0][0]["id"] == "stays"
        assert server.post({"queries": ["left"]}).json()["result"][0][0]["id"] == "left"
        assert [queries for queries, _ in retriever.calls] == [["left"], ["stays"]]  # its answer was kept


def test_metrics_count_what_happened() -> None:
    with Server(Scripted()) as server:
        for body in (
            {"queries": ["a", "b", "a"]},
            {"queries": ["a"]},
            {"queries": "x"},
            {"queries": ["raise"]},
        ):
            server.post(body)
        page = server.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#"))
    expected = {
        'searchgym_requests_total{status="200"}': 2,
        'searchgym_requests_total{status="422"}': 1,
        'searchgym_requests_total{status="503"}': 1,
        'searchgym_queries_total{cache="hit"}': 1,
        'searchgym_queries_total{cache="miss"}': 3,
        "searchgym_request_seconds_count": 4,
        "searchgym_batch_queries_sum": 3,
        "searchgym_batch_queries_count": 2,
        "searchgym_waiting_queries": 0,
        'searchgym_index{backend="scripted",index_hash="hash-of-scripted"}': 1,
    }
    assert {name: float(values[name]) for name in expected} == expected


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"threads": 0}, "threads is 0: give a whole number"),
        ({"topk": 0}, "topk is 0"),
        ({"topk": 10, "max_topk": 5}, r"topk is 10, more than max_topk \(5\)"),
        ({"window": 5}, "window is 5: give a number from 0 to 1"),
        ({"cache_bytes": -1}, "cache_bytes is -1"),
        ({"memory": 2**28}, "memory is 268,435,456 bytes: give at least 805,306,368, or a smaller cache"),
        ({"client_seconds": 0}, "client_seconds is 0"),
    ],
)
def test_bad_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**limits)


# -- load ----------------------------------------------------------------------------------------------------


def test_sixty_four_clients_at_once_all_get_the_answers_of_the_index() -> None:
    corpus = ListCorpus(f"unique{n} river{n % 7} town{n % 11}" for n in range(400))
    index = BM25.build(corpus)
    queries = [f"unique{n} river{n % 5}" for n in range(200)]
    expected = index.search(queries, 4)

    async def client(session: httpx.AsyncClient, number: int) -> int:
        answered = 0
        for turn in range(6):
            some = [(number * 31 + turn * 7 + n) % 200 for n in range(8)]
            body = {"queries": [queries[n] for n in some], "topk": 4, "return_scores": True}
            answer = await session.post("/retrieve", json=body)
            rows = [[(hit["document"]["id"], hit["score"]) for hit in row] for row in answer.json()["result"]]
            assert rows == [[(hit.id, hit.score) for hit in expected[n]] for n in some]  # type: ignore[union-attr]
            answered += len(rows)
        return answered

    async def all_clients(url: str) -> int:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=url, **DIRECT, timeout=20, limits=limits) as session:
            return sum(await asyncio.gather(*(client(session, number) for number in range(64))))

    with Server(index, corpus) as server:
        assert asyncio.run(all_clients(server.url)) == 64 * 6 * 8


def refuses(server: Server) -> bool:
    try:
        server.get("/healthz")
    except httpx.TransportError:
        return True
    return False


def test_in_flight_requests_are_answered_when_it_is_told_to_stop() -> None:
    retriever = Scripted()
    server = Server(retriever)
    server.__enter__()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        retriever.gate.clear()
        held = [pool.submit(server.post, {"queries": [f"q{n}"]}) for n in range(3)]
        wait_for(lambda: retriever.calls)
        time.sleep(0.1)  # the others wait in the queue
        stopping = pool.submit(server.__exit__)
        wait_for(lambda: refuses(server))  # new clients are refused
        assert not stopping.done()
        retriever.gate.set()
        assert [job.result().json()["result"][0][0]["id"] for job in held] == ["q0", "q1", "q2"]
        stopping.result(20)


def test_a_retriever_that_hangs_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    code = (
        "import threading, sys\n"
        "from searchgym.corpora.service.app import create_app\n"
        "from searchgym.corpora.service.server import _bind, _run\n"
        "class Hangs:\n"
        "    name, index_hash = 'hangs', 'h'\n"
        "    def search(self, queries, k):\n"
        "        print('searching', flush=True)\n"
        "        threading.Event().wait()\n"
        "listener = _bind('127.0.0.1', 0)\n"
        "listener.listen()\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "_run(create_app(Hangs()), listener, 1)\n"
    )
    process = preloaded.PreloadedPopen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}/retrieve"
        asked = pool.submit(httpx.post, url, json={"queries": ["x"]}, **DIRECT, timeout=30)
        assert process.stdout.readline() == "searching\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        with contextlib.suppress(httpx.TransportError):  # given up
            assert asked.result().status_code >= 500
    process.communicate()


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [
        {"id": f"p{n}", "title": f"Town {n}", "text": f"Town {n} lies on the river Aln{n % 3}."}
        for n in range(20)
    ]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    question = {"id": "q", "question": "Where is town 7?", "answers": ["Aln1"], "split": "dev"}
    (folder / "questions.jsonl").write_text(json.dumps({**question, "supporting_ids": ["p7"]}) + "\n")
    return folder


@contextlib.contextmanager
def command(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`searchgym index serve …` on a free port, in a process; gives it and its url."""
    code = "from searchgym.cli import main; main()"
    process = preloaded.PreloadedPopen(
        [sys.executable, "-c", code, "index", "serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"(http://\S+)/retrieve", line)
        if found is None:
            raise AssertionError(f"{line!r}, {process.communicate()[1]}")
        yield process, found[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children(process: int) -> list[int]:
    return [
        child
        for child in map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def test_a_built_index_is_served_and_an_episode_played_against_it(
    corpus_folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    assert main(["index", "build", "--corpus", str(corpus_folder), "--out", str(index)]) == 0
    with command(str(index), cwd=tmp_path) as (process, url):
        env = gym.make(
            "searchgym:SearchQA-v0",
            corpus=str(corpus_folder),
            split="dev",
            retriever={"name": "remote", "url": url},
        )
        env.reset(seed=0)
        observation, _, _, _, info = env.step("<search>town 7</search>")
        assert "Town 7 lies on the river Aln1." in observation
        assert info["hits"][0]["id"] == "p7"
        *_, info = env.step("<answer>Aln1</answer>")
        assert info["outcome"]["em"] == 1.0
        assert info["outcome"]["recall"] == 1.0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        env.reset(seed=0)
        env.unwrapped.config.retriever._inner._attempts = 1  # type: ignore[attr-defined]
        observation, _, terminated, truncated, info = env.step("<search>town 8</search>")
        assert (observation, terminated, truncated, info["valid_for_training"]) == ("", False, True, False)
        assert info["outcome"]["stop_reason"] == "retrieval_failed"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_workers_share_the_work_are_replaced_and_end_with_their_parent(
    corpus_folder: Path, tmp_path: Path
) -> None:
    options = ("bm25", "--corpus", str(corpus_folder), "--workers", "2")
    with command(*options, cwd=tmp_path) as (process, url):
        ask = {"queries": ["town 7"], "topk": 1}
        assert (
            httpx.post(f"{url}/retrieve", json=ask, **DIRECT, timeout=30).json()["result"][0][0]["id"] == "p7"
        )
        wait_for(lambda: len(children(process.pid)) == 2)
        victim, other = children(process.pid)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len({*children(process.pid)} - {victim}) == 2)
        for n in range(20):
            ask = {"queries": [f"town {n}"], "topk": 1}
            answer = httpx.post(f"{url}/retrieve", json=ask, **DIRECT, timeout=30)
            assert answer.json()["result"][0][0]["id"] == f"p{n}"
        page = httpx.get(f"{url}/metrics", **DIRECT).text
        # Counted by whichever worker answered, summed over all; a killed one may take its counts with it.
        assert float(re.findall(r'requests_total\{status="200"\} (\S+)', page)[0]) >= 20
        workers = children(process.pid)
        assert other in workers
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not any(map(alive, workers))
    with command(*options, cwd=tmp_path) as (process, url):
        httpx.get(f"{url}/healthz", **DIRECT, timeout=30)
        wait_for(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        process.kill()
        wait_for(lambda: not any(map(alive, workers)))


def test_workers_that_die_again_and_again_end_it_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dying_source import DyingSource

    from searchgym.corpora.service import server

    monkeypatch.setattr(server, "_DEATHS", (2, 60.0))
    with (
        server._bind("127.0.0.1", 0) as listener,
        pytest.raises(
            ConfigError, match=r"2 workers ended within .* the last with status -9 .*fewer --workers"
        ),
    ):
        server._supervise(1, (DyingSource("bm25"), Limits(), listener, 1), 1)
    assert capfd.readouterr().err.count("starting another") == 1
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_ctrl_c_ends_it_quietly(corpus_folder: Path, tmp_path: Path) -> None:
    with command("bm25", "--corpus", str(corpus_folder), cwd=tmp_path) as (process, url):
        assert httpx.get(f"{url}/healthz", **DIRECT, timeout=30).status_code == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")


def test_what_cannot_be_served_is_said_in_one_line(corpus_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = CliRunner().invoke
    from searchgym.corpora.cli.serve import serve

    def error(*arguments: str) -> str:
        result = run(serve, arguments)
        assert result.exception is not None
        return f"{type(result.exception).__name__}: {result.exception}"

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = error("bm25", "--corpus", str(corpus_folder), "--port", port)
    assert re.match(rf"ConfigError: address 127.0.0.1:{port} cannot be used .*choose another with", message)
    assert "not the directory of an index: give one, or name a retriever and its --corpus" in error(
        "nowhere", "--port", "0"
    )
    assert "no usable index" in error(str(tmp_path / "empty"), "--port", "0")
    assert "unknown retriever 'bm52'" in error("bm52", "--corpus", str(corpus_folder), "--port", "0")
    assert "unknown corpus" in error("bm25", "--corpus", "nowhere", "--port", "0")
    assert "cannot be used" in error("bm25", "--corpus", str(corpus_folder), "--host", "no.such.host.invalid")
    assert "topk is 5, more than max_topk (3)" in error("bm25", "--topk", "5", "--max-topk", "3")
    assert issubclass(IndexMismatchError, ConfigError)


def test_an_address_of_the_network_is_warned_about(corpus_folder: Path, tmp_path: Path) -> None:
    with command("bm25", "--corpus", str(corpus_folder), "--host", "0.0.0.0", cwd=tmp_path) as (process, url):
        port = url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", **DIRECT, timeout=30).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert err == "anyone who can reach this address can search: there is no authentication\n"


def test_without_the_extra_it_is_named_and_the_other_commands_work(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['starlette'] = None\n"
        "from searchgym.cli import main\n"
        "status = main(['index', 'serve', 'bm25', '--corpus', 'country'])\n"
        "print(status, main(['index', '--help']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (
        "the retrieval service needs the module 'starlette': pip install \"searchgym[serve]\"" in done.stderr
    )
    assert done.stdout.endswith("2 0\n")


def test_a_remote_retriever_can_be_served_again(small_corpus: Any) -> None:
    """A chain of two servers, as a gateway would be: still the same answers."""
    index = BM25.build(small_corpus)
    with Server(index, small_corpus) as inner:
        first = open_remote(small_corpus, url=inner.url)
        with Server(first, small_corpus) as outer:
            second = open_remote(small_corpus, url=outer.url)
            assert isinstance(second, RemoteRetriever)
            assert second.search(["river", "bridge"], 5) == index.search(["river", "bridge"], 5)
            assert dataclasses.is_dataclass(Limits)


# -- hostile clients ------------------------------------------------------------------------------------------------


class Wide(Scripted):
    """Finds passages of 2,000 characters, as many as asked for."""

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return [[Hit(f"{query}{n}", "T", "x" * 2000, 1.0) for n in range(k)] for query in queries]


def raw(server: Server, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    connection.sendall(data)
    return connection


def asking(body: Any) -> bytes:
    content = json.dumps(body).encode()
    return b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content) + content


def closed(connection: socket.socket, seconds: float = 5) -> bool:
    connection.settimeout(seconds)
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def test_a_small_request_cannot_ask_for_a_large_answer() -> None:
    with Server(Wide(), answer_bytes=10**6) as server:
        refused = server.post({"queries": ["x"] * 1024, "topk": 1000})
        assert (refused.status_code, "1,024,000 hits" in refused.json()["detail"]) == (422, True)
        for queries, topk in ((["x"], 900), (["x", "y"], 300), (["x"] * 20, 30)):
            refused = server.post({"queries": queries, "topk": topk})
            assert (refused.status_code, refused.json()["detail"]) == (
                413,
                "the answer is larger than 1,000,000 bytes: lower 'topk', or send fewer queries at once",
            )
        remote = open_remote(ListCorpus(["x"]), url=server.url, retries=0)
        assert [len(hits) for hits in remote.search(["x", "y", "z"], 300)] == [300] * 3  # type: ignore[arg-type]


def test_answers_that_are_not_read_are_given_up() -> None:
    with Server(Wide(), client_seconds=0.4) as server:
        stalled = [raw(server, asking({"queries": [f"q{n}", "b"], "topk": 1000})) for n in range(3)]
        guard = server.guard
        wait_for(lambda: guard.held > 3 * 10**6)
        wait_for(lambda: guard.held == 0)  # the connections were closed
        assert server.post({"queries": ["x"], "topk": 1}).status_code == 200
        for connection in stalled:
            assert closed(connection)
            connection.close()


def test_memory_goes_to_those_who_read() -> None:
    memory = 7 * 2**26 + 2**26  # 64 MiB for requests
    with Server(Wide(), cache_bytes=0, memory=memory, answer_bytes=2**25) as server:
        guard = server.guard
        queries = [f"q{n}" for n in range(14)]  # 28 MB
        stalled = [raw(server, asking({"queries": queries, "topk": 1000})) for _ in range(3)]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert guard.held <= 2**26
            assert server.post({"queries": ["small"]}).status_code == 200
            try:
                answer = server.post({"queries": queries[:8], "topk": 1000})
            except (
                httpx.RemoteProtocolError
            ):  # on a busy machine this client, too, can be among the slow readers
                continue
            if answer.status_code == 200:
                break
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        else:
            raise AssertionError("the stalled answers kept the memory")
        for connection in stalled:
            connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /ret",
        b"POST /retrieve HTTP/1.1\r\nHost: x\r\nx: ",
        b"\r\n",
        asking({"queries": ["x"]})[:-5],
    ],
    ids=["nothing", "a line", "a head", "a line break", "half a body"],
)
def test_who_sends_no_request_in_time_is_disconnected(sent: bytes) -> None:
    with Server(Scripted(), client_seconds=0.3) as server:
        connection = raw(server, sent)
        assert closed(connection)
        connection.close()
        assert server.post({"queries": ["x"]}).status_code == 200


def test_bytes_now_and_then_do_not_extend_the_time() -> None:
    with Server(Scripted(), client_seconds=0.5) as server:
        connection = raw(server, b"POST /retrieve HTTP/1.1\r\n")
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 10:
                connection.sendall(b"x: 1\r\n")
                time.sleep(0.05)
        assert time.monotonic() - started < 5
        connection.close()


def test_large_heads_are_refused() -> None:
    with Server(Scripted()) as server:
        connection = raw(server, b"POST /retrieve HTTP/1.1\r\nx: ")
        answer = b""
        with contextlib.suppress(OSError):
            for _ in range(50):
                connection.sendall(b"a" * 10_000)
            answer = connection.recv(65536)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        connection.close()
        assert server.post({"queries": ["x"]}, headers={"x": "a" * 30_000}).status_code == 200


def test_too_many_connections_close_those_that_never_asked() -> None:
    with Server(Scripted(), connections=20) as server, httpx.Client(**DIRECT, timeout=20) as client:
        url = f"{server.url}/retrieve"
        assert client.post(url, json={"queries": ["x"]}).status_code == 200
        silent = []
        for number in range(60):
            silent.append(raw(server, b""))
            if number % 10 == 0:
                assert client.post(url, json={"queries": [f"x{number}"]}).status_code == 200
        guard = server.guard
        wait_for(lambda: len(guard.new) + len(guard.connections) <= 20)
        assert closed(silent[0])
        assert client.post(url, json={"queries": ["y"]}).status_code == 200
        for connection in silent:
            connection.close()


def test_a_stalled_client_does_not_disturb_stopping(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from searchgym.corpora.service.app import create_app\n"
        "from searchgym.corpora.service.server import _bind, _run\n"
        "from searchgym.records.retriever import Hit\n"
        "class Wide:\n"
        "    name, index_hash = 'wide', 'h'\n"
        "    def search(self, queries, k):\n"
        "        return [[Hit(str(n), 'T', 'x' * 5000, 1.0) for n in range(k)] for _ in queries]\n"
        "listener = _bind('127.0.0.1', 0)\n"
        "listener.listen()\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "_run(create_app(Wide()), listener, 2)\n"
    )
    process = preloaded.PreloadedPopen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(asking({"queries": ["x"], "topk": 1000}))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (0, "")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_a_killed_service_leaves_no_counters(corpus_folder: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    left = temporary / "searchgym-metrics-left"
    left.mkdir()
    (left / ".in-use").touch()  # by a process that was killed with all its workers
    os.environ["TMPDIR"], before = str(temporary), os.environ.get("TMPDIR")
    try:
        with command("bm25", "--corpus", str(corpus_folder), "--workers", "2", cwd=tmp_path) as (
            process,
            url,
        ):
            httpx.get(f"{url}/healthz", **DIRECT, timeout=30)
            wait_for(lambda: len(children(process.pid)) == 2)
            assert not left.exists()
            assert len(list(temporary.glob("searchgym-metrics-*"))) == 1
            workers = children(process.pid)
            process.kill()
            wait_for(lambda: not any(map(alive, workers)))
    finally:
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before
    assert list(temporary.glob("searchgym-metrics-*")) == []
