"""The server: the page and its data on a loopback address.

GET /                    the page; app.js, style.css, icon.svg
GET /api/state           sources, files and the ids of blocks
GET /api/blocks?id=1,2   blocks of rows
GET /api/search?q=…      rows in whose text every word occurs
GET /api/about?source=…  learning curves and alarms of a run, the report of a benchmark or an audit
GET /api/episode?file=…&line=…
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from searchgym.errors import MissingExtraError, SearchGymError

from .library import Library
from .page import POLICY, static

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        "searchgym view", (missing.name or "starlette").partition(".")[0], "view"
    ) from missing

__all__ = ["create_app"]

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def create_app(library: Library) -> Starlette:
    """The viewer as an ASGI application.

    Requests that name another host than this machine are refused, so that a web page cannot read it through a name that
    it points at the loopback address.

    Args:
        library: what is viewed.
    """

    async def page(request: Request) -> Response:
        found = static(request.path_params.get("name") or "index.html")
        if found is None:
            return Response("not found", 404, _HEADERS, "text/plain")
        content, kind = found
        return Response(content, 200, _HEADERS, kind)

    async def state(request: Request) -> Response:
        return await _json(library.state)

    async def blocks(request: Request) -> Response:
        ids = [int(part) for part in request.query_params.get("id", "").split(",") if part.isdecimal()][:500]

        def read() -> str:
            found = library.index.blocks(ids)
            body = ",".join(f'"{block}":{columns}' for block, columns in found.items())
            return f"{{{body}}}"

        return await _text(read)

    async def search(request: Request) -> Response:
        text = request.query_params.get("q", "")[:1000]
        return await _text(lambda: library.index.search(text))

    async def about(request: Request) -> Response:
        return await _json(lambda: library.about(request.query_params.get("source", "")))

    async def episode(request: Request) -> Response:
        line = request.query_params.get("line", "")
        number = int(line) if line.isdecimal() and len(line) < 18 else -1
        return await _json(lambda: library.episode(request.query_params.get("file", ""), number))

    routes = [
        Route("/api/state", state),
        Route("/api/blocks", blocks),
        Route("/api/search", search),
        Route("/api/about", about),
        Route("/api/episode", episode),
        Route("/", page),
        Route("/{name}", page),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


async def _text(read: Callable[[], str]) -> Response:
    """The JSON text that `read` returns; a typed error becomes {"error": …} with status 503: the next request may succeed."""
    try:
        body, status = await asyncio.to_thread(read), 200
    except SearchGymError as error:
        body, status = json.dumps({"error": str(error)}), 503
    return Response(body, status, _HEADERS, "application/json")


async def _json(read: Callable[[], Any]) -> Response:
    """What `read` returns, as JSON; a typed error becomes {"error": …}, None becomes 404."""
    try:
        value = await asyncio.to_thread(read)
    except SearchGymError as error:
        value, status = {"error": str(error)}, 404
    else:
        status = 404 if value is None else 200
        value = {"error": "there is no such source"} if value is None else value
    return Response(json.dumps(value, separators=(",", ":")), status, _HEADERS, "application/json")
