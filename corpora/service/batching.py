"""The queries of concurrent requests, searched together: a bounded queue, batches, a few searching threads.

While all threads search, queries that arrive wait and form the next batch. Only if a thread was idle is the first query
held for a moment (the window), so that others can join it.

A request of few hits is searched whole. A heavy one is searched in slices of a few milliseconds, and the slices of several
heavy requests take turns. While requests of few hits come in, they go first three times out of four, one thread is theirs,
and the others rest after each slice as long as it took, because they also take Python's lock from the thread that reads
requests. So nobody waits long for a heavy request of somebody else, and alone it is searched by all threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from searchgym.errors import RetrievalError, SearchGymError, get_logger

__all__ = ["Overloaded", "SearchCrashed", "SearchQueue"]

LIGHT = 256
"""Hits up to which a request is searched whole, and before heavy ones."""

T = TypeVar("T")
_SLICE = 0.005  # seconds that a slice of a heavy request should take
_LIGHT_FOR = 0.5  # seconds after a light request in which others are expected
_log = get_logger("searchgym.service")


class Overloaded(SearchGymError):
    """There is no room for a request at the moment.

    Args:
        retry_after: seconds after which there will probably be room, at least 1.
        full: what is full.

    Attributes:
        retry_after: see above.
    """

    def __init__(self, retry_after: int, full: str = "the queue") -> None:
        super().__init__(f"{full} is full; try again in {retry_after} s")
        self.retry_after, self._full = retry_after, full

    def __reduce__(self) -> tuple[Any, ...]:
        return (Overloaded, (self.retry_after, self._full))


class SearchCrashed(SearchGymError):
    """A search raised an error that no retriever may raise. The message names it, and the log has the traceback."""


@dataclass(eq=False, repr=False)  # the repr would show all results
class _Job(Generic[T]):
    """The queries of one request that are not in the cache."""

    queries: Sequence[str]
    kind: object
    heavy: bool
    done: asyncio.Future[dict[str, T]]
    claim: Callable[[Mapping[str, T]], None]
    wanted: Callable[[], bool]
    taken: int = 0  # queries that were given to a thread
    found: dict[str, T] = field(default_factory=dict)


_Slice = tuple[_Job[T], Sequence[str]]
"""Some queries of a job, searched at once."""


def _keep(found: Mapping[str, Any]) -> None:
    """The default of `claim`."""


def _always() -> bool:
    return True


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
        hits: how many hits each query of a kind has at most; a request of more than `LIGHT` in all is heavy.
        search_heavy: searches the slices of heavy requests, from as many further threads; None: `search` does.
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
        hits: Callable[[Any], int] = lambda kind: 1,
        search_heavy: Callable[[list[str], Any], Sequence[T]] | None = None,
    ) -> None:
        self._search = search
        self._search_heavy = search_heavy
        self._count = threads
        self._window = window
        self._batch = batch
        self._limit = limit
        self._observe = observe
        self._hits = hits
        self._light: deque[_Job[T]] = deque()
        self._heavy: deque[_Job[T]] = deque()
        self._turn = 0
        self._light_until = 0.0
        self._slicing = 0  # threads that search a slice of a heavy request
        self._each: dict[object, float] = {}  # seconds per query of a kind, recently
        self._closed = False
        lock = threading.RLock()  # guards the jobs and the flag
        self._changed = threading.Condition(lock)
        self._changed_heavy = self._changed if search_heavy is None else threading.Condition(lock)
        self._threads: list[threading.Thread] = []
        self._rate = 0.0  # queries answered per second, recently
        self.waiting = 0
        """Queries that wait or are being searched."""

    async def search(
        self,
        queries: Sequence[str],
        kind: object,
        claim: Callable[[Mapping[str, T]], None] = _keep,
        wanted: Callable[[], bool] = _always,
    ) -> dict[str, T]:
        """The result of each query.

        Args:
            queries: distinct queries.
            kind: passed to `search`; queries of different kinds are not mixed in a batch.
            claim: called with results as they are found; an error that it raises ends the search, e.g. because there is
                no memory for more.
            wanted: whether the client still waits; the rest of a heavy request that nobody waits for is not searched.

        Raises:
            Overloaded: there is no room for this many queries.
            RetrievalError: `search` raised it, or returned a wrong number of results.
            SearchCrashed: `search` raised another error.
            Exception: what `claim` raised.
        """
        if self.waiting and self.waiting + len(queries) > self._limit:
            raise Overloaded(max(1, math.ceil(self.waiting / self._rate) if self._rate else 1))
        while len(self._threads) < self._count * (1 if self._search_heavy is None else 2):
            own = self._search_heavy is not None and len(self._threads) >= self._count
            # A daemon: a search that never returns must not keep the process from ending.
            self._threads.append(
                threading.Thread(target=self._run, args=(own,), name="searchgym-search", daemon=True)
            )
            self._threads[-1].start()
        heavy = len(queries) > self._batch or len(queries) * self._hits(kind) > LIGHT
        job: _Job[T] = _Job(queries, kind, heavy, asyncio.get_running_loop().create_future(), claim, wanted)
        self.waiting += len(queries)
        with self._changed:
            (self._heavy if heavy else self._light).append(job)
            if not heavy:
                self._light_until = time.monotonic() + _LIGHT_FOR
            (self._changed_heavy if heavy else self._changed).notify()
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
            self._changed_heavy.notify_all()

    def _run(self, own: bool) -> None:
        """A searching thread. It takes batch after batch without waiting for the event loop.

        Args:
            own: it is for heavy requests only, which are searched elsewhere.
        """
        changed = self._changed_heavy if own else self._changed
        while True:
            with changed:
                idle = not (self._light or self._heavy)
                while not self._ready(own):
                    if self._closed and not self._heavy:
                        return
                    # A heavy request that has to wait for its turn may continue when no light ones arrive any more.
                    changed.wait(_LIGHT_FOR if self._heavy else None)
            if idle and self._window and not own:
                time.sleep(self._window)
            with changed:
                batch = self._take(own)  # nothing if another thread was quicker
                heavy = bool(batch) and batch[0][0].heavy
                self._slicing += heavy
            if not batch:
                continue
            started = time.monotonic()
            self._answer(batch)
            if heavy:
                if not own and self._light_until > time.monotonic():
                    time.sleep(min(time.monotonic() - started, 10 * _SLICE))
                with changed:
                    self._slicing -= 1
                    changed.notify()

    def _ready(self, own: bool) -> bool:
        """Whether there is something that this thread may search."""
        return bool(self._light and not own) or self._may_slice(own)

    def _may_slice(self, own: bool) -> bool:
        """Whether this thread may search a slice of a heavy request."""
        if own or self._search_heavy is not None:
            return own and bool(self._heavy)
        spare = self._count - 1 if self._light_until > time.monotonic() else self._count
        return bool(self._heavy) and self._slicing < max(1, spare)

    def _take(self, own: bool) -> list[_Slice[T]]:
        """What is searched next: jobs of the same kind, or a slice of a heavy job."""
        self._turn += 1
        if self._may_slice(own) and (own or not self._light or self._turn % 4 == 0):
            return [self._slice()]
        if own or not self._light:
            return []
        waiting = self._light
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
        return [(job, job.queries) for job in jobs]

    def _slice(self) -> _Slice[T]:
        """The next queries of the heavy job whose turn it is."""
        job = self._heavy.popleft()
        each = self._each.get(job.kind)
        # The first slice of a kind has one query, as nobody knows yet how long it takes.
        count = max(1, min(self._batch, int(_SLICE / each))) if each else 1
        if job.done.done() or not job.wanted():
            count = 0  # deliver what is left as unanswered
        queries = job.queries[job.taken : job.taken + count]
        job.taken += count
        if count and job.taken < len(job.queries):
            self._heavy.append(job)
        return job, queries

    def _answer(self, batch: list[_Slice[T]]) -> None:
        """Search one batch and pass the results to the event loop."""
        kind = batch[0][0].kind
        queries = list(dict.fromkeys(query for _, some in batch for query in some))
        found: dict[str, T] | Exception
        started = time.perf_counter()
        try:
            search = self._search_heavy if self._search_heavy and batch[0][0].heavy else self._search
            answers = search(queries, kind) if queries else []
            if len(answers) != len(queries):
                raise RetrievalError(
                    f"the retriever returned {len(answers)} results for {len(queries)} queries"
                )
            found = dict(zip(queries, answers, strict=True))
        except RetrievalError as error:
            found = error
        except BaseException as error:  # the thread continues after any error
            if len(batch) > 1:
                for one in batch:
                    self._answer([one])
                return
            _log.exception("a search failed")
            found = SearchCrashed(f"internal error: {type(error).__name__}")
        seconds = max(time.perf_counter() - started, 1e-6)
        if queries:
            each = seconds / len(queries)
            self._each[kind] = each if kind not in self._each else 0.7 * self._each[kind] + 0.3 * each
        with contextlib.suppress(RuntimeError):  # the loop is closed: no request waits any longer
            loop = batch[0][0].done.get_loop()
            loop.call_soon_threadsafe(self._deliver, batch, found, len(queries), seconds)

    def _deliver(
        self, batch: list[_Slice[T]], found: dict[str, T] | Exception, queries: int, seconds: float
    ) -> None:
        answered = sum(len(some) for _, some in batch)
        self.waiting -= answered
        for job, some in batch:
            failed = found if isinstance(found, Exception) else None
            if failed is None and not job.done.done():
                try:
                    assert isinstance(found, dict)
                    part = {query: found[query] for query in some}
                    job.claim(part)
                    job.found |= part
                except Exception as error:
                    failed = error
            if failed is None and job.heavy and not some:
                failed = RetrievalError("the client has left")
            if failed is not None or job.done.done():
                self._drop(job)
                if failed is not None and not job.done.done():
                    job.done.set_exception(failed)
            elif len(job.found) == len(job.queries):
                job.done.set_result(job.found)
        if queries:
            self._rate += (0.2 if self._rate else 1.0) * (answered / seconds - self._rate)
            self._observe(queries, seconds)

    def _drop(self, job: _Job[T]) -> None:
        """Forget the queries of a job that no thread has taken."""
        if not job.heavy:
            return
        with self._changed:
            self.waiting -= len(job.queries) - min(job.taken, len(job.queries))
            job.taken = len(job.queries)
            if job in self._heavy:
                self._heavy.remove(job)
