"""The counters of the retrieval service, for Prometheus.

With several workers, every process writes its counters to its own files in `PROMETHEUS_MULTIPROC_DIR`, and the worker
that serves `/metrics` adds them up. The variable must be set before this module is imported.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Metrics:
    """The counters of one worker.

    Args:
        backend: name of the retriever.
        index_hash: hash of its index.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, backend: str, index_hash: str) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "searchgym_requests", "Requests to /retrieve, by HTTP status.", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "searchgym_request_seconds", "Time to answer a request.", registry=registry, buckets=_SECONDS
        )
        self._cached = Counter(
            "searchgym_queries", "Distinct queries of requests, by cache.", ["cache"], registry=registry
        )
        self._batch = Histogram(
            "searchgym_batch_queries", "Queries searched together.", registry=registry, buckets=_QUERIES
        )
        self._search = Histogram(
            "searchgym_search_seconds", "Time to search a batch.", registry=registry, buckets=_SECONDS
        )
        self._waiting = Gauge(
            "searchgym_waiting_queries",
            "Queries that wait or are being searched.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        info = Gauge(
            "searchgym_index",
            "The index that is served; always 1.",
            ["backend", "index_hash"],
            registry=registry,
            multiprocess_mode="max",
        )
        info.labels(backend, index_hash).set(1)
        self._hit, self._miss = self._cached.labels("hit"), self._cached.labels("miss")

    def requested(self, hits: int, misses: int) -> None:
        """Count the distinct queries of a request: `hits` were in the cache, `misses` were not."""
        self._hit.inc(hits)
        self._miss.inc(misses)

    def searched(self, queries: int, seconds: float) -> None:
        """Count a batch of queries that was searched."""
        self._batch.observe(queries)
        self._search.observe(seconds)

    def answered(self, status: int, seconds: float, waiting: int) -> None:
        """Count a request that was answered; `waiting` queries wait now."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)
        self._waiting.set(waiting)

    def page(self) -> bytes:
        """The content of `/metrics`: the counters of this process, or the sum over all workers."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
