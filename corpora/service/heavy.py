"""A process of low priority that reads and searches heavy requests, so that light ones do not wait for them.

Parsing megabytes, or reading a thousand passages and writing them as JSON, holds Python's lock. In the serving process, each
step of each light request would wait for that lock. Here the heavy work has an interpreter of its own, which maps the same
index files and gets the processor when the serving process does not need it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from searchgym.errors import RetrievalError, SearchGymError, get_logger
from searchgym.records.question import Corpus
from searchgym.records.retriever import Retriever

from .encoding import search_encoded
from .heaps import limit_heaps
from .limits import Limits
from .requests import Form, Search, read_search

__all__ = ["HeavyProcess"]

_NICE = 10  # added to the priority: a tenth of the processor beside a busy process of normal priority
_AGAIN = 60.0  # seconds after a start before which the process is not started again
_log = get_logger("searchgym.service")

Encoded = list[bytes | RetrievalError]
Opener = Callable[[], tuple[Retriever, Corpus]]


class HeavyProcess:
    """Reads and searches requests in another process, which the first heavy request starts.

    If the process cannot be started or ends, the work is done here: no request fails because of it.

    Args:
        open: opens retriever and corpus; called in the process, so it must pickle.
        retriever: the same retriever in this process.
        lanes: threads that may work at the same time, in the process too.
    """

    def __init__(self, open: Opener, retriever: Retriever, lanes: int) -> None:
        self._open, self._retriever, self._lanes = open, retriever, lanes
        self._process: Any = None
        self._free: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = -_AGAIN
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process; None if there is none."""
        return self._process.pid if self._process is not None else None

    def search(self, queries: Sequence[str], form: Form) -> Encoded:
        """Search a batch; see `search_encoded`, whose errors this raises too."""
        found: Encoded = self._do(search_encoded, list(queries), form)
        return found

    def read(self, body: bytes, media: str, limits: Limits, bare: bool) -> Search:
        """Read a request; see `read_search`, whose errors this raises too."""
        search: Search = self._do(_read, body, media, limits, bare)
        return search

    def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call `work(retriever, *arguments)` in the process."""
        free = self._lane()
        lane = free.get() if free is not None else None
        if free is None or lane is None:
            if free is not None:
                free.put(None)  # for the other threads that wait
            return work(self._retriever, *arguments)
        try:
            lane.send((work, arguments))
            answer = lane.recv()
        except (OSError, EOFError):
            lane.close()
            self._ended(free)
            return work(self._retriever, *arguments)
        free.put(lane)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()
                self._process = None

    def _lane(self) -> queue.SimpleQueue[Connection | None] | None:
        """The connections to a running process; None if there is none now."""
        with self._lock:
            if self._process is None and not self._closed and time.monotonic() - self._started >= _AGAIN:
                self._started = time.monotonic()
                self._free = queue.SimpleQueue()
                try:
                    self._start()
                except (OSError, RuntimeError) as error:
                    _log.warning("heavy requests are answered by the serving process: %s", error)
            return self._free if self._process is not None else None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(self._lanes)]
        process = context.Process(
            target=_work,
            args=(self._open, [there for _, there in pairs]),
            name="searchgym-heavy",
            daemon=True,
        )
        process.start()
        for here, there in pairs:
            there.close()
            self._free.put(here)
        self._process = process

    def _ended(self, free: queue.SimpleQueue[Connection | None]) -> None:
        """The process of these connections has ended: no thread may wait for them."""
        with self._lock:
            if self._free is not free or self._process is None:
                return
            self._process.kill()
            self._process.join()
            if not self._closed:
                _log.warning(
                    "the process for heavy requests ended with status %s: they are answered by the serving process "
                    "for the next %.0f s",
                    self._process.exitcode,
                    _AGAIN,
                )
            self._process = None
            free.put(None)


def _work(open: Opener, lanes: Sequence[Connection]) -> None:
    """The process: one searching thread per connection, until the other end is closed."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches it too: requests in flight are finished first
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    limit_heaps()
    try:
        retriever, _ = open()
    except SearchGymError as error:
        sys.exit(str(error))
    threads = [threading.Thread(target=_serve, args=(retriever, lane), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(retriever: Retriever, lane: Connection) -> None:
    while True:
        try:
            work, arguments = lane.recv()
        except (OSError, EOFError):
            return
        try:
            answer = work(retriever, *arguments)
        except SearchGymError as error:
            answer = error
        except Exception as error:  # which need not pickle
            _log.exception("a search failed")
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            lane.send(answer)


def _read(retriever: Retriever, body: bytes, media: str, limits: Limits, bare: bool) -> Search:
    return read_search(body, media, limits, bare=bare)
