"""The queue and the cache of the retrieval service, without a network."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from searchgym.corpora.service.batching import Overloaded, SearchCrashed, SearchQueue
from searchgym.errors import RetrievalError


class Slow:
    """Answers a query with itself in capitals; waits for `gate`, and remembers its batches."""

    def __init__(self, open: bool = True) -> None:
        self.gate = threading.Event()
        self.batches: list[tuple[list[str], object]] = []
        self.threads: set[int] = set()
        if open:
            self.gate.set()

    def __call__(self, queries: list[str], kind: object) -> Sequence[str]:
        self.batches.append((queries, kind))
        self.threads.add(threading.get_ident())
        assert self.gate.wait(5)
        return [query.upper() for query in queries]


def run(play: Callable[[SearchQueue[str]], Awaitable[Any]], search: Any, **options: Any) -> Any:
    """Play something with a queue, then close it."""

    async def main() -> Any:
        queue: SearchQueue[str] = SearchQueue(
            search, **{"threads": 1, "window": 0.0, "batch": 8, "limit": 100, **options}
        )
        try:
            return await asyncio.wait_for(play(queue), 10)
        finally:
            await asyncio.wait_for(queue.close(5), 10)

    return asyncio.run(main())


def test_what_arrives_within_the_window_is_searched_together() -> None:
    search = Slow()

    async def play(queue: SearchQueue[str]) -> Any:
        return await asyncio.gather(*(queue.search([f"q{n}", "same"], 3) for n in range(3)))

    found = run(play, search, window=0.02)
    assert found == [{f"q{n}": f"Q{n}", "same": "SAME"} for n in range(3)]
    assert search.batches == [(["q0", "same", "q1", "q2"], 3)]


def test_what_arrives_while_searching_forms_the_next_batch_at_once() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        first = asyncio.create_task(queue.search(["first"], 1))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(queue.search([f"q{n}"], 1)) for n in range(5)]
        await asyncio.sleep(0.05)
        assert queue.waiting == 6
        search.gate.set()
        await asyncio.gather(first, *others)
        assert queue.waiting == 0

    run(play, search)
    assert [queries for queries, _ in search.batches] == [["first"], [f"q{n}" for n in range(5)]]
    assert len(search.threads) == 1


def test_threads_search_different_batches_at_once() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        jobs = [asyncio.create_task(queue.search([f"q{n}", "same"], 1)) for n in range(60)]
        await asyncio.sleep(0.1)
        assert len(search.batches) == 3
        assert len(search.threads) == 3
        search.gate.set()
        found = await asyncio.gather(*jobs)
        assert found == [{f"q{n}": f"Q{n}", "same": "SAME"} for n in range(60)]
        assert queue.waiting == 0

    run(play, search, threads=3, batch=6, limit=1000)
    assert sorted({query for queries, _ in search.batches for query in queries}) == sorted(
        {"same", *(f"q{n}" for n in range(60))}
    )


def test_kinds_are_not_mixed_large_requests_are_sliced_and_nobody_starves() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        jobs = [asyncio.create_task(queue.search(["first"], 0))]
        await asyncio.sleep(0.05)
        for queries, kind in (
            (["a1", "a2"], "a"),
            (["b1"], "b"),
            (["a3"], "a"),
            ([f"big{n}" for n in range(9)], "a"),
            (["a4"], "a"),
        ):
            jobs.append(asyncio.create_task(queue.search(queries, kind)))
            await asyncio.sleep(0)
        search.gate.set()
        await asyncio.gather(*jobs)

    run(play, search, batch=4)
    assert [queries for queries, _ in search.batches[1:]] == [
        ["a1", "a2", "a3", "a4"],
        ["b1"],
        ["big0", "big1", "big2", "big3"],
        ["big4", "big5", "big6", "big7"],
        ["big8"],
    ]


def test_light_requests_go_first_and_heavy_ones_take_turns() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        jobs = [asyncio.create_task(queue.search(["first"], "a"))]
        await asyncio.sleep(0.05)
        for name in ("x", "y"):
            jobs.append(asyncio.create_task(queue.search([f"{name}{n}" for n in range(4)], "a")))
        jobs += [asyncio.create_task(queue.search([f"light{n}"], f"kind{n}")) for n in range(3)]
        await asyncio.sleep(0)
        assert queue.waiting == 12
        search.gate.set()
        found = await asyncio.gather(*jobs)
        assert found[1] == {f"x{n}": f"X{n}" for n in range(4)}
        assert queue.waiting == 0

    run(play, search, batch=2)
    names = [queries[0].rstrip("0123456789") for queries, _ in search.batches[1:]]
    assert names.index("y") - names.index("x") in (1, 2)  # not after all of x
    assert [name for name in names[:4] if name == "light"] == ["light"] * 3


def test_a_heavy_request_ends_when_nobody_wants_it_or_its_results_cannot_be_kept() -> None:
    search = Slow()

    def slowly(queries: list[str], kind: object) -> Sequence[str]:
        time.sleep(0.005)  # longer than the event loop takes to drop a request
        return search(queries, kind)

    async def play(queue: SearchQueue[str]) -> Any:
        claimed: list[str] = []

        def claim(found: Any) -> None:
            claimed.extend(found)
            if len(claimed) > 4:
                raise Overloaded(7, "the memory for answers")

        with pytest.raises(Overloaded, match=r"the memory for answers is full; try again in 7 s"):
            await queue.search([f"q{n}" for n in range(40)], 1, claim)
        assert len(claimed) < 40
        with pytest.raises(RetrievalError, match="the client has left"):
            await queue.search([f"r{n}" for n in range(40)], 1, wanted=lambda: len(search.batches) < 5)
        assert queue.waiting == 0
        return await queue.search(["later"], 1)

    assert run(play, slowly, batch=2) == {"later": "LATER"}
    assert len(search.batches) < 30


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        jobs = [asyncio.create_task(queue.search([f"q{n}"], 1)) for n in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded) as refused:
            await queue.search(["one", "more"], 1)
        assert refused.value.retry_after == 1  # nothing is known yet of its speed
        assert queue.waiting == 5
        jobs.append(asyncio.create_task(queue.search(["fits"], 1)))
        await asyncio.sleep(0.05)
        search.gate.set()
        await asyncio.gather(*jobs)
        # A request that is larger than the queue can ever be is taken when nothing else waits.
        assert len(await queue.search([str(n) for n in range(50)], 1)) == 50

    run(play, search, limit=6)


def test_retry_after_follows_the_measured_speed() -> None:
    search = Slow()

    def slowly(queries: list[str], kind: object) -> Sequence[str]:
        if not search.batches:
            time.sleep(0.1)
        return search(queries, kind)

    async def play(queue: SearchQueue[str]) -> int:
        await queue.search(["a", "b"], 1)  # twenty a second
        search.gate.clear()
        job = asyncio.create_task(queue.search([str(n) for n in range(60)], 1))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as refused:
            await queue.search(["more"], 1)
        search.gate.set()
        await job
        return refused.value.retry_after

    assert run(play, slowly, limit=60) in (3, 4)


def test_failures_go_to_everybody_in_the_batch_and_to_nobody_else() -> None:
    def search(queries: list[str], kind: object) -> Sequence[str]:
        if "bad" in queries:
            raise RetrievalError("down")
        return queries[:-1] if "short" in queries else queries

    async def play(queue: SearchQueue[str]) -> Any:
        for queries, message in ((["bad", "x"], "down"), (["short", "x"], "1 results for 2 queries")):
            with pytest.raises(RetrievalError, match=message):
                await queue.search(queries, 1)
        return await queue.search(["good"], 1)

    assert run(play, search) == {"good": "good"}


@pytest.mark.parametrize(
    "crash", [KeyError("x"), StopIteration(), SystemExit(1), KeyboardInterrupt(), MemoryError()]
)
def test_a_request_that_crashes_the_search_fails_alone_and_the_queue_goes_on(crash: BaseException) -> None:
    batches: list[list[str]] = []

    def search(queries: list[str], kind: object) -> Sequence[str]:
        batches.append(queries)
        if "poison" in queries:
            raise crash
        return [query.upper() for query in queries]

    async def play(queue: SearchQueue[str]) -> Any:
        asked = (["a"], ["b", "poison"], ["c"])
        jobs = [asyncio.create_task(queue.search(queries, 1)) for queries in asked]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        assert queue.waiting == 0
        return found, await queue.search(["later"], 1)

    (a, failed, c), later = run(play, search, window=0.02)
    assert (a, c, later) == ({"a": "A"}, {"c": "C"}, {"later": "LATER"})
    assert isinstance(failed, SearchCrashed)
    assert str(failed) == f"internal error: {type(crash).__name__}"
    assert batches == [["a", "b", "poison", "c"], ["a"], ["b", "poison"], ["c"], ["later"]]


def test_a_search_that_never_returns_does_not_keep_it_from_closing() -> None:
    search = Slow(open=False)

    async def main() -> float:
        queue: SearchQueue[str] = SearchQueue(search, threads=2, window=0.0, batch=8, limit=100)
        job = asyncio.create_task(queue.search(["a"], 1))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await queue.close(0.1)
        job.cancel()
        return time.monotonic() - started

    assert asyncio.run(main()) < 2
    search.gate.set()  # its answer comes when there is no loop any more
    threads = [t for t in threading.enumerate() if t.name == "searchgym-search"]
    assert threads
    for thread in threads:
        assert thread.daemon
        thread.join(5)
        assert not thread.is_alive()


def test_who_goes_away_does_not_disturb_the_others() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        gone, stays = (asyncio.create_task(queue.search([q], 1)) for q in ("gone", "stays"))
        await asyncio.sleep(0.05)
        gone.cancel()
        search.gate.set()
        assert await stays == {"stays": "STAYS"}
        assert await queue.search(["later"], 1) == {"later": "LATER"}
        assert queue.waiting == 0

    run(play, search)


def test_closing_finishes_what_waits() -> None:
    search = Slow(open=False)

    async def play(queue: SearchQueue[str]) -> Any:
        jobs = [asyncio.create_task(queue.search([f"q{n}"], n)) for n in range(3)]
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(queue.close(5))
        await asyncio.sleep(0.05)
        assert not closing.done()
        search.gate.set()
        await closing
        return await asyncio.gather(*jobs)

    assert run(play, search) == [{f"q{n}": f"Q{n}"} for n in range(3)]
