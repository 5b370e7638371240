"""Client of the de-facto `/retrieve` protocol (Search-R1's), so that existing retrieval servers work unchanged.

    {"queries": ["…"], "topk": 5, "return_scores": true}
    -> {"result": [[{"document": {"id": "…", "contents": "\"Title\"\nText"}, "score": 9.1}, …], …]}

Hits that are bare documents or strings are read too, and so are the dialects of `client_dialects`; a hit without a score gets 1 / rank. When a server answers with an error, with
malformed data, too slowly or never, the query becomes a `RetrievalError` after retries with back-off.

A remote retriever cannot promise that the server orders equal scores by id, that a query has the same result alone and
in a batch, or that the index stays the same. `searchgym index serve` does promise the first two, and names its index in
every reply; if the index changes during a session, that is an error.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from searchgym.errors import ConfigError, MissingExtraError, RetrievalError
from searchgym.options import boolean, integer, number
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, SearchResult
from searchgym.retries import Backoff, is_transient

from ..indexing.arguments import check_k, check_queries
from ..indexing.matching import PROBE_HITS, PassageMatcher
from ..indexing.sealed import digest
from .client_dialects import DIALECTS, QUERIES
from .protocol import read_hits

try:
    from .http import HttpClient, RequestFailed
except ModuleNotFoundError as missing:
    raise MissingExtraError("retriever 'remote'", missing.name or "httpcore", "serve") from missing

__all__ = ["RemoteRetriever", "open_remote"]

T = TypeVar("T")
_FORMAT = 1
_MAX_REPLY = 2**28  # bytes
_BACKOFF = Backoff(first=0.2, longest=10.0)
_OPENING_ATTEMPTS = 2
_UNAVAILABLE = (408, 425, 429, 502, 503, 504)  # says nothing about the kind of server
_REJECTED = (400, 413, 422)  # something is wrong with a query, or the request is too large


class _Failed(RequestFailed):
    """One attempt failed.

    Attributes:
        status: the HTTP status; None if there was no reply.
        retry_after: seconds that the server asks to wait; None if it does not.
    """

    def __init__(
        self,
        reason: str,
        retryable: bool = True,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, retryable)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of `open_remote`, checked."""

    url: str
    timeout: float
    retries: int
    batch: int
    any_corpus: bool

    def __post_init__(self) -> None:
        number("timeout", self.timeout, high=3600, above=0)
        integer("retries", self.retries, 0, 10_000)
        integer("batch", self.batch, 1, 10_000)
        boolean("any_corpus", self.any_corpus)


class RemoteRetriever:
    """Searches on a server; implements `searchgym.Retriever`. Created by `open_remote`.

    Threads may share a retriever; a forked or spawned process opens its own connections.

    Attributes:
        name: "remote".
        url: where queries are posted.
        index_hash: the server's own hash, if it is `searchgym index serve`: equal to that of the same index in this
            process. For other servers, a digest of the URL: then equal hashes promise nothing about the results.
        ids_match: whether the server returns passages of the corpus, by id or by title and text; see
            `searchgym.Retriever`. Hits have the ids of the corpus where it has the passage.
        retries: further attempts that were needed so far; not deterministic.
    """

    name = "remote"

    def __init__(self, corpus: Corpus, options: _Options) -> None:
        self._arguments = (corpus, options)
        self._server = HttpClient(options.url, float(options.timeout), _MAX_REPLY)
        self._path = "/retrieve" if self._server.path == "/" else self._server.path
        self.url = self._server.origin + self._path
        self.retries = 0
        self._options = options
        self._dialect = QUERIES
        self._names_index = False  # whether every reply of the server names its index
        # For a server that may search other passages; None if it has those of the corpus, or the corpus has none.
        self._matcher: PassageMatcher | None = None
        self.ids_match = True
        self.index_hash = self._open(corpus)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. Blank queries have the empty result and are not sent.

        If a request fails, each of its queries (at most `batch`) gets a `RetrievalError`. A request that the server
        rejects is sent again in halves, so that only the query that is at fault fails.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
        """
        topk, batch = check_k(k), self._dialect.batch or self._options.batch
        distinct = list(dict.fromkeys(query for query in check_queries(queries) if query.strip()))
        found: dict[str, SearchResult] = {}
        for start in range(0, len(distinct), batch):
            part = distinct[start : start + batch]
            found |= zip(part, self._ask(part, topk), strict=True)
        return [_copy(found[query]) if query in found else [] for query in queries]

    def _ask(self, queries: list[str], topk: int) -> list[SearchResult]:
        """The results of one request; a failure is returned in their place, never raised."""
        try:
            return self._with_retries(lambda: self._retrieve(queries, topk), 1 + self._options.retries)
        except _Failed as error:
            if error.status in _REJECTED and len(queries) > 1:
                half = len(queries) // 2
                return self._ask(queries[:half], topk) + self._ask(queries[half:], topk)
            return [RetrievalError(f"{self.url}: {error}") for _ in queries]

    def _with_retries(self, attempt: Callable[[], T], attempts: int) -> T:
        """Try until it works; raises `_Failed` with the reason of the last failure."""
        for count in range(1, attempts + 1):
            try:
                return attempt()
            except _Failed as error:
                failed = error
            if not failed.retryable or count == attempts:
                break
            self.retries += 1
            time.sleep(_BACKOFF.pause(count, failed.retry_after))
        failed.args = (f"{failed} ({count} attempt{'s' if count > 1 else ''})",)
        raise failed

    def _retrieve(self, queries: list[str], topk: int) -> list[SearchResult]:
        """One attempt to get the results of one request."""
        request = self._dialect.request(queries, topk)
        if self._names_index:  # other servers may refuse a field that they do not know
            request["partial"] = True
        # UTF-8 is much shorter than JSON's escapes for most scripts. It cannot encode lone surrogates.
        reply = self._exchange(
            "POST", self._path, json.dumps(request, ensure_ascii=False).encode(errors="replace")
        )
        try:
            fields = json.loads(reply)
            rows = self._dialect.rows(fields)
            errors = (fields.get("errors") if isinstance(fields, dict) else None) or {}
            if len(rows) != len(queries):
                raise _Failed(f"{len(rows)} results for {len(queries)} queries", status=200)
            return [
                RetrievalError(f"{self.url}: {errors[str(n)]}") if row is None else self._read(row, topk)
                for n, row in enumerate(rows)
            ]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise _Failed(f"not an answer of the /retrieve protocol ({error!r:.200})", status=200) from None

    def _read(self, row: Any, topk: int) -> list[Hit]:
        hits = read_hits(row, topk)
        return hits if self._matcher is None else self._matcher.match(hits)

    def _exchange(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a reply with status 200, from the index that was opened."""
        try:
            reply = self._server.request(method, path, body)
        except RequestFailed as error:
            raise _Failed(str(error), error.retryable) from None
        if reply.status != 200:
            raise _Failed(
                f"status {reply.status}: {reply.body[:200].decode(errors='replace')}",
                is_transient(reply.status),
                reply.status,
                _seconds(reply.headers.get("retry-after")),
            )
        index = reply.headers.get("x-index-hash")
        if self._names_index and index != self.index_hash:
            raise _Failed(
                f"it serves another index now, {index}, not {self.index_hash}: open the retriever again",
                retryable=False,
            )
        return reply.body

    def _open(self, corpus: Corpus) -> str:
        """Make sure that a server is there; returns the hash of its index."""
        try:
            facts = self._with_retries(self._health, _OPENING_ATTEMPTS)
            known = facts or {}
            if len(corpus.passages) and known.get("corpus_hash") != corpus.hash:
                self._matcher = PassageMatcher(corpus)
            if facts is None:  # a tiny search is the health check of any other server
                self._find_dialect()
                return digest({"format": _FORMAT, "backend": self.name, "url": self.url})
        except _Failed as error:
            there = "no retrieval server answers at" if error.status is None else "no retrieval server is at"
            raise ConfigError(
                f"{there} {self.url}: {error}. Start one (searchgym index serve INDEX), or correct the option url"
            ) from None
        theirs = facts.get("corpus_hash")
        if theirs and len(corpus.passages) and theirs != corpus.hash and not self._options.any_corpus:
            raise ConfigError(
                f"{self.url} searches corpus {facts.get('corpus')!r} ({theirs}), but the questions belong to "
                f"{corpus.name!r} ({corpus.hash}): serve that corpus, or set the option any_corpus to true"
            )
        if (
            self._matcher is not None and theirs
        ):  # a server of ours that names no corpus is matched without a probe
            try:
                self._probe()
            except _Failed as error:
                raise ConfigError(f"{self.url} cannot be searched: {error}") from None
        self._names_index = True
        return str(facts["index_hash"])

    def _find_dialect(self) -> None:
        """Find out which dialect the server speaks; raises `_Failed` with the reason of the first if it speaks none."""
        first: _Failed | None = None
        for dialect in DIALECTS[self._path.partition("?")[0].endswith("search")]:
            self._dialect = dialect
            try:
                self._probe()
                return
            except _Failed as error:
                if error.status is None or error.status in _UNAVAILABLE:
                    raise
                first = first or error
        assert first is not None
        raise first

    def _probe(self) -> None:
        """Search for passages of the corpus, to see whether the server works and has them."""
        probes = self._matcher.probes() if self._matcher is not None else ["river"]
        batch = self._dialect.batch or self._options.batch
        results = self._with_retries(lambda: self._retrieve(probes[:batch], PROBE_HITS), _OPENING_ATTEMPTS)
        if self._matcher is None:
            return
        for start in range(batch, len(probes), batch):  # one passage may be missing, or be found by accident
            with contextlib.suppress(_Failed):  # the server works: a search will show what is wrong
                results += self._retrieve(probes[start : start + batch], PROBE_HITS)
        self.ids_match = self._matcher.check(results, self.url)

    def _health(self) -> dict[str, Any] | None:
        """The health page of a server of ours; None for another kind of server."""
        try:
            facts = json.loads(self._exchange("GET", self._path.removesuffix("/retrieve") + "/healthz"))
        except _Failed as error:
            # No reply, or not at the moment: a server of ours must not be mistaken for another kind.
            if error.status is None or error.status in _UNAVAILABLE:
                raise
            return None
        except (ValueError, RecursionError):
            return None
        return facts if isinstance(facts, dict) and isinstance(facts.get("index_hash"), str) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteRetriever, self._arguments)


def open_remote(
    corpus: Corpus,
    *,
    url: str,
    timeout: float = 30.0,
    retries: int = 3,
    batch: int = 128,
    any_corpus: bool = False,
) -> RemoteRetriever:
    """A retriever on another machine or in another process; the entry point `remote` of `searchgym.retrievers`.

    Args:
        corpus: the corpus of the questions. If the server is `searchgym index serve`, it must search the same one.
        url: the server's address, e.g. "http://127.0.0.1:8000"; "/retrieve" is added if it has no path. A user name
            and password in it are sent as basic authentication, for a proxy that requires them.
        timeout: seconds for one attempt, from connecting to the last byte, at most 3600.
        retries: further attempts, after pauses that grow at random or that the server asks for.
        batch: queries per request at most.
        any_corpus: continue although the server searches another corpus than `corpus`; then its hits are matched
            with the passages of `corpus`, as those of other servers are.

    Raises:
        ConfigError: an option has a value that cannot be used, no server answers at the URL, or it searches another
            corpus.
    """
    return RemoteRetriever(corpus, _Options(url, timeout, retries, batch, any_corpus))


def _copy(result: SearchResult) -> SearchResult:
    return result.copy() if isinstance(result, list) else result


def _seconds(header: str | None) -> float | None:
    """Retry-After as seconds; retrieval servers do not use the form with a date."""
    return float(header) if header is not None and header.isdecimal() else None
