"""Client of the de-facto `/retrieve` protocol (Search-R1's), so that existing retrieval servers just work.

    {"queries": ["…"], "topk": 5, "return_scores": true}
    -> {"result": [[{"document": {"id": "…", "contents": "\\"Title\\"\\nText"}, "score": 9.1}, …], …]}

Hits that are bare documents are read too; where no score comes with them it is 1 / rank. A server may answer with an
error, with nonsense, slowly or never: that is a `RetrievalError` in the end, after retries with back-off.

What a remote retriever cannot promise: that the server orders equal scores by id, that one query has the same result
alone and in a batch, that the index stays what it is. `searchgym index serve` does promise the first two, and names
its index in every answer; a change of it while searching is an error.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from searchgym.errors import ConfigError, MissingExtraError, RetrievalError
from searchgym.question import Corpus
from searchgym.retriever import SearchResult

from ..indexing.arguments import check_k, check_queries
from ..indexing.cache import digest
from .protocol import read_hits

try:
    from .http import Exchange, ExchangeFailed
except ModuleNotFoundError as missing:
    raise MissingExtraError("retriever 'remote'", missing.name or "httpcore", "serve") from missing

__all__ = ["RemoteRetriever", "open_remote"]

T = TypeVar("T")
_FORMAT = 1
_MAX_REPLY = 2**28  # bytes; more is no answer to a search
_PAUSES = (0.2, 10.0)  # seconds before the first retry, doubled from one to the next; and the longest pause
_OPENING = 2  # attempts to find the server at all
_SHORTEST = 0.05  # a server that is to be left alone for less is left alone so long
_PASSING = (408, 425, 429, 502, 503, 504)  # of these, and of any other 5xx, another attempt may get an answer
_REFUSED = (400, 413, 422)  # there is something wrong with a query, or too much in a request
_random = random.SystemRandom()  # workers are often seeded alike, and would come back in step


class _Failed(ExchangeFailed):
    """One attempt failed.

    Attributes:
        status: what the server said, if it said anything.
        after: seconds it asks to wait, if it does.
    """

    def __init__(
        self, reason: str, again: bool = True, status: int | None = None, after: float | None = None
    ) -> None:
        super().__init__(reason, again)
        self.status, self.after = status, after


class RemoteRetriever:
    """Searches on a server; implements `searchgym.Retriever`. Made by `open_remote`.

    Threads may share one, and a forked or spawned process opens connections of its own.

    Attributes:
        name: "remote".
        url: where queries are posted.
        index_hash: the server's own, if it is `searchgym index serve`: equal to that of the same index in this
            process. Else a digest of the url: then equal hashes promise nothing about the results.
        retries: attempts after the first that were needed so far; not deterministic.
    """

    name = "remote"

    def __init__(
        self, corpus: Corpus, url: str, timeout: float, retries: int, batch: int, any_corpus: bool
    ) -> None:
        self._again = (corpus, url, timeout, retries, batch, any_corpus)
        self._server = Exchange(url, timeout, _MAX_REPLY)
        self._path = "/retrieve" if self._server.path == "/" else self._server.path
        self.url = self._server.origin + self._path
        self.retries = 0
        self._attempts = 1 + retries
        self._batch = batch
        self._named = False  # whether the server names its index
        self.index_hash = self._open(corpus, any_corpus)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. Blank queries have the empty result and are not sent.

        A request that failed is a `RetrievalError` for each of its queries, at most `batch` of them. One that the
        server refuses is sent in halves, so that a query it does not take fails alone.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
        """
        topk = check_k(k)
        asked = list(dict.fromkeys(query for query in check_queries(queries) if query.strip()))
        found: dict[str, SearchResult] = {}
        for start in range(0, len(asked), self._batch):
            part = asked[start : start + self._batch]
            found |= zip(part, self._ask(part, topk), strict=True)
        return [_copy(found[query]) if query in found else [] for query in queries]

    def _ask(self, queries: list[str], topk: int) -> list[SearchResult]:
        """The results of one request; failures in place of them, never an exception."""
        try:
            return self._persist(lambda: self._retrieve(queries, topk), self._attempts)
        except _Failed as error:
            if error.status in _REFUSED and len(queries) > 1:
                half = len(queries) // 2
                return self._ask(queries[:half], topk) + self._ask(queries[half:], topk)
            return [RetrievalError(f"{self.url}: {error}") for _ in queries]

    def _persist(self, attempt: Callable[[], T], attempts: int) -> T:
        """Try until it works; raises `_Failed` with the reason of the last failure."""
        for number in range(1, attempts + 1):
            try:
                return attempt()
            except _Failed as error:
                failed = error
            if not failed.again or number == attempts:
                break
            self.retries += 1
            time.sleep(_pause(number, failed.after))
        failed.args = (f"{failed} ({number} attempt{'s' if number > 1 else ''})",)
        raise failed

    def _retrieve(self, queries: list[str], topk: int) -> list[SearchResult]:
        """One attempt to get the results of one request."""
        request = {"queries": queries, "topk": topk, "return_scores": True, "partial": True}
        # As UTF-8, which for most scripts is far shorter than JSON's escapes; it has no halves of surrogate pairs.
        reply = self._exchange(
            "POST", self._path, json.dumps(request, ensure_ascii=False).encode(errors="replace")
        )
        try:
            fields = json.loads(reply)
            rows = fields["result"]
            errors = fields.get("errors") or {}
            if len(rows) != len(queries):
                raise _Failed(f"{len(rows)} results for {len(queries)} queries")
            return [
                RetrievalError(f"{self.url}: {errors[str(n)]}") if row is None else read_hits(row, topk)
                for n, row in enumerate(rows)
            ]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise _Failed(f"not an answer of the /retrieve protocol ({error!r:.200})") from None

    def _exchange(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of an answer with status 200, from the index that was opened."""
        try:
            reply = self._server.request(method, path, body)
        except ExchangeFailed as error:
            raise _Failed(str(error), error.again) from None
        if reply.status != 200:
            raise _Failed(
                f"status {reply.status}: {reply.body[:200].decode(errors='replace')}",
                reply.status in _PASSING or reply.status >= 500,
                reply.status,
                _seconds(reply.headers.get("retry-after")),
            )
        named = reply.headers.get("x-index-hash")
        if self._named and named != self.index_hash:
            raise _Failed(
                f"it serves another index now, {named}, not {self.index_hash}: open it anew", again=False
            )
        return reply.body

    def _open(self, corpus: Corpus, any_corpus: bool) -> str:
        """Make sure that a server is there; the hash of its index."""
        try:
            facts = self._persist(self._health, _OPENING)
            if facts is None:  # a tiny search is the health check of any other server
                self._persist(lambda: self._retrieve(["river"], 1), _OPENING)
                return digest({"format": _FORMAT, "backend": self.name, "url": self.url})
        except _Failed as error:
            raise ConfigError(
                f"no retrieval server answers at {self.url}: {error}. Start one (searchgym index serve INDEX), or "
                "correct the option url"
            ) from None
        theirs = facts.get("corpus_hash")
        if theirs and len(corpus.passages) and theirs != corpus.hash and not any_corpus:
            raise ConfigError(
                f"{self.url} searches corpus {facts.get('corpus')!r} ({theirs}), the questions are of "
                f"{corpus.name!r} ({corpus.hash}): serve that one, or set the option any_corpus to true"
            )
        self._named = True
        return str(facts["index_hash"])

    def _health(self) -> dict[str, Any] | None:
        """What a server of ours says about itself; None: it is another kind of server."""
        try:
            facts = json.loads(self._exchange("GET", self._path.removesuffix("/retrieve") + "/healthz"))
        except _Failed as error:
            # Nobody there, or not for the moment: a server of ours must not be taken for another kind.
            if error.status is None or error.status in _PASSING:
                raise
            return None
        except (ValueError, RecursionError):
            return None
        return facts if isinstance(facts, dict) and isinstance(facts.get("index_hash"), str) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteRetriever, self._again)


def open_remote(
    corpus: Corpus,
    *,
    url: str,
    timeout: float = 30.0,
    retries: int = 3,
    batch: int = 128,
    any_corpus: bool = False,
) -> RemoteRetriever:
    """A retriever on another machine, or in another process; the entry point `remote` of `searchgym.retrievers`.

    Args:
        corpus: whose questions are asked. A server of ours must search the same one.
        url: of the server, e.g. "http://127.0.0.1:8000"; "/retrieve" is added if it names no path. A user and a
            password in it are sent as basic authentication, for a proxy that asks for them.
        timeout: seconds for one attempt, from connecting to the last byte.
        retries: attempts after the first, with growing random pauses, or those the server asks for.
        batch: queries per request at most.
        any_corpus: go on although the server searches another corpus than `corpus`; recall of gold passages is
            then meaningless unless the ids agree.

    Raises:
        ConfigError: a bad option, no server at the url, or one of another corpus.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= 3600:
        raise ConfigError(f"timeout={timeout!r}: use seconds, more than 0 and at most 3600")
    for name, value, low in (("retries", retries, 0), ("batch", batch, 1)):
        if type(value) is not int or not low <= value <= 10_000:
            raise ConfigError(f"{name}={value!r}: use a whole number from {low} to 10000")
    if not isinstance(any_corpus, bool):
        raise ConfigError(f"any_corpus={any_corpus!r}: use true or false")
    return RemoteRetriever(corpus, url, float(timeout), retries, batch, any_corpus)


def _copy(result: SearchResult) -> SearchResult:
    return result.copy() if isinstance(result, list) else result


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds to wait after the n-th attempt: random, up to a bound that doubles; or what the server asks for and
    up to n times as much on top, since many are told the same and must not all come back at once."""
    first, longest = _PAUSES
    if asked is not None:
        return min(longest, max(_SHORTEST, asked)) * _random.uniform(1, 1 + min(attempt, 4))
    return _random.uniform(_SHORTEST, min(longest, first * 2 ** (attempt - 1)))


def _seconds(header: str | None) -> float | None:
    """Retry-After as seconds; the form with a date is not used by retrieval servers."""
    return float(header) if header is not None and header.isdecimal() else None
