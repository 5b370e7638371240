"""The queries of concurrent requests, searched together: a bounded queue, batches, a few searching threads.

While all threads search, queries that arrive wait and form the next batch. Only if a thread was idle is the first query
held for a moment (the window), so that others can join it. A request of many queries is never split.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from searchgym.errors import RetrievalError
from searchgym.terminal import get_logger

__all__ = ["Overloaded", "SearchCrashed", "SearchQueue"]

T = TypeVar("T")
_log = get_logger("searchgym.service")


class Overloaded(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds after which there will probably be room, at least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class SearchCrashed(Exception):
    """A search raised an error that no retriever may raise. The message names it, and the log has the traceback."""


@dataclass
class _Job(Generic[T]):
    """The queries of one request that are not in the cache."""

    queries: Sequence[str]
    kind: object
    done: asyncio.Future[dict[str, T]] = field(repr=False)


class SearchQueue(Generic[T]):
    """Collects the queries of concurrent requests into batches.

    Args:
        search: searches a batch of distinct queries of one kind and returns the results in order; called in the
            searching threads. A `RetrievalError` that it raises goes to every request of the batch. After any other
            error, whose cause may be a single request, each request is searched alone.
        threads: searching threads, each with its own batch.
        window: seconds that a query waits for others while a thread is idle.
        batch: queries per batch at most. A larger request is a batch of its own.
        limit: queries that may wait or be searched at the same time.
        observe: called with (queries, seconds) after every batch.
    """

    def __init__(
        self,
        search: Callable[[list[str], object], Sequence[T]],
        *,
        threads: int,
        window: float,
        batch: int,
        limit: int,
        observe: Callable[[int, float], None] = lambda queries, seconds: None,
    ) -> None:
        self._search = search
        self._count = threads
        self._window = window
        self._batch = batch
        self._limit = limit
        self._observe = observe
        self._jobs: deque[_Job[T]] = deque()
        self._closed = False
        self._changed = threading.Condition()  # guards the jobs and the flag
        self._threads: list[threading.Thread] = []
        self._rate = 0.0  # queries answered per second, recently
        self.waiting = 0
        """Queries that wait or are being searched."""

    async def search(self, queries: Sequence[str], kind: object) -> dict[str, T]:
        """The result of each query.

        Args:
            queries: distinct queries.
            kind: passed to `search`; queries of different kinds are not mixed in a batch.

        Raises:
            Overloaded: there is no room for this many queries.
            RetrievalError: `search` raised it, or returned a wrong number of results.
            SearchCrashed: `search` raised another error.
        """
        if self.waiting and self.waiting + len(queries) > self._limit:
            raise Overloaded(max(1, math.ceil(self.waiting / self._rate) if self._rate else 1))
        while len(self._threads) < self._count:
            # A daemon: a search that never returns must not keep the process from ending.
            self._threads.append(threading.Thread(target=self._run, name="searchgym-search", daemon=True))
            self._threads[-1].start()
        job: _Job[T] = _Job(queries, kind, asyncio.get_running_loop().create_future())
        self.waiting += len(queries)
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return await job.done

    async def close(self, patience: float) -> None:
        """Finish what waits, then stop.

        Args:
            patience: seconds to wait at most.
        """
        until = time.monotonic() + patience
        while self.waiting and time.monotonic() < until:
            await asyncio.sleep(0.01)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        """A searching thread. It takes batch after batch without waiting for the event loop."""
        while True:
            with self._changed:
                idle = not self._jobs
                while not self._jobs:
                    if self._closed:
                        return
                    self._changed.wait()
            if idle and self._window:
                time.sleep(self._window)
            with self._changed:
                batch = self._take() if self._jobs else None  # another thread may have been quicker
            if batch:
                self._answer(batch)

    def _take(self) -> list[_Job[T]]:
        """The oldest job, and jobs of its kind that fit into the same batch; the others keep their order."""
        waiting = self._jobs
        first = waiting.popleft()
        jobs, kept, size = [first], [], len(first.queries)
        while waiting and size < self._batch:
            job = waiting.popleft()
            if job.kind == first.kind and size + len(job.queries) <= self._batch:
                jobs.append(job)
                size += len(job.queries)
            else:
                kept.append(job)
        waiting.extendleft(reversed(kept))
        return jobs

    def _answer(self, jobs: list[_Job[T]]) -> None:
        """Search one batch and pass the results to the event loop."""
        queries = list(dict.fromkeys(query for job in jobs for query in job.queries))
        found: dict[str, T] | Exception
        started = time.perf_counter()
        try:
            answers = self._search(queries, jobs[0].kind)
            if len(answers) != len(queries):
                raise RetrievalError(
                    f"the retriever returned {len(answers)} results for {len(queries)} queries"
                )
            found = dict(zip(queries, answers, strict=True))
        except RetrievalError as error:
            found = error
        except BaseException as error:  # the thread continues after any error
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
                return
            _log.exception("a search failed")
            found = SearchCrashed(f"internal error: {type(error).__name__}")
        seconds = max(time.perf_counter() - started, 1e-6)
        with contextlib.suppress(RuntimeError):  # the loop is closed: no request waits any longer
            jobs[0].done.get_loop().call_soon_threadsafe(self._deliver, jobs, found, len(queries), seconds)

    def _deliver(
        self, jobs: list[_Job[T]], found: dict[str, T] | Exception, queries: int, seconds: float
    ) -> None:
        for job in jobs:
            if job.done.done():  # the request was abandoned
                continue
            if isinstance(found, Exception):
                job.done.set_exception(found)
            else:
                job.done.set_result({query: found[query] for query in job.queries})
        answered = sum(len(job.queries) for job in jobs)
        self._rate += (0.2 if self._rate else 1.0) * (answered / seconds - self._rate)
        self.waiting -= answered
        self._observe(queries, seconds)
