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
import math
import os
import random
import time
from collections.abc import Sequence
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError, RetrievalError
from searchgym.question import Corpus
from searchgym.retriever import Hit, SearchResult

from .arguments import check_k, check_queries
from .cache import digest
from .wire import read_document

try:
    import httpx
except ModuleNotFoundError as missing:
    raise MissingExtraError("retriever 'remote'", missing.name or "httpx", "serve") from missing

__all__ = ["RemoteRetriever", "open_remote"]

_FORMAT = 1
_MAX_REPLY = 2**28  # bytes; more is no answer to a search
_PAUSES = (0.2, 10.0)  # seconds before the first retry, doubled from one to the next; and the longest pause
_SHORTEST = 0.05  # a server that is to be left alone for less is left alone so long


class _Failed(Exception):
    """One attempt failed.

    Attributes:
        again: whether another attempt may help.
        after: seconds the server asks to wait, if it does.
    """

    def __init__(self, reason: str, again: bool = True, after: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.after = again, after


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
        self.url = url
        self.retries = 0
        self._timeout = timeout
        self._attempts = 1 + retries
        self._batch = batch
        self._named = False  # whether the server names its index
        self._connect()
        self.index_hash = self._open(corpus, any_corpus)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. Blank queries have the empty result and are not sent.

        A request that failed is a `RetrievalError` for each of its queries, at most `batch` of them.

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
            return self._request(queries, topk, self._attempts)
        except _Failed as error:
            return [RetrievalError(f"{self.url}: {error}") for _ in queries]

    def _request(self, queries: list[str], topk: int, attempts: int) -> list[SearchResult]:
        """Ask until an answer comes; raises `_Failed` with the reason of the last failure."""
        request = {"queries": queries, "topk": topk, "return_scores": True, "partial": True}
        body = json.dumps(request).encode()
        for attempt in range(1, attempts + 1):
            try:
                return self._read(self._exchange("POST", self.url, body), queries, topk)
            except _Failed as error:
                failed = error
            if not failed.again or attempt == attempts:
                break
            self.retries += 1
            time.sleep(_pause(attempt, failed.after))
        raise _Failed(f"{failed} ({attempt} attempt{'s' if attempt > 1 else ''})")

    def _exchange(self, method: str, url: str, body: bytes | None) -> bytes:
        """One request, within `timeout` seconds from its beginning to the end of the answer."""
        if self._process != os.getpid():  # a forked child must not talk on its parent's connections
            self._connect()
        deadline = time.monotonic() + self._timeout
        headers = {"content-type": "application/json"} if body is not None else {}
        reply = bytearray()
        try:
            with self._client.stream(method, url, content=body, headers=headers) as response:
                for chunk in response.iter_bytes():
                    reply += chunk
                    if time.monotonic() > deadline:  # httpx limits the wait for each piece only
                        raise _Failed(f"no complete answer within {self._timeout:g} s")
                    if len(reply) > _MAX_REPLY:
                        raise _Failed(f"the answer is larger than {_MAX_REPLY:,} bytes", again=False)
        except httpx.TimeoutException:
            raise _Failed(f"no answer within {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _Failed(f"{error or type(error).__name__}") from None
        status = response.status_code
        if status != 200:
            again = status in (408, 425, 429) or status >= 500
            reason = f"status {status}: {bytes(reply[:200]).decode(errors='replace')}"
            raise _Failed(reason, again, _seconds(response.headers.get("retry-after")))
        named = response.headers.get("x-index-hash")
        if self._named and named != self.index_hash:
            raise _Failed(
                f"it serves another index now, {named}, not {self.index_hash}: open it anew", again=False
            )
        return bytes(reply)

    def _read(self, reply: bytes, queries: list[str], topk: int) -> list[SearchResult]:
        try:
            fields = json.loads(reply)
            rows = fields["result"]
            errors = fields.get("errors") or {}
            if len(rows) != len(queries):
                raise _Failed(f"{len(rows)} results for {len(queries)} queries")
            return [
                RetrievalError(f"{self.url}: {errors[str(n)]}") if row is None else _read_hits(row, topk)
                for n, row in enumerate(rows)
            ]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _Failed(f"not an answer of the /retrieve protocol ({error!r:.200})") from None

    def _open(self, corpus: Corpus, any_corpus: bool) -> str:
        """Make sure that a server is there; the hash of its index."""
        health = self.url.removesuffix("/retrieve") + "/healthz"
        try:
            facts = json.loads(self._exchange("GET", health, None))
            if not isinstance(facts, dict) or not isinstance(facts.get("index_hash"), str):
                raise _Failed("another kind of server")
        except (_Failed, ValueError, RecursionError):
            self._try()
            return digest({"format": _FORMAT, "backend": self.name, "url": self.url})
        theirs = facts.get("corpus_hash")
        if theirs and len(corpus.passages) and theirs != corpus.hash and not any_corpus:
            raise ConfigError(
                f"{self.url} searches corpus {facts.get('corpus')!r} ({theirs}), the questions are of "
                f"{corpus.name!r} ({corpus.hash}): serve that one, or set the option any_corpus to true"
            )
        self._named = True
        return str(facts["index_hash"])

    def _try(self) -> None:
        """A tiny search, as a foreign server's health check."""
        try:
            self._request(["river"], 1, attempts=2)  # a connection kept alive may just have been closed
        except _Failed as error:
            raise ConfigError(
                f"no retrieval server answers at {self.url}: {error}. Start one (searchgym index serve INDEX), or "
                "correct the option url"
            ) from None

    def _connect(self) -> None:
        self._process = os.getpid()
        # Kept in the child although unused: closing what it inherited is the parent's business.
        self._inherited = getattr(self, "_client", None)
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._client = httpx.Client(timeout=self._timeout, limits=limits, trust_env=False)

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
        url: of the server, e.g. "http://127.0.0.1:8000"; "/retrieve" is added if it names no path.
        timeout: seconds for one attempt, from connecting to the last byte.
        retries: attempts after the first, with growing random pauses, or those the server asks for.
        batch: queries per request at most.
        any_corpus: go on although the server searches another corpus than `corpus`; recall of gold passages is
            then meaningless unless the ids agree.

    Raises:
        ConfigError: a bad option, no server at the url, or one of another corpus.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(
            f"url={url!r} is not a url ({error}): write it like http://127.0.0.1:8000"
        ) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"url={url!r} names no server: write it like http://127.0.0.1:8000")
    if parsed.path in ("", "/"):
        parsed = parsed.copy_with(path="/retrieve")
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= 3600:
        raise ConfigError(f"timeout={timeout!r}: use seconds, more than 0 and at most 3600")
    for name, value, low in (("retries", retries, 0), ("batch", batch, 1)):
        if type(value) is not int or not low <= value <= 10_000:
            raise ConfigError(f"{name}={value!r}: use a whole number from {low} to 10000")
    if not isinstance(any_corpus, bool):
        raise ConfigError(f"any_corpus={any_corpus!r}: use true or false")
    return RemoteRetriever(corpus, str(parsed), float(timeout), retries, batch, any_corpus)


def _read_hits(row: list[Any], topk: int) -> list[Hit]:
    """The hits of one query; raises ValueError, TypeError or AttributeError for what are none."""
    if not isinstance(row, list):
        raise ValueError(f"the hits of a query are {row!r:.60}, not a list")
    hits = []
    for rank, entry in enumerate(row[:topk], 1):
        document = entry.get("document", entry)
        id, title, text = read_document(document)
        score = entry.get("score")
        score = 1.0 / rank if score is None else float(score)
        if not math.isfinite(score):
            raise ValueError(f"a score is {score}")
        hits.append(Hit(id, title, text, score))
    return hits


def _copy(result: SearchResult) -> SearchResult:
    return result.copy() if isinstance(result, list) else result


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds to wait after the n-th attempt: what the server asked for, else random up to a bound that doubles."""
    first, longest = _PAUSES
    if asked is not None:
        return min(longest, asked) + random.uniform(0, _SHORTEST)
    return random.uniform(_SHORTEST, min(longest, first * 2 ** (attempt - 1)))


def _seconds(header: str | None) -> float | None:
    """Retry-After as seconds; the form with a date is not used by retrieval servers."""
    return float(header) if header is not None and header.isdecimal() else None
