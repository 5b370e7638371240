#!/usr/bin/env bash
# verl reads a tool's JSON schema and keeps of each parameter only `type`, `description` and `enum`: the model is shown an array
# without the type of its items, an object without its fields, and no default or limit; an optional parameter as MCP's Python
# SDK writes it is refused.
#
# Versions: verl 0.9.1, mcp 1.30.0, Python 3.11.
# Behaviour: OpenAIFunctionToolSchema, which `tool_config_path` and BaseTool go through, drops every other keyword without a word
#   (`items`, `properties` of a nested object, `default`, `minimum`, `pattern`). The dump of that object is what the chat template
#   renders, so a model that calls the tool as it was shown writes arguments that the tool's server refuses. The SDK's schema of
#   `str | None` is an `anyOf` without `type`: a ValidationError that does not name the tool. Write parameters of plain types, say
#   limits and the form of items in the description, and give an optional parameter `"type": ["string", "null"]`.
# Seen 2026-11-30:
#   queries: {'items': {'type': 'string'}, 'type': 'array'} -> {'type': 'array'}
#   span: {'$ref': '#/$defs/Span'} -> ValidationError: type
#   k: {'default': 3, 'maximum': 20, 'minimum': 1, 'type': 'integer'} -> {'type': 'integer'}
#   title: {'anyOf': [{'type': 'string'}, {'type': 'null'}], 'default': None} -> ValidationError: type
#   object with fields -> {'type': 'object'}
#   ['string', 'null'] -> {'type': ['string', 'null']}
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 "verl[verl-core]==0.9.1" mcp==1.30.0
cat > "$work/probe.py" <<'PY'
import asyncio
from typing import Annotated

from mcp.server.fastmcp import FastMCP
from pydantic import BaseModel, Field, ValidationError
from verl.tools.schemas import OpenAIFunctionToolSchema


class Span(BaseModel):
    first: int
    last: int


app = FastMCP("search")


@app.tool()
def search(queries: list[str], span: Span, k: Annotated[int, Field(ge=1, le=20)] = 3, title: str | None = None) -> str:
    """Search."""
    return ""


def shown(parameter):
    """What verl keeps of a parameter, or why it refuses it."""
    function = {"name": "f", "description": "d"}
    function["parameters"] = {"type": "object", "properties": {"x": parameter}, "required": ["x"]}
    try:
        schema = OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})
    except ValidationError as error:
        return "ValidationError: " + error.errors()[0]["loc"][-1]
    return schema.model_dump(exclude_unset=True, exclude_none=True)["function"]["parameters"]["properties"]["x"]


(tool,) = asyncio.run(app.list_tools())
seen = {}
for name, written in tool.inputSchema["properties"].items():
    written = {keyword: value for keyword, value in sorted(written.items()) if keyword != "title"}
    seen[name] = shown(written)
    print(f"{name}: {written} -> {seen[name]}")
fields = {"type": "object", "properties": {"first": {"type": "integer"}}, "required": ["first"]}
seen["fields"], seen["optional"] = shown(fields), shown({"type": ["string", "null"]})
print("object with fields ->", seen["fields"])
print("['string', 'null'] ->", seen["optional"])
assert seen == {
    "queries": {"type": "array"},
    "k": {"type": "integer"},
    "span": "ValidationError: type",
    "title": "ValidationError: type",
    "fields": {"type": "object"},
    "optional": {"type": ["string", "null"]},
}, seen
PY
"$work/venv/bin/python" "$work/probe.py"
