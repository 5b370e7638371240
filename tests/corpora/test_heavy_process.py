"""The process for heavy requests: same answers, no wait for light requests, and no request lost when it dies."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from list_corpus import ListCorpus

from searchgym.corpora import BM25
from searchgym.corpora.service.batching import LIGHT, SearchQueue
from searchgym.corpora.service.encoding import search_encoded
from searchgym.corpora.service.heavy import HeavyProcess
from searchgym.corpora.service.limits import Limits
from searchgym.corpora.service.requests import MSGPACK, Form, Refused, Search, read_search
from searchgym.errors import RetrievalError
from searchgym.records.retriever import Hit, Retriever, SearchResult

TEXTS = [("River", f"the river number {n} of {n % 7} towns") for n in range(40)]


class Failing:
    name, index_hash = "failing", "0"

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        if "bug" in queries:
            raise KeyError("a bug")
        if "down" in queries:
            raise RetrievalError("the whole index is down")
        return [[Hit("1", "", query, float("nan") if query == "nan" else 1.0)] for query in queries]


def open_index() -> tuple[Retriever, Any]:
    corpus = ListCorpus(TEXTS)
    return BM25.build(corpus), corpus


def open_failing() -> tuple[Retriever, Any]:
    return Failing(), None


def exit_at_once() -> tuple[Retriever, Any]:
    os._exit(7)


@pytest.fixture(scope="module")
def index() -> Retriever:
    return open_index()[0]


@pytest.fixture(scope="module")
def process(index: Retriever) -> Iterator[HeavyProcess]:
    process = HeavyProcess(open_index, index, lanes=2)
    yield process
    process.close()
    assert process.pid is None


@pytest.mark.parametrize(
    "form", [Form(30, True), Form(2, False), Form(5, True, MSGPACK), Form(5, True, bare=True)], ids=str
)
def test_it_answers_what_this_process_answers(process: HeavyProcess, index: Retriever, form: Form) -> None:
    queries = ["river", "towns number 3", "", "nothing of this"]
    if form.media == MSGPACK:
        pytest.importorskip("msgpack")
    assert process.search(queries, form) == search_encoded(index, queries, form)
    assert process.pid not in (None, os.getpid())


def test_threads_have_a_lane_each(process: HeavyProcess, index: Retriever) -> None:
    found: dict[int, list[Any]] = {}

    def ask(number: int) -> None:
        found[number] = [process.search([f"number {number} towns {n}"], Form(40, True)) for n in range(20)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]  # more than lanes
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number, answers in found.items():
        assert answers == [
            search_encoded(index, [f"number {number} towns {n}"], Form(40, True)) for n in range(20)
        ]
    assert len(found) == 4


def test_it_reads_bodies_and_refuses_the_same_ones(process: HeavyProcess) -> None:
    body = json.dumps({"queries": ["a  b"] * 3000, "topk": 2}).encode()
    search = process.read(body, "application/json", Limits(), bare=False)
    assert search == Search(["a b"] * 3000, Form(2, False), partial=False, single=False)
    assert search == read_search(body, "application/json", Limits())
    for wrong in (b"[" * 500_000, b'{"queries": 1}', b"[]," * 200_000):
        with pytest.raises(Refused) as here:
            read_search(wrong, "", Limits())
        with pytest.raises(Refused) as there:
            process.read(wrong, "", Limits(), bare=False)
        assert (there.value.status, str(there.value)) == (here.value.status, str(here.value))


def test_a_killed_process_loses_no_request(index: Retriever, caplog: pytest.LogCaptureFixture) -> None:
    process = HeavyProcess(open_index, index, lanes=2)
    expected = search_encoded(index, ["river"], Form(40, True))
    assert process.search(["river"], Form(40, True)) == expected
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with caplog.at_level("WARNING"):
        answers = [process.search(["river"], Form(40, True)) for _ in range(3)]
    assert answers == [expected] * 3
    assert process.pid is None  # not started again at once
    assert caplog.text.count("ended with status -9") == 1
    process.close()


def test_a_process_that_cannot_start_is_no_failure(index: Retriever) -> None:
    process = HeavyProcess(exit_at_once, index, lanes=1)
    assert process.search(["river"], Form(3, True)) == search_encoded(index, ["river"], Form(3, True))
    process.close()


def test_failures_of_the_retriever_arrive() -> None:
    process = HeavyProcess(open_failing, Failing(), lanes=1)
    with pytest.raises(RetrievalError, match="the whole index is down"):
        process.search(["down"], Form(3, True))
    with pytest.raises(RuntimeError, match="KeyError"):
        process.search(["bug"], Form(3, True))
    good, wrong = process.search(["good", "nan"], Form(3, False))
    assert isinstance(good, bytes)
    assert isinstance(wrong, RetrievalError)  # a score that is not a number is no hit
    process.close()


def _own(conn: Any) -> None:
    process = HeavyProcess(open_failing, Failing(), lanes=1)
    process.search(["a"], Form(1, False))
    conn.send(process.pid)
    time.sleep(60)


def test_it_ends_when_its_parent_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    parent = context.Process(target=_own, args=(there,))
    parent.start()
    child = here.recv()
    parent.kill()
    parent.join()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until, "the process outlives its parent"
        time.sleep(0.02)


def test_light_requests_do_not_wait_for_heavy_ones() -> None:
    gate = threading.Event()

    def light(queries: list[str], kind: object) -> list[str]:
        return [f"light {query}" for query in queries]

    def heavy(queries: list[str], kind: object) -> list[str]:
        assert gate.wait(20)
        return [f"heavy {query}" for query in queries]

    async def main() -> None:
        queue: SearchQueue[str] = SearchQueue(
            light, threads=1, window=0.0, batch=8, limit=10_000, hits=lambda kind: kind, search_heavy=heavy
        )
        jobs = [asyncio.create_task(queue.search([f"{n}", "x"], LIGHT)) for n in range(5)]
        await asyncio.sleep(0.05)
        for n in range(5):  # all threads for heavy requests are held
            assert await asyncio.wait_for(queue.search([f"{n}"], 1), 10) == {f"{n}": f"light {n}"}
        gate.set()
        for n, found in enumerate(await asyncio.wait_for(asyncio.gather(*jobs), 10)):
            assert found == {f"{n}": f"heavy {n}", "x": "heavy x"}
        assert queue.waiting == 0
        await asyncio.wait_for(queue.close(5), 10)

    asyncio.run(main())
