"""Queries of many concurrent requests, searched together: a bounded queue, batches, a few searching threads.

While all threads search, what arrives waits and forms the next batch. Only when a thread was idle is a first query
held for a moment (the window), so that others can join it. A request of many queries is never cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from searchgym.errors import RetrievalError

__all__ = ["AnswerCache", "Overloaded", "SearchCrashed", "SearchQueue"]

T = TypeVar("T")
_log = logging.getLogger("searchgym.service")


class Overloaded(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds after which there is probably room, a whole number >= 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class SearchCrashed(Exception):
    """A search raised what no retriever may raise; its message names that, and the log has the traceback."""


@dataclass
class _Job(Generic[T]):
    """The queries of one request that have to be searched."""

    queries: Sequence[str]
    kind: object
    done: asyncio.Future[dict[str, T]] = field(repr=False)


class SearchQueue(Generic[T]):
    """Collects the queries of concurrent requests into batches.

    Args:
        search: answers a batch of distinct queries of one kind, in order; called in threads of its own. Its
            `RetrievalError` goes to every request of the batch. Of anything else that it raises the queries of
            one request may be the cause: then each request is searched alone.
        threads: that search, each a batch of its own.
        window: seconds a query waits for company when a thread is idle.
        batch: a batch is closed when it has this many queries. A larger request is a batch of its own.
        limit: queries that may wait or be searched at once.
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
        self._changed = threading.Condition()  # guards both
        self._threads: list[threading.Thread] = []
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
            RetrievalError: what `search` raised, or it gave a wrong number of answers.
            SearchCrashed: `search` raised something else.
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
        """Finish what waits, for so many seconds at most, then stop."""
        until = time.monotonic() + patience
        while self.waiting and time.monotonic() < until:
            await asyncio.sleep(0.01)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        """A searching thread. It goes from batch to batch without asking the event loop."""
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
        """The oldest job and those of its kind that fit into a batch with it; the others keep their order."""
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
        """Search one batch and hand the answers to the event loop."""
        queries = list(dict.fromkeys(query for job in jobs for query in job.queries))
        found: dict[str, T] | Exception
        started = time.perf_counter()
        try:
            answers = self._search(queries, jobs[0].kind)
            if len(answers) != len(queries):
                raise RetrievalError(f"the retriever gave {len(answers)} results for {len(queries)} queries")
            found = dict(zip(queries, answers, strict=True))
        except RetrievalError as error:
            found = error
        except BaseException as error:  # whatever it is, the thread goes on
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
                return
            _log.exception("a search failed")
            found = SearchCrashed(f"internal error: {type(error).__name__}")
        seconds = max(time.perf_counter() - started, 1e-6)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any longer
            jobs[0].done.get_loop().call_soon_threadsafe(self._deliver, jobs, found, len(queries), seconds)

    def _deliver(
        self, jobs: list[_Job[T]], found: dict[str, T] | Exception, queries: int, seconds: float
    ) -> None:
        for job in jobs:
            if job.done.done():  # whoever asked has gone
                continue
            if isinstance(found, Exception):
                job.done.set_exception(found)
            else:
                job.done.set_result({query: found[query] for query in job.queries})
        asked = sum(len(job.queries) for job in jobs)
        self._rate += (0.2 if self._rate else 1.0) * (asked / seconds - self._rate)
        self.waiting -= asked
        self._observe(queries, seconds)


class AnswerCache:
    """An LRU of answers as they go over the wire, bounded by their bytes.

    Args:
        size: bytes of all answers and their queries. An answer that is larger is not kept.
    """

    _OVERHEAD = 250  # bytes that an entry takes beside the query and the answer themselves

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
        cost = self._cost(query, answer)
        if cost > self._size or (query, kind) in self._entries:
            return
        self._entries[query, kind] = answer
        self._used += cost
        while self._used > self._size:
            (oldest, _), dropped = self._entries.popitem(last=False)
            self._used -= self._cost(oldest, dropped)

    def _cost(self, query: str, answer: bytes) -> int:
        return self._OVERHEAD + sys.getsizeof(query) + sys.getsizeof(answer)
