"""The limits of the retrieval service: of requests, of their answers, of memory, of clients."""

from __future__ import annotations

from dataclasses import dataclass

from searchgym.errors import ConfigError
from searchgym.options import integer, number

__all__ = ["Limits"]

# Bytes apart from cache and requests: interpreter, libraries, passages that were read; a third of it for the process that
# searches heavy requests.
_BASE = 7 * 2**26
_LEAST = 2**26  # bytes for requests, at least


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the service; a request that exceeds them is refused with 408, 413, 422, 429 or 431.

    Attributes:
        topk: hits per query if a request does not say.
        max_topk: hits per query at most.
        queries: queries per request at most.
        query_chars: characters per query at most.
        hits: hits per request at most: queries times topk.
        body_bytes: bytes of a request's body at most.
        answer_bytes: bytes of an answer at most.
        waiting: queries that may wait or be searched at the same time.
        threads: searching threads. Every retriever allows several; those that release Python's lock benefit.
        batch: queries per search.
        window: seconds that a query waits for others while a thread is idle, from 0 to 1. It pays only if a batch is
            much faster than its queries one by one, which is not the case for the built-in retrievers.
        cache_bytes: size of the cache of results; 0 for none.
        memory: bytes of memory of a worker and its process for heavy requests, without the files of the index that they
            map. What neither the cache nor the programs themselves need is for requests and answers: if it is full, the
            connections that have stalled longest are closed, and then large requests are refused.
        connections: open connections at most; beyond that, the one that has been idle longest is closed.
        client_seconds: seconds within which a client has to send a request, and to take each part of the answer.

    Raises:
        ConfigError: a limit has a value that cannot be used.
    """

    topk: int = 3
    max_topk: int = 1000
    queries: int = 4096
    query_chars: int = 2**20
    hits: int = 2**15
    body_bytes: int = 2**22
    answer_bytes: int = 2**26
    waiting: int = 16_384
    threads: int = 2
    batch: int = 64
    window: float = 0.0
    cache_bytes: int = 2**28
    memory: int = 2**30
    connections: int = 1024
    client_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in (
            "topk",
            "max_topk",
            "queries",
            "query_chars",
            "hits",
            "body_bytes",
            "answer_bytes",
            "waiting",
            "threads",
            "batch",
            "memory",
            "connections",
        ):
            integer(name, getattr(self, name), 1)
        number("window", self.window, 0, 1)
        number("client_seconds", self.client_seconds, 0, 3600, above=0)
        integer("cache_bytes", self.cache_bytes, 0)
        if self.topk > self.max_topk:
            raise ConfigError(
                f"topk is {self.topk}, more than max_topk ({self.max_topk}): raise max_topk too"
            )
        if self.request_bytes < _LEAST:
            raise ConfigError(
                f"memory is {self.memory:,} bytes: give at least {self.cache_bytes + _BASE + _LEAST:,}, or a smaller cache"
            )

    @property
    def request_bytes(self) -> int:
        """Bytes of memory for requests and answers."""
        return self.memory - self.cache_bytes - _BASE
