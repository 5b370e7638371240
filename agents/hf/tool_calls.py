"""Tool calls as chat templates write them: which ones the tools dialect can read, and the translation of others.

The tools dialect reads `<tool_call>{"name": …, "arguments": …}</tool_call>`, the Hermes format of Qwen2.5 and Qwen3.
Two others are translated on the way to the environment, while the tokens stay as sampled:

- a bare `{"name": …, "parameters": …}` (Llama 3.1);
- `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>` (Qwen3-Coder, Qwen3.5, Nemotron).

Every other format is refused, with the reason. Mistral's, for one: its template wants the id that the model gave its
call back with the observation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from searchgym.agent import AgentContext
from searchgym.dialects import Act, Dialect
from searchgym.errors import ConfigError

from .chat_encoder import ChatEncoder, placeholder

__all__ = ["as_written", "call_reader", "tool_text"]

_FUNCTION = re.compile(r"<function=([^<>\s]+)>")

_PROBE = 'A "quoted" passage,\nin <two> lines.'


def as_written(text: str) -> str:
    """The text itself."""
    return text


def call_reader(encoder: ChatEncoder, agent_context: AgentContext) -> Callable[[str], str]:
    """How a message in the template's own format becomes one of the dialect.

    Args:
        encoder: one with the dialect's tools.
        agent_context: the environment's.

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
    """How the template writes the text of a tool message: as it is, or as a JSON string.

    Args:
        encoder: one with the dialect's tools.
        roles: of a conversation whose last message is a tool's.

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
    """Put every `{"name": …, "parameters": {…}}` into the dialect's form."""
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
    """Put every `<function=name><parameter=key>value</parameter></function>` into the dialect's form."""
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
    """A parameter: a text, or a list of them in JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def _call(name: object, arguments: object) -> str:
    """The JSON of a call; a tag inside a value must not end it."""
    return json.dumps({"name": name, "arguments": arguments}).replace("<", "\\u003c")


_DECODER = json.JSONDecoder()
