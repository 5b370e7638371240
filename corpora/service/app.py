"""A retriever as an HTTP service: `/retrieve` as Search-R1's clients call it, `/healthz`, `/metrics`, `/openapi.json`.

    POST /retrieve {"queries": ["…"], "topk": 3, "return_scores": true}
    -> {"result": [[{"document": {"id": "…", "contents": "\\"Title\\"\\nText"}, "score": 9.1}, …]]}

Without `return_scores` a hit is the bare document. Searches of concurrent requests are batched, results are cached as
the bytes of the reply, and a request that cannot be served soon is refused at once (429). Further workers are separate
processes that map the same index files.

Clients of this package add `"partial": true` to the request. Then a query that failed has null in `result` and its
reason in `errors`, and the others have their hits. Without it, the whole request fails (503), because other clients
would read an empty result as "nothing found".
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from searchgym._version import __version__
from searchgym.checks import integer, number
from searchgym.errors import ConfigError, MissingExtraError, RetrievalError
from searchgym.lru import LRUCache
from searchgym.question import Corpus
from searchgym.retriever import Hit, Retriever
from searchgym.terminal import get_logger

from .batching import Overloaded, SearchCrashed, SearchQueue
from .openapi import describe
from .protocol import write_document

try:
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route

    from .metrics import Metrics
except ModuleNotFoundError as missing:
    module = (missing.name or "starlette").partition(".")[0]
    raise MissingExtraError("the retrieval service", module, "serve") from missing

__all__ = ["Limits", "create_app"]

_Kind = tuple[int, bool]  # topk, and whether scores are requested
_JSON = "application/json"
_CACHE_OVERHEAD = 250  # bytes of a cache entry apart from the query and the result themselves
_PATIENCE = 1.0  # seconds for searches whose requests were abandoned when the server stopped
_log = get_logger("searchgym.service")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the service; a request that exceeds them is refused with 413, 422 or 429.

    Attributes:
        topk: hits per query if a request does not say.
        max_topk: hits per query at most.
        queries: queries per request at most.
        query_chars: characters per query at most.
        body_bytes: bytes of a request's body at most.
        waiting: queries that may wait or be searched at the same time.
        threads: searching threads. Every retriever allows several; those that release Python's lock benefit.
        batch: queries per search.
        window: seconds that a query waits for others while a thread is idle, from 0 to 1. It pays only if a batch is
            much faster than its queries one by one, which is not the case for the built-in retrievers.
        cache_bytes: size of the cache of results; 0 for none.

    Raises:
        ConfigError: a limit has a value that cannot be used.
    """

    topk: int = 3
    max_topk: int = 1000
    queries: int = 1024
    query_chars: int = 2**20
    body_bytes: int = 2**23
    waiting: int = 4096
    threads: int = 2
    batch: int = 64
    window: float = 0.0
    cache_bytes: int = 2**28

    def __post_init__(self) -> None:
        for name in (
            "topk",
            "max_topk",
            "queries",
            "query_chars",
            "body_bytes",
            "waiting",
            "threads",
            "batch",
        ):
            integer(name, getattr(self, name), 1)
        number("window", self.window, 0, 1)
        integer("cache_bytes", self.cache_bytes, 0)
        if self.topk > self.max_topk:
            raise ConfigError(
                f"topk is {self.topk}, more than max_topk ({self.max_topk}): raise max_topk too"
            )


class _Refused(Exception):
    """A request that is not served, with status and reason."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


@dataclass(frozen=True, slots=True)
class _Search:
    """The content of a request, checked."""

    queries: list[str]
    kind: _Kind
    partial: bool


def create_app(retriever: Retriever, corpus: Corpus | None = None, limits: Limits | None = None) -> Starlette:
    """The service as an ASGI application, for `uvicorn` or any other server.

    Args:
        retriever: what searches; it is called from several threads.
        corpus: what it searches, for `/healthz`: clients compare its hash with that of the corpus of their questions.
        limits: the limits of the service; None for the defaults.
    """
    service = _Service(retriever, corpus, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.queue.close(_PATIENCE)  # the server has answered what was in flight

    routes = [
        Route("/retrieve", service.retrieve, methods=["POST"]),
        Route("/healthz", service.healthz, methods=["GET"]),
        Route("/metrics", service.metrics_page, methods=["GET"]),
        Route("/openapi.json", service.openapi, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class _Service:
    """The routes and their shared state."""

    def __init__(self, retriever: Retriever, corpus: Corpus | None, limits: Limits) -> None:
        self.limits = limits
        self._retriever = retriever
        self._metrics = Metrics(retriever.name, retriever.index_hash)
        # For this index only, so that its hash need not be part of the keys.
        self._cache = LRUCache[tuple[str, _Kind], bytes](limits.cache_bytes, _cache_bytes)
        self.queue: SearchQueue[bytes | RetrievalError] = SearchQueue(
            self._search,
            threads=limits.threads,
            window=limits.window,
            batch=limits.batch,
            limit=limits.waiting,
            observe=self._metrics.searched,
        )
        self._headers = {"x-index-hash": retriever.index_hash}
        self._health = {
            "status": "ok",
            "index_hash": retriever.index_hash,
            "backend": retriever.name,
            "passages": None if corpus is None else len(corpus.passages),
            "corpus": None if corpus is None else corpus.name,
            "corpus_hash": None if corpus is None else corpus.hash,
            "version": __version__,
        }

    async def retrieve(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            response = await self._answer(request)
        except _Refused as refused:
            body = json.dumps({"detail": str(refused)}).encode()
            response = Response(body, refused.status, refused.headers, _JSON)
        except ClientDisconnect:  # before the end of the body; no client reads this response
            response = Response(status_code=400)
        except Exception as error:
            _log.exception("a request failed")
            body = json.dumps({"detail": f"internal error: {type(error).__name__}"}).encode()
            response = Response(body, 500, media_type=_JSON)
        self._metrics.answered(response.status_code, time.perf_counter() - started, self.queue.waiting)
        return response

    async def healthz(self, request: Request) -> Response:
        return Response(json.dumps(self._health).encode(), 200, self._headers, _JSON)

    async def metrics_page(self, request: Request) -> Response:
        return Response(self._metrics.page(), 200, media_type=Metrics.content_type)

    async def openapi(self, request: Request) -> Response:
        limits = self.limits
        described = describe(limits.topk, limits.max_topk, limits.queries, limits.query_chars)
        return Response(json.dumps(described).encode(), 200, media_type=_JSON)

    async def _answer(self, request: Request) -> Response:
        search = _read(await self._body(request), self.limits)
        found: dict[str, bytes | RetrievalError] = {}
        missing = []
        for query in dict.fromkeys(search.queries):
            answer = self._cache.find((query, search.kind))
            if answer is None:
                missing.append(query)
            else:
                found[query] = answer
        self._metrics.requested(len(found), len(missing))
        if missing:
            found |= await self._find(missing, search.kind)
        failed = {
            n: str(e) for n, q in enumerate(search.queries) if isinstance(e := found[q], RetrievalError)
        }
        if failed and not search.partial:
            raise _Refused(
                503, f"{len(failed)} of {len(search.queries)} queries failed: {next(iter(failed.values()))}"
            )
        rows = [row if isinstance(row := found[query], bytes) else b"null" for query in search.queries]
        errors = b',"errors":' + json.dumps(failed).encode() if failed else b""
        return Response(b'{"result":[' + b",".join(rows) + b"]" + errors + b"}", 200, self._headers, _JSON)

    async def _find(self, queries: list[str], kind: _Kind) -> dict[str, bytes | RetrievalError]:
        try:
            found = await self.queue.search(queries, kind)
        except Overloaded as error:
            raise _Refused(429, str(error), {"retry-after": str(error.retry_after)}) from None
        except SearchCrashed as error:
            raise _Refused(500, str(error)) from None
        except RetrievalError as error:
            return dict.fromkeys(queries, error)
        for query, answer in found.items():
            if isinstance(answer, bytes):
                self._cache.put((query, kind), answer)
        return found

    def _search(self, queries: list[str], kind: Any) -> Sequence[bytes | RetrievalError]:
        """Search and encode the results; runs in a searching thread."""
        topk, scores = kind
        results = self._retriever.search(queries, topk)
        return [r if isinstance(r, RetrievalError) else _encode(r, scores) for r in results]

    async def _body(self, request: Request) -> bytes:
        limit = self.limits.body_bytes
        refused = _Refused(413, f"the body is larger than {limit:,} bytes: send fewer queries at once")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise refused
        body = bytearray()
        async for chunk in request.stream():  # a client may announce no length, or a wrong one
            body += chunk
            if len(body) > limit:
                raise refused
        return bytes(body)


def _cache_bytes(key: tuple[str, _Kind], answer: bytes) -> int:
    return _CACHE_OVERHEAD + sys.getsizeof(key[0]) + sys.getsizeof(answer)


def _encode(hits: Sequence[Hit], scores: bool) -> bytes:
    if scores:
        rows = [{"document": write_document(hit), "score": float(hit.score)} for hit in hits]
        return json.dumps(rows, allow_nan=False).encode()
    return json.dumps([write_document(hit) for hit in hits]).encode()


def _read(body: bytes, limits: Limits) -> _Search:
    """The content of a body; raises `_Refused` with the reason if it cannot be used."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(422, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise _Refused(422, 'the body is not a JSON object: send {"queries": ["…"], "topk": 3}')
    queries = fields.get("queries")
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise _Refused(422, "'queries' is not a list of strings")
    if len(queries) > limits.queries:
        raise _Refused(
            422, f"{len(queries)} queries, but at most {limits.queries} are allowed: send several requests"
        )
    if any(len(query) > limits.query_chars for query in queries):
        raise _Refused(422, f"a query is longer than {limits.query_chars:,} characters")
    topk = limits.topk if fields.get("topk") is None else fields["topk"]
    if type(topk) is not int or not 1 <= topk <= limits.max_topk:
        raise _Refused(422, f"'topk' is {topk!r:.40}: use a whole number from 1 to {limits.max_topk}")
    for name in ("return_scores", "partial"):
        if not isinstance(fields.get(name) or False, bool):
            raise _Refused(422, f"{name!r} is {fields[name]!r:.40}: use true or false")
    # White space only separates words, for every backend; normalising it makes more queries equal.
    queries = [" ".join(query.split()) for query in queries]
    return _Search(queries, (topk, bool(fields.get("return_scores"))), bool(fields.get("partial")))
