"""The `Retriever` protocol and the query cache in front of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from math import isfinite
from sys import getsizeof
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..errors import RetrievalError

__all__ = [
    "CACHE_BYTES",
    "CachedRetriever",
    "Hit",
    "Retriever",
    "SearchResult",
    "check_result",
    "content_id",
    "distinct_hits",
]

CACHE_BYTES = 256 * 2**20
"""The memory that a query cache may take by default."""
# Bytes of CPython's objects, and of the tables' slots, besides the strings themselves.
_ENTRY_BYTES = 300
_HIT_BYTES = 160
_TEXT_BYTES = 160


class Hit(NamedTuple):
    """One retrieved passage; its position in the result list is its rank."""

    id: str
    title: str
    text: str
    score: float


SearchResult = list[Hit] | RetrievalError
"""The result of one query: hits, best first, or the failure."""

_Fields = tuple[str, str, str, float]  # of a hit


@runtime_checkable
class Retriever(Protocol):
    """Finds passages for queries. Register a factory under the entry-point group `searchgym.retrievers`.

    The factory is called as `factory(corpus, **options)` with a `searchgym.Corpus` and JSON options.

    A retriever that searches elsewhere may have an attribute `ids_match`, a boolean: whether the ids of its hits are those
    of the corpus's passages. If it is False, recall and whatever else compares hits with gold passages mean nothing, and
    an environment refuses arguments that need them. Without the attribute the ids are taken as the corpus's.
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


def distinct_hits(hits: Iterable[Hit]) -> list[Hit]:
    """Each passage once, in order. Equal ids are one passage only if title and text are equal too."""
    once: dict[tuple[Any, ...], Hit] = {}
    for hit in hits:
        once.setdefault(hit[:3], hit)
    return list(once.values())


def content_id(title: str, text: str) -> str:
    """The id of a passage that its server gave none: a digest of what it says, 16 hexadecimal digits."""
    return hashlib.blake2b(f"{title}\n{text}".encode(errors="replace"), digest_size=8).hexdigest()


def check_result(result: Any, name: str) -> SearchResult:
    """A result as every caller can rely on it: with finite scores, and no passage without an id.

    Args:
        result: of one query.
        name: of the retriever, for the message.

    Returns:
        The result; with `content_id` in place of empty ids; or a `RetrievalError` if it is not a list of hits or a score is
        not a finite number.
    """
    if isinstance(result, RetrievalError):
        return result
    if not isinstance(result, list):
        return RetrievalError(f"retriever {name!r} gave {result!r:.60} in place of a list of hits")
    total, named = 0.0, True
    for id, _, _, score in result:
        total += score  # not finite if one of them is not; only then are they looked at singly
        if not id:
            named = False
    if not isfinite(total):
        for hit in result:
            if not isfinite(hit.score):
                return RetrievalError(f"retriever {name!r} gave passage {hit.id!r} the score {hit.score}")
    if named:
        return result
    return [hit if hit.id else hit._replace(id=content_id(hit.title, hit.text)) for hit in result]


class CachedRetriever:
    """A cache on (query, k), bounded in bytes. Transparent: same name, same hash, same results.

    Results that were used most recently are kept. The text of a passage that several of them contain is stored once.
    Failures are never cached; `check_result` is applied to what the retriever returns. `hits` and `misses` count
    queries. Threads may share one cache; it has no lock, which a forked worker could inherit held.

    As in `searchgym.lru.LRUCache` there are two generations: what is read in the older one moves to the younger one, and
    when the younger one is full, it becomes the older one. Each may hold a third of the bound; the last third is left for
    what memory allocators need in addition.

    Args:
        retriever: answers the queries that are not cached.
        size: bytes of memory that the cache may take; 0 for no cache.
    """

    def __init__(self, retriever: Retriever, size: int = CACHE_BYTES) -> None:
        self._inner = retriever
        self._size = size
        self._younger: dict[int, dict[str, tuple[_Fields, ...]]] = {}  # by k and query
        self._older: dict[int, dict[str, tuple[_Fields, ...]]] = {}
        self._texts: dict[str, str] = {}  # of passages, those of the younger generation
        self._used = 0  # bytes of the younger generation
        self.name = retriever.name
        self.index_hash = retriever.index_hash
        self.ids_match: bool = getattr(retriever, "ids_match", True)
        self.hits = 0
        self.misses = 0

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `Retriever.search`."""
        younger, older = self._younger.get(k, {}), self._older.get(k, {})
        distinct = dict.fromkeys(queries)
        missing = [query for query in distinct if query not in younger and query not in older]
        self.misses += len(missing)
        self.hits += len(queries) - len(missing)
        answers = self._search_missing(missing, k) if missing else []
        if len(missing) == len(queries):
            return answers
        known = dict(zip(missing, answers, strict=True))
        new = tuple.__new__
        for query in distinct:
            if query not in known:
                found = younger.get(query)
                if found is None:
                    found = older[query]
                    self._keep(query, k, found)
                known[query] = [new(Hit, fields) for fields in found]  # Hit._make(fields), at half its cost
        if len(distinct) == len(queries):
            return [known[query] for query in queries]
        # Copies: the results of equal queries must not share a list.
        return [r.copy() if isinstance(r := known[query], list) else r for query in queries]

    def _search_missing(self, queries: list[str], k: int) -> list[SearchResult]:
        """Ask the retriever, and keep what it found."""
        answers = list(self._inner.search(queries, k))
        if len(answers) != len(queries):
            raise RetrievalError(
                f"retriever {self.name!r} gave {len(answers)} results for {len(queries)} queries"
            )
        for number, query in enumerate(queries):
            result = answers[number] = check_result(answers[number], self.name)
            if not isinstance(result, RetrievalError):
                self._keep(query, k, result)
        return answers

    def _keep(self, query: str, k: int, hits: Sequence[_Fields]) -> None:
        """Keep a result in the younger generation."""
        while True:
            texts = self._texts
            weight = _ENTRY_BYTES + _HIT_BYTES * len(hits)
            characters = len(query)
            new = []
            kept = []
            for id, title, text, score in hits:
                shared = texts.get(text)
                if shared is None:
                    shared = text
                    new.append(text)
                    weight += _TEXT_BYTES + getsizeof(text)
                characters += len(id) + len(title)
                # Plain tuples, because the garbage collector stops tracking those.
                kept.append((id, title, shared, score))
            weight += 4 * characters  # which take at most 4 bytes each
            if self._used + weight <= self._size // 3:
                break
            if not self._used:
                return  # too large to be kept
            self._older, self._younger, self._texts, self._used = self._younger, {}, {}, 0
        for text in new:
            texts[text] = text
        self._younger.setdefault(k, {})[query] = tuple(kept)
        self._used += weight

    def __reduce__(self) -> tuple[Any, ...]:  # cached results can be found again; a worker starts empty
        return (CachedRetriever, (self._inner, self._size))
