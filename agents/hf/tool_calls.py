"""Formats of tool calls in chat templates: which ones the tools dialect reads, and how others are translated.

The tools dialect reads `<tool_call>{"name": …, "arguments": …}</tool_call>`, the Hermes format of Qwen2.5 and Qwen3.
Two other formats are translated for the environment, while the tokens stay as sampled:

- a bare `{"name": …, "parameters": …}` (Llama 3.1);
- `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>` (Qwen3-Coder, Qwen3.5, Nemotron).

Every other format is refused with the reason. Mistral's is an example: its template needs the id of the call in the
message of the observation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from searchgym.agent import AgentContext
from searchgym.dialects import Act, Dialect, json_text
from searchgym.errors import ConfigError

from .chat_encoder import ChatEncoder, placeholder

__all__ = ["as_written", "call_reader", "tool_text"]

_FUNCTION = re.compile(r"<function=([^<>\s]+)>")

_PROBE = 'A "quoted" passage,\nin <two> lines.'


def as_written(text: str) -> str:
    """The text, unchanged."""
    return text


def call_reader(encoder: ChatEncoder, agent_context: AgentContext) -> Callable[[str], str]:
    """The function that translates a message from the template's format to the dialect's.

    Args:
        encoder: an encoder with the dialect's tools.
        agent_context: the environment's context.

    Raises:
        ConfigError: the template does not list the tools, or writes calls in a format that cannot be translated.
    """
    roles = ("system", "user")[not encoder.takes_system :]
    before = [{"role": role, "content": placeholder(number)} for number, role in enumerate(roles)]
    listed = encoder.render(before, reply=True)
    for tool in encoder.tools or ():
        if tool["function"]["description"] not in listed:
            raise ConfigError(f"the chat template of {encoder.name!r} does not list tools")
    call = {"name": "search", "arguments": {"query": placeholder(len(roles))}}
    calling = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    written = encoder.render([*before, calling], reply=False).rpartition(placeholder(len(roles) - 1))[2]
    wanted = Act("search", queries=(placeholder(len(roles)),))
    for reader in (as_written, _bare_calls, _marked_calls):
        if _parse(agent_context.dialect, reader(written)) == wanted:
            return reader
    raise ConfigError(
        f"the chat template of {encoder.name!r} writes tool calls as {written.strip()!r:.120}, "
        "which the tools dialect cannot read"
    )


def tool_text(encoder: ChatEncoder, roles: tuple[str, ...]) -> Callable[[str], str]:
    """The function that writes the text of a tool message as the template does: unchanged, or as a JSON string.

    Args:
        encoder: an encoder with the dialect's tools.
        roles: roles of a conversation whose last message is a tool message.

    Raises:
        ConfigError: the template refuses tool messages, or changes their text in another way.
    """
    messages = [{"role": role, "content": placeholder(number)} for number, role in enumerate(roles)]
    messages[-1]["content"] = _PROBE
    shown = encoder.render(messages, reply=True)
    for writer in (as_written, _as_json):
        if writer(_PROBE) in shown:
            return writer
    raise ConfigError(f"the chat template of {encoder.name!r} changes the text of tool messages")


def _parse(dialect: Dialect, text: str) -> Act:
    return dialect.parse(text, feedback=False, max_queries=1)


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _bare_calls(text: str) -> str:
    """Translate every `{"name": …, "parameters": {…}}` to the dialect's format."""
    kept, position = [], 0
    while (start := text.find('{"name"', position)) >= 0:
        try:
            call, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            call, end = None, start + 1
        kept.append(text[position:start])
        if isinstance(call, dict) and call.keys() == {"name", "parameters"}:
            kept.append(f"<tool_call>\n{_call(call['name'], call['parameters'])}\n</tool_call>")
        else:
            kept.append(text[start:end])
        position = end
    return "".join([*kept, text[position:]])


def _marked_calls(text: str) -> str:
    """Translate every `<function=name><parameter=key>value</parameter></function>` to the dialect's format."""
    kept, position = [], 0
    while (tag := _FUNCTION.search(text, position)) is not None:
        end = text.find("</function>", tag.end())
        if end < 0:
            break
        arguments = {}
        for parameter in text[tag.end() : end].split("<parameter=")[1:]:
            key, _, value = parameter.partition(">")
            arguments[key] = _value(value.partition("</parameter>")[0].removeprefix("\n").removesuffix("\n"))
        kept += [text[position : tag.start()], _call(tag[1], arguments)]
        position = end + len("</function>")
    return "".join([*kept, text[position:]])


def _value(text: str) -> object:
    """The value of a parameter: a text, or a JSON list."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def _call(name: object, arguments: object) -> str:
    return json_text({"name": name, "arguments": arguments})


_DECODER = json.JSONDecoder()
