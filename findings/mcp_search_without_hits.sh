#!/usr/bin/env bash
# A search tool of an MCP server (FastMCP of the official Python SDK) that returns an empty list sends no content at all: what a
# model is shown of "nothing was found" is an empty message, the same as for a tool that returned None.
#
# Versions: mcp 1.30.0, langchain-mcp-adapters 0.3.2, Python 3.11.
# Behaviour: a tool annotated `-> list[...]` becomes one text block per item, not one JSON array: three hits are three
#   blocks, one hit is one block that looks like a single object, and no hit is `content=[]` with isError False. The JSON
#   of the whole list stands in `structuredContent` only, as {"result": [...]}. langchain-mcp-adapters hands exactly the blocks to
#   the model: the ToolMessage of an empty search has content [], that of a tool that returned None too, and the structured
#   result goes to `artifact`, which models do not see. The same hits inside a dict ({"hits": []}) arrive as one block of JSON
#   text, but a plain `-> dict` annotation has no structured content at all. So a retrieval server should return a string or
#   an object that says that nothing was found, and a client that counts hits must not count content blocks of another tool's
#   shape.
# Seen 2026-11-29:
#   list  of 0: blocks 0, structured {'result': []}
#   list  of 1: blocks 1, structured {'result': [1 item]}
#   list  of 3: blocks 3, structured {'result': [3 items]}
#   dict  of 0: blocks 1, structured None
#   None      : blocks 0, structured {'result': None}
#   ToolMessage of the empty list: [], of None: []
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mcp==1.30.0 langchain-mcp-adapters==0.3.2
cat > "$work/server.py" <<'PY'
from mcp.server.fastmcp import FastMCP

PAGES = [
    {"title": "Aare", "text": "A river."},
    {"title": "Bern", "text": "A city on the Aare."},
    {"title": "Thun", "text": "A town."},
]
app = FastMCP("search", log_level="ERROR")


@app.tool()
def as_list(k: int) -> list[dict]:
    return PAGES[:k]


@app.tool()
def as_dict(k: int) -> dict:
    return {"hits": PAGES[:k]}


@app.tool()
def as_none(k: int) -> str | None:
    return None


app.run()
PY
cat > "$work/probe.py" <<'PY'
import asyncio
import sys

from langchain_mcp_adapters.tools import load_mcp_tools
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main(server):
    async with stdio_client(StdioServerParameters(command=sys.executable, args=[server])) as (read, write):
        async with ClientSession(read, write) as session:
            await session.initialize()
            seen = {}
            for name, k in (("as_list", 0), ("as_list", 1), ("as_list", 3), ("as_dict", 0), ("as_none", 0)):
                result = await session.call_tool(name, {"k": k})
                assert not result.isError
                structured = result.structuredContent
                items = structured and structured["result"]
                seen[name, k] = (len(result.content), len(items) if items is not None else structured)
                print(f"{name} of {k}: {len(result.content)} blocks, structured {structured}")
            tools = {tool.name: tool for tool in await load_mcp_tools(session)}
            shown = {}
            for name in ("as_list", "as_none", "as_dict"):
                call = {"args": {"k": 0}, "id": "1", "name": name, "type": "tool_call"}
                shown[name] = (await tools[name].ainvoke(call)).content
                print(f"the model is shown of {name}: {shown[name]}")
            assert seen["as_list", 0] == (0, 0), seen
            assert seen["as_list", 1] == (1, 1), seen
            assert seen["as_list", 3] == (3, 3), seen
            assert seen["as_dict", 0] == (1, None), seen
            assert seen["as_none", 0] == (0, {"result": None}), seen
            assert shown["as_list"] == shown["as_none"] == [], shown
            assert [block["text"] for block in shown["as_dict"]] == ['{\n  "hits": []\n}'], shown


asyncio.run(main(sys.argv[1]))
PY
"$work/venv/bin/python" "$work/probe.py" "$work/server.py"
