"""A retriever as an HTTP service: `/retrieve` as Search-R1's clients call it, `/healthz`, `/metrics`, `/openapi.json`.

    POST /retrieve {"queries": ["…"], "topk": 3, "return_scores": true}
    -> {"result": [[{"document": {"id": "…", "contents": "\\"Title\\"\\nText"}, "score": 9.1}, …]]}

Without `return_scores` a hit is the bare document. `requests` lists the other dialects that are read. Searches of concurrent requests are batched, results are cached as
the bytes of the reply, and a request that cannot be served soon is refused at once (429). Further workers are separate
processes that map the same index files.

Clients of this package add `"partial": true` to the request. Then a query that failed has null in `result` and its
reason in `errors`, and the others have their hits. Without it, the whole request fails (503), because other clients
would read an empty result as "nothing found".
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from searchgym._version import __version__
from searchgym.errors import MissingExtraError, RetrievalError, get_logger
from searchgym.lru import LRUCache
from searchgym.records.question import Corpus
from searchgym.records.retriever import Retriever

from .batching import Overloaded, SearchCrashed, SearchQueue
from .encoding import BETWEEN, search_encoded
from .heavy import HeavyProcess
from .limits import Limits
from .openapi import describe
from .requests import JSON, MSGPACK, Form, Refused, Search, read_search

try:
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route

    from .guard import Guard, Holding
    from .metrics import Metrics
except ModuleNotFoundError as missing:
    module = (missing.name or "starlette").partition(".")[0]
    raise MissingExtraError("the retrieval service", module, "serve") from missing

__all__ = ["Limits", "create_app"]

_CHUNK = 2**16  # bytes of an answer that are sent at a time
_LARGE = 2**18  # bytes of a body from which reading it takes milliseconds
_PARSED = 3  # times the size of a body is what it takes while it is read
_CACHE_OVERHEAD = 330  # bytes of a cache entry apart from the query and the result themselves
_PATIENCE = 1.0  # seconds for searches whose requests were abandoned when the server stopped
_log = get_logger("searchgym.service")


def create_app(
    retriever: Retriever,
    corpus: Corpus | None = None,
    limits: Limits | None = None,
    heavy: HeavyProcess | None = None,
) -> Starlette:
    """The service as an ASGI application, for `uvicorn` or any other server.

    Args:
        retriever: what searches; it is called from several threads.
        corpus: what it searches, for `/healthz`: clients compare its hash with that of the corpus of their questions.
        limits: the limits of the service; None for the defaults.
        heavy: reads and searches heavy requests in another process; None: this one does, in turns with the others.
            Closed with the application.
    """
    service = _Service(retriever, corpus, limits or Limits(), heavy)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.queue.close(_PATIENCE)  # the server has answered what was in flight
        if heavy is not None:
            heavy.close()

    routes = [
        Route("/retrieve", service.retrieve, methods=["POST"]),
        Route("/batch_search", service.batch_search, methods=["POST"]),
        Route("/search", service.batch_search, methods=["POST"]),
        Route("/healthz", service.healthz, methods=["GET"]),
        Route("/metrics", service.metrics_page, methods=["GET"]),
        Route("/openapi.json", service.openapi, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.guard, app.state.limits = service.guard, service.limits
    return app


class _Service:
    """The routes and their shared state."""

    def __init__(
        self, retriever: Retriever, corpus: Corpus | None, limits: Limits, heavy: HeavyProcess | None
    ) -> None:
        self.limits = limits
        self.guard = Guard(limits)
        self._retriever, self._heavy = retriever, heavy
        self._metrics = Metrics(retriever.name, retriever.index_hash)
        # For this index only, so that its hash need not be part of the keys.
        self._cache = LRUCache[tuple[str, Form], bytes](limits.cache_bytes, _cache_bytes)
        self.queue: SearchQueue[bytes | RetrievalError] = SearchQueue(
            self._search,
            threads=limits.threads,
            window=limits.window,
            batch=limits.batch,
            limit=limits.waiting,
            observe=self._metrics.searched,
            hits=lambda form: form.topk,
            search_heavy=None if heavy is None else heavy.search,
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
        return await self._respond(request, bare=False)

    async def batch_search(self, request: Request) -> Response:
        return await self._respond(request, bare=True)

    async def _respond(self, request: Request, *, bare: bool) -> Response:
        started = time.perf_counter()
        holding = self.guard.hold(request.scope)
        response: Response
        try:
            response = await self._answer(request, holding, bare)
        except Refused as refused:
            response = _refusal(refused)
        except Overloaded as error:
            response = _refusal(Refused(429, str(error), {"retry-after": str(error.retry_after)}))
        except ClientDisconnect:  # before the end of the body; no client reads this response
            response = Response(status_code=400)
        except asyncio.CancelledError:  # the time that requests have when the service is stopped is over
            response = _refusal(Refused(503, "the service was stopped"))
        except Exception as error:
            _log.exception("a request failed")
            response = _refusal(Refused(500, f"internal error: {type(error).__name__}"))
        if not isinstance(response, _Streamed):
            holding.release()
        self._metrics.answered(response.status_code, time.perf_counter() - started, self.queue.waiting)
        return response

    async def healthz(self, request: Request) -> Response:
        return Response(json.dumps(self._health).encode(), 200, self._headers, JSON)

    async def metrics_page(self, request: Request) -> Response:
        return Response(self._metrics.page(), 200, media_type=Metrics.content_type)

    async def openapi(self, request: Request) -> Response:
        return Response(json.dumps(describe(self.limits)).encode(), 200, media_type=JSON)

    async def _answer(self, request: Request, holding: Holding, bare: bool) -> Response:
        body = await self._body(request, holding)
        media = request.headers.get("content-type", "")
        if self._heavy is not None and len(body) > _LARGE:
            search = await asyncio.to_thread(self._heavy.read, body, media, self.limits, bare)
        else:
            search = read_search(body, media, self.limits, bare=bare)
        found = await self._found(search, holding)
        failed = {
            n: str(e) for n, q in enumerate(search.queries) if isinstance(e := found[q], RetrievalError)
        }
        if failed and not (search.partial and not bare):
            raise Refused(
                503, f"{len(failed)} of {len(search.queries)} queries failed: {next(iter(failed.values()))}"
            )
        null = b"\xc0" if search.form.media == MSGPACK else b"null"
        rows = [row if isinstance(row := found[query], bytes) else null for query in search.queries]
        if sum(map(len, rows)) > self.limits.answer_bytes:  # a query may be repeated
            raise self._too_large()
        return _Streamed(_joined(search, rows, failed), self._headers, search.form.media, holding)

    async def _found(self, search: Search, holding: Holding) -> dict[str, bytes | RetrievalError]:
        """The encoded result of every query, from the cache or from a search."""
        found: dict[str, bytes | RetrievalError] = {}
        missing = []
        for query in dict.fromkeys(search.queries):
            answer = self._cache.find((query, search.form))
            if answer is None:
                missing.append(query)
            else:
                found[query] = answer
        self._metrics.requested(len(found), len(missing))
        size = 0

        def claim(new: Mapping[str, bytes | RetrievalError]) -> None:
            nonlocal size
            more = sum(len(answer) for answer in new.values() if isinstance(answer, bytes))
            size += more
            if size > self.limits.answer_bytes:
                raise self._too_large()
            holding.take(more)

        claim(found)
        if not missing:
            return found
        try:
            new = await self.queue.search(missing, search.form, claim, lambda: holding.wanted)
        except SearchCrashed as error:
            raise Refused(500, str(error)) from None
        except RetrievalError as error:
            return {**found, **dict.fromkeys(missing, error)}
        for query, result in new.items():
            if isinstance(result, bytes):
                self._cache.put((query, search.form), result)
        return {**found, **new}

    def _too_large(self) -> Refused:
        limit = self.limits.answer_bytes
        return Refused(
            413, f"the answer is larger than {limit:,} bytes: lower 'topk', or send fewer queries at once"
        )

    def _search(self, queries: list[str], form: Any) -> Sequence[bytes | RetrievalError]:
        """Search and encode the results; runs in a searching thread."""
        return search_encoded(self._retriever, queries, form)

    async def _body(self, request: Request, holding: Holding) -> bytes:
        limit = self.limits.body_bytes
        refused = Refused(413, f"the body is larger than {limit:,} bytes: send fewer queries at once")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            raise refused
        body = bytearray()
        async for chunk in request.stream():  # a client may announce no length, or a wrong one
            body += chunk
            if len(body) > limit:
                raise refused
            holding.take(_PARSED * len(chunk))
        return bytes(body)


class _Streamed(Response):
    """An answer that is sent in pieces, as fast as its client reads."""

    def __init__(
        self, parts: Sequence[bytes], headers: Mapping[str, str], media: str, holding: Holding
    ) -> None:
        size = sum(map(len, parts))
        super().__init__(None, 200, {**headers, "content-length": str(size)}, media)
        self._parts, self._holding = parts, holding

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for chunk in _chunks(self._parts):
                if not self._holding.wanted:
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (
            asyncio.CancelledError
        ):  # the client did not read in the time that it has when the service is stopped
            if self._holding.connection is not None:
                self._holding.connection.abort()
        finally:
            self._holding.release()


def _refusal(refused: Refused) -> Response:
    body = json.dumps({"detail": str(refused)}).encode()
    return Response(body, refused.status, refused.headers, JSON)


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts in pieces of about `_CHUNK` bytes."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        if size and size + len(part) > _CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
        if len(part) > _CHUNK:
            yield from (part[start : start + _CHUNK] for start in range(0, len(part), _CHUNK))
        else:
            waiting.append(part)
            size += len(part)
    if size:
        yield b"".join(waiting)


def _joined(search: Search, rows: list[bytes], failed: Mapping[int, str]) -> list[bytes]:
    """The parts of an answer."""
    if search.form.bare:
        lists = [[row.partition(BETWEEN)[part] for row in rows] for part in (0, 2)]
        documents, scores = (part if search.single else [b"[", *_separated(part), b"]"] for part in lists)
        return [b"[", *documents, b",", *scores, b"]"] if search.form.scores else documents
    if search.form.media == MSGPACK:
        import msgpack

        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(2 if failed else 1)
        packer.pack("result")
        packer.pack_array_header(len(rows))
        errors = (
            [msgpack.packb("errors") + msgpack.packb({str(n): e for n, e in failed.items()})]
            if failed
            else []
        )
        return [packer.bytes(), *rows, *errors]
    errors = [b',"errors":' + json.dumps(failed).encode()] if failed else []
    return [b'{"result":[', *_separated(rows), b"]", *errors, b"}"]


def _separated(rows: Iterable[bytes]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        yield b"," + row if number else row


def _cache_bytes(key: tuple[str, Form], answer: bytes) -> int:
    return _CACHE_OVERHEAD + sys.getsizeof(key[0]) + sys.getsizeof(answer)
