"""`searchgym mcp` with the official client over stdio and HTTP: the tools' answers, failures, and the latency of a search.

python tests/interop/mcp_clients.py        # with searchgym[mcp]
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from scripts import WORLD, Down

import searchgym
from searchgym.interop.mcp import create_server

try:
    from mcp.client.streamable_http import streamable_http_client as http_client
except ImportError:
    from mcp.client.streamable_http import streamablehttp_client as http_client

COMMAND = str(Path(sys.executable).parent / "searchgym")
ARGUMENTS = ["mcp", "bm25", "--corpus", json.dumps(WORLD)]
CALLS, BLOCK = 300, 20
BARE = """
import sys
from searchgym.interop.mcp import MCPServer

network = {"host": "127.0.0.1", "port": int(sys.argv[2] or 0), "stateless_http": True, "json_response": True}
early = network if MCPServer.__name__ == "FastMCP" and sys.argv[1] == "http" else {}
server = MCPServer("bare", log_level="ERROR", **early)
server.add_tool(lambda: "x" * 1000, name="ping")
if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    server.run("streamable-http", **({} if early else network))
"""


def read(result: Any) -> dict[str, Any]:
    """A result by the protocol's names, which mcp 1 and mcp 2 spell differently in Python."""
    told: dict[str, Any] = result.model_dump(by_alias=True)
    return told


async def check(session: ClientSession) -> None:
    """What the tools answer."""
    assert [tool.name for tool in (await session.list_tools()).tools] == ["search", "open_page"]
    found = read(await session.call_tool("search", {"query": "Eskhoff Museum", "top_k": 2}))
    hits = found["structuredContent"]["hits"]
    assert hits[0]["title"] == "Eskhoff Museum", hits
    assert len(hits) == 2, hits
    assert hits[0]["text"] in found["content"][0]["text"]
    nothing = read(await session.call_tool("search", {"query": ""}))
    assert (nothing["structuredContent"], nothing["isError"]) == ({"hits": []}, False)
    assert nothing["content"][0]["text"] == "Nothing was found."
    page = read(await session.call_tool("open_page", {"id": hits[1]["id"]}))
    assert page["structuredContent"]["text"] == hits[1]["text"]
    for name, arguments, said in (
        ("open_page", {"id": "nowhere"}, "no page with the id 'nowhere'"),
        ("search", {"query": "river", "top_k": 0}, "top_k is 0"),
    ):
        refused = read(await session.call_tool(name, arguments))
        assert refused["isError"], refused
        assert said in refused["content"][0]["text"], refused


async def latency(session: ClientSession, bare: ClientSession) -> dict[str, tuple[float, float]]:
    """Median of all calls, and the lowest median of 20 calls in a row (other processes run on this machine), in ms; of a
    search and, in turns, of a tool of the same package that does nothing."""
    times: dict[str, list[float]] = {"search": [], "a tool that does nothing": []}
    for number in range(CALLS):
        for kind, asked, tool, arguments in (
            ("search", session, "search", {"query": f"river {number}"}),
            ("a tool that does nothing", bare, "ping", {}),
        ):
            begun = time.perf_counter()
            await asked.call_tool(tool, arguments)
            times[kind].append(1000 * (time.perf_counter() - begun))
    return {
        kind: (
            statistics.median(taken),
            min(statistics.median(taken[i : i + BLOCK]) for i in range(0, CALLS, BLOCK)),
        )
        for kind, taken in times.items()
    }


@asynccontextmanager
async def over_stdio(command: list[str]) -> AsyncIterator[ClientSession]:
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with stdio_client(parameters) as (reads, writes), ClientSession(reads, writes) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def over_http(command: list[str], port: int) -> AsyncIterator[ClientSession]:
    server = subprocess.Popen(command)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.2)
        async with (
            http_client(f"http://127.0.0.1:{port}/mcp") as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            yield session
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


async def check_failure() -> None:
    """A retriever that is down: an error without its reason."""
    server = create_server(Down(), searchgym.open_corpus(WORLD), log_level="ERROR")
    result: Any = await server.call_tool("search", {"query": "river"})
    told = read(result)
    assert told["isError"], told
    assert "secret" not in json.dumps(told), told
    print("a retriever that is down is an error result without its reason")


async def main() -> None:
    await check_failure()
    retriever = searchgym.open_retriever("bm25", searchgym.open_corpus(WORLD))
    direct = []
    for number in range(CALLS):
        begun = time.perf_counter()
        retriever.search([f"river {number}"], 3)
        direct.append(1000 * (time.perf_counter() - begun))
    print(f"mcp {version('mcp')}; the index itself: p50 {statistics.median(direct):.2f} ms")
    ours, bare = [COMMAND, *ARGUMENTS], [sys.executable, "-c", BARE]
    for name in ("stdio", "http"):
        async with AsyncExitStack() as stack:
            if name == "stdio":
                session = await stack.enter_async_context(over_stdio(ours))
                other = await stack.enter_async_context(over_stdio([*bare, "stdio", ""]))
            else:
                one, two = free_port(), free_port()
                http = [*ours, "--transport", "http", "--port", str(one)]
                session = await stack.enter_async_context(over_http(http, one))
                other = await stack.enter_async_context(over_http([*bare, "http", str(two)], two))
            await check(session)
            taken = await latency(session, other)
        print(f"{name}: all answers right")
        for kind, (median, quiet) in taken.items():
            print(f"  {kind}: p50 {median:.2f} ms, undisturbed {quiet:.2f} ms")


asyncio.run(main())
