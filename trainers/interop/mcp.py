"""An MCP server over any index: the tools `search` and `open_page`. Tested versions: `peers.PEERS`.

A tool that returns an empty list sends no content at all, so that a model sees the same for "nothing was found" as for a
broken tool. Both tools therefore answer with a text for the model, and with the same data under `structuredContent` for
programs. A failure of the retriever is an error result whose text says nothing but that; the reason goes to the log.
"""

from __future__ import annotations

from typing import Any

from searchgym.errors import ConfigError, RetrievalError, UnknownIdError, get_logger
from searchgym.options import integer
from searchgym.records.question import Corpus, describe_corpus, find_passage
from searchgym.records.retriever import Hit, Retriever, SearchResult

from .peers import check_peer

check_peer("mcp")

import anyio  # noqa: E402  # it and mcp after the check of the version
import anyio.to_thread  # noqa: E402
from mcp.types import CallToolResult  # noqa: E402

try:  # mcp 2
    from mcp.server.mcpserver import MCPServer
except ModuleNotFoundError:  # mcp 1
    from mcp.server.fastmcp import FastMCP as MCPServer

__all__ = ["MCPServer", "create_server"]

_FAILED = (
    "The search is not available at the moment. This says nothing about whether there is something to find."
)
_log = get_logger(__name__)


def create_server(
    retriever: Retriever, corpus: Corpus, *, top_k: int = 3, max_top_k: int = 20, **settings: Any
) -> MCPServer:
    """The server, an `MCPServer` (mcp 2) or a `FastMCP` (mcp 1): run or mount it as that package says.

    Args:
        retriever: answers `search`, one call at a time, in a thread.
        corpus: its passages are what `open_page` reads.
        top_k: hits of a search that does not say how many.
        max_top_k: most hits of a search.
        **settings: more arguments of the package's server class.

    Raises:
        ConfigError: a number that is not a whole number of at least 1.
    """
    integer("max_top_k", max_top_k, 1)
    default_k = integer("top_k", top_k, 1, max_top_k)
    server = MCPServer("searchgym", **settings)
    one_at_a_time = anyio.CapacityLimiter(1)

    async def search(query: str, top_k: int = default_k) -> CallToolResult:
        if not 1 <= top_k <= max_top_k:
            return _result(f"top_k is {top_k}: give a whole number from 1 to {max_top_k}.", error=True)
        found = await anyio.to_thread.run_sync(_search, retriever, query, top_k, limiter=one_at_a_time)
        if isinstance(found, RetrievalError):
            return _result(_FAILED, error=True)
        text = "\n\n".join(f"[{rank}] {_page(hit)}" for rank, hit in enumerate(found, 1))
        return _result(text or "Nothing was found.", {"hits": [hit._asdict() for hit in found]})

    async def open_page(id: str) -> CallToolResult:
        try:
            passage = await anyio.to_thread.run_sync(find_passage, corpus, id)
        except UnknownIdError:
            return _result(
                f"There is no page with the id {id!r}. Take ids from the results of search.", error=True
            )
        page = {"id": passage.id, "title": passage.title, "text": passage.text}
        return _result(_page(Hit(**page, score=0.0)), page)

    about = describe_corpus(corpus)
    server.tool(description=f"Search {about}. Returns at most top_k passages, best first, each with its id.")(
        search
    )
    server.tool(description=f"Read one page of {about} by its id.")(open_page)
    return server


def _search(retriever: Retriever, query: str, k: int) -> SearchResult:
    try:
        (found,) = retriever.search([query], k)
    except (RetrievalError, ConfigError) as error:
        found = RetrievalError(str(error))
    if isinstance(found, RetrievalError):
        _log.warning("search failed: %s", found)
    return found


def _page(hit: Hit) -> str:
    return f"{hit.title} (id {hit.id})\n{hit.text}" if hit.title else f"(id {hit.id})\n{hit.text}"


def _result(text: str, data: dict[str, Any] | None = None, *, error: bool = False) -> CallToolResult:
    # By the names of the protocol: those of the Python fields differ between mcp 1 and 2.
    content = [{"type": "text", "text": text}]
    return CallToolResult.model_validate({"content": content, "structuredContent": data, "isError": error})
