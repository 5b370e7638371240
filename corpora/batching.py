"""Queries of many concurrent requests, searched together: a bounded queue, batches, one searching thread.

While a batch is searched, what arrives waits and forms the next one. Only when nothing was being searched is a
first query held for a moment (the window), so that others can join it. A request of many queries is never cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from searchgym.errors import RetrievalError

__all__ = ["AnswerCache", "Overloaded", "SearchQueue"]

T = TypeVar("T")


class Overloaded(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds after which there is probably room, a whole number >= 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Job(Generic[T]):
    """The queries of one request that have to be searched."""

    queries: Sequence[str]
    kind: object
    done: asyncio.Future[dict[str, T]] = field(repr=False)


class SearchQueue(Generic[T]):
    """Collects the queries of concurrent requests into batches.

    Args:
        search: answers a batch of distinct queries of one kind, in order; called in a thread of its own, one
            call at a time. What it raises goes to every request of the batch.
        window: seconds a query waits for company when nothing is being searched.
        batch: a batch is closed when it has this many queries. A larger request is a batch of its own.
        limit: queries that may wait or be searched at once.
        observe: called with (queries, seconds) after every batch.
    """

    def __init__(
        self,
        search: Callable[[list[str], object], Sequence[T]],
        *,
        window: float,
        batch: int,
        limit: int,
        observe: Callable[[int, float], None] = lambda queries, seconds: None,
    ) -> None:
        self._search = search
        self._window = window
        self._batch = batch
        self._limit = limit
        self._observe = observe
        self._jobs: deque[_Job[T]] = deque()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, "searchgym-search")
        self._runner: asyncio.Task[None] | None = None
        self._rate = 0.0  # queries answered per second, lately
        self.waiting = 0
        """Queries that wait or are being searched."""

    async def search(self, queries: Sequence[str], kind: object) -> dict[str, T]:
        """The answer to each of the queries.

        Args:
            queries: distinct queries.
            kind: queries of different kinds are not mixed in a batch; `search` is given it.

        Raises:
            Overloaded: there is no room for so many.
            Exception: what `search` raised.
        """
        if self.waiting and self.waiting + len(queries) > self._limit:
            raise Overloaded(max(1, math.ceil(self.waiting / self._rate) if self._rate else 1))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        job: _Job[T] = _Job(queries, kind, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(queries)
        self._arrived.set()
        return await job.done

    async def close(self) -> None:
        """Finish what waits, then stop."""
        while self.waiting:
            await asyncio.sleep(0.01)
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        self._executor.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._jobs:
                self._arrived.clear()
                await self._arrived.wait()
                if self._window:
                    await asyncio.sleep(self._window)
            jobs = self._take()
            queries = list(dict.fromkeys(query for job in jobs for query in job.queries))
            started = time.perf_counter()
            try:
                answers = await loop.run_in_executor(self._executor, self._search, queries, jobs[0].kind)
                if len(answers) != len(queries):
                    raise RetrievalError(
                        f"the retriever gave {len(answers)} results for {len(queries)} queries"
                    )
            except Exception as error:
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(error)
            else:
                found = dict(zip(queries, answers, strict=True))
                for job in jobs:
                    if not job.done.done():  # whoever asked may have gone
                        job.done.set_result({query: found[query] for query in job.queries})
            seconds = max(time.perf_counter() - started, 1e-6)
            asked = sum(len(job.queries) for job in jobs)
            self._rate += (0.2 if self._rate else 1.0) * (asked / seconds - self._rate)
            self.waiting -= asked
            self._observe(len(queries), seconds)

    def _take(self) -> list[_Job[T]]:
        """The oldest job and those of its kind that fit into a batch with it; the others keep their order."""
        first = self._jobs.popleft()
        jobs, kept, size = [first], [], len(first.queries)
        while self._jobs and size < self._batch:
            job = self._jobs.popleft()
            if job.kind == first.kind and size + len(job.queries) <= self._batch:
                jobs.append(job)
                size += len(job.queries)
            else:
                kept.append(job)
        self._jobs.extendleft(reversed(kept))
        return jobs


class AnswerCache:
    """An LRU of answers as they go over the wire, bounded by their bytes.

    Args:
        size: bytes of all answers and their queries.
    """

    _OVERHEAD = 400  # bytes of the objects around a query and its answer

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._entries: OrderedDict[tuple[str, object], bytes] = OrderedDict()

    def get(self, query: str, kind: object) -> bytes | None:
        """The answer to a query, or None."""
        answer = self._entries.get((query, kind))
        if answer is not None:
            self._entries.move_to_end((query, kind))
        return answer

    def put(self, query: str, kind: object, answer: bytes) -> None:
        """Keep an answer, and drop those that were not asked for the longest time."""
        if (query, kind) in self._entries:
            return
        self._entries[query, kind] = answer
        self._used += self._cost(query, answer)
        while self._used > self._size:
            (oldest, _), dropped = self._entries.popitem(last=False)
            self._used -= self._cost(oldest, dropped)

    def _cost(self, query: str, answer: bytes) -> int:
        return self._OVERHEAD + len(query) + len(answer)
