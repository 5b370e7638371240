"""The `Retriever` protocol and the query cache in front of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .errors import RetrievalError

__all__ = ["CachedRetriever", "Hit", "Retriever", "SearchResult"]


class Hit(NamedTuple):
    """One retrieved passage; its position in the result list is its rank."""

    id: str
    title: str
    text: str
    score: float


SearchResult = list[Hit] | RetrievalError
"""The result of one query: hits, best first, or the failure."""


@runtime_checkable
class Retriever(Protocol):
    """Finds passages for queries. Register a factory under the entry-point group `searchgym.retrievers`.

    The factory is called as `factory(corpus, **options)` with a `searchgym.Corpus` and JSON options.
    """

    name: str
    """Backend name, e.g. "bm25"."""
    index_hash: str
    """Digest of passages, settings and versions that fix the ranking. Equal hashes: equal results."""

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        """Search a batch.

        Args:
            queries: any strings; an empty query or one of stop words only has the empty result.
            k: how many hits at most, >= 1.

        Returns:
            One entry per query, in order: hits by falling score, equal scores by id (also across the cut
            at k, so identical passages never swap), or a `RetrievalError` for a query that failed.

        Raises:
            ConfigError: k < 1.
            RetrievalError: the whole batch failed. An infrastructure failure raises no other exception.
        """


class CachedRetriever:
    """An LRU cache on (query, k). Transparent: same name, same hash, same results.

    Failures are never cached. `hits` and `misses` count queries. Threads may share one cache; it has no lock, which
    a forked worker could inherit held.

    Args:
        retriever: answers the queries that are not cached.
        size: passages kept, so `size // k` queries (about a kilobyte each).
    """

    def __init__(self, retriever: Retriever, size: int = 200_000) -> None:
        self._inner = retriever
        self._size = size
        # Least recently used first. Plain tuples, because the garbage collector stops tracking those.
        self._cache: OrderedDict[tuple[str, int], tuple[tuple[Any, ...], ...]] = OrderedDict()
        self.name = retriever.name
        self.index_hash = retriever.index_hash
        self.hits = 0
        self.misses = 0

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `Retriever.search`."""
        cache = self._cache
        known: dict[str, SearchResult] = {}
        missing: list[str] = []
        for query in dict.fromkeys(queries):
            found = cache.get((query, k))
            if found is None:
                missing.append(query)
            else:
                known[query] = [Hit._make(fields) for fields in found]
                with suppress(KeyError):  # another thread may have dropped it since
                    cache.move_to_end((query, k))
        self.misses += len(missing)
        self.hits += len(queries) - len(missing)
        answers = self._search_missing(missing, k) if missing else []
        if len(missing) == len(queries):
            return answers
        known.update(zip(missing, answers, strict=True))
        # Copies: the results of equal queries must not share a list.
        return [r.copy() if isinstance(r := known[query], list) else r for query in queries]

    def _search_missing(self, queries: list[str], k: int) -> list[SearchResult]:
        """Ask the retriever, and keep what it found."""
        cache = self._cache
        answers = list(self._inner.search(queries, k))
        if len(answers) != len(queries):
            raise RetrievalError(
                f"retriever {self.name!r} gave {len(answers)} results for {len(queries)} queries"
            )
        for query, result in zip(queries, answers, strict=True):
            if not isinstance(result, RetrievalError):
                cache[(query, k)] = tuple(map(tuple, result))
        while len(cache) * k > max(self._size, k):
            with suppress(KeyError):
                cache.popitem(last=False)
        return answers

    def __reduce__(self) -> tuple[Any, ...]:  # cached results can be found again; a worker starts empty
        return (CachedRetriever, (self._inner, self._size))
