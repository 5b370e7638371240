"""Rollouts of agents with tags or tool calls: one text with everything in it, or a list of chat messages.

    transcript   …<search> QUERY </search> <information> … </information> …<answer> ANSWER </answer>
                 …<tool_call>{…}</tool_call> user <tool_response> … </tool_response> assistant …
    messages     [{role, content, tool_calls, reasoning_content}], as chat APIs have them

In a transcript nothing says what the agent wrote and what it read, except this: an environment answers directly after an
act. A block of results therefore counts only behind an act that is not part of a thought; a block that a thought quotes
is a thought. What is an act is decided by the dialects' own parsers.

Messages with tool calls are read as the items of the Responses API, see `responses`; other messages are acts in tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ..dialects import DIALECTS, Act
from ..records.episode import RoundRecord
from ..records.retriever import Hit
from .parsed import Parsed, RolloutTextError, act, documents, hit
from .responses import parse_responses

__all__ = ["parse_messages", "parse_transcript"]

_CLOSED = re.compile(r"<think>|</(?:search|tool_call|feedback)>", re.IGNORECASE)
_NAMES = "information|tool_response|result|documents|observation"
_TURN = r"(?:<\|im_end\|>|<\|eot_id\|>)?\s*(?:(?:<\|im_start\|>)?(?:user|tool)\b\s*)?"
_RESULTS = re.compile(
    rf"{_TURN}(?:<({_NAMES})>.*?</\1>\s*)+(?:<\|im_end\|>\s*)?(?:(?:<\|im_start\|>)?assistant\b[ \t]*\n?)?",
    re.DOTALL | re.IGNORECASE,
)
_INNER = re.compile(rf"<({_NAMES})>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_MOST_QUERIES = 64
_FOREIGN = ("unknown_tool", "malformed_call")


def parse_transcript(text: Any) -> Parsed:
    """Take one text apart.

    Raises:
        RolloutTextError: not a string, or an empty one.
    """
    if not isinstance(text, str):
        raise RolloutTextError(f"the text is a {type(text).__name__}, not a string")
    if not text.strip():
        raise RolloutTextError("the text is empty")
    turns = _turns(text)
    if "<tool_call>" in _THOUGHT.sub("", text):
        return _with_tools(turns)
    return _with_tags(turns)


def parse_messages(text: Any) -> Parsed:
    """Take a list of chat messages apart.

    Raises:
        RolloutTextError: not a list of messages, or no message of an assistant in it.
    """
    if not isinstance(text, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) for m in text
    ):
        raise RolloutTextError("the text is not a list of messages")
    if any(m.get("tool_calls") for m in text):
        return _with_calls(text)
    turns: list[tuple[str, str]] = []
    for message in text:
        content = _content(message)
        if message["role"] == "assistant":
            turns.append((_with_reasoning(message, content), ""))
        elif turns:
            said, seen = turns[-1]
            turns[-1] = (said, f"{seen}\n{content}" if seen else content)
    if not turns:
        raise RolloutTextError("no message of an assistant in it")
    written = "".join(said for said, _ in turns)
    return (_with_tools if "<tool_call>" in _THOUGHT.sub("", written) else _with_tags)(turns)


def _turns(text: str) -> list[tuple[str, str]]:
    """(message, results) pairs of a transcript; "" where the text ends before results."""
    turns: list[tuple[str, str]] = []
    start = position = 0
    while (mark := _CLOSED.search(text, position)) is not None:
        position = mark.end()
        if mark[0].lower() == "<think>":
            end, again = text.find("</think>", position), text.find("<think>", position)
            # A thought that another one follows before its end was never closed: its act was carried out.
            if end >= 0 and not 0 <= again < end:
                position = end + len("</think>")
            continue
        results = _RESULTS.match(text, position)
        if results is not None:
            turns.append((text[start:position], _blocks(results[0])))
            start = position = results.end()
    if text[start:].strip() or not turns:
        turns.append((text[start:], ""))
    return turns


def _blocks(results: str) -> str:
    """Blocks of results without the marks of turns around them."""
    found = list(_INNER.finditer(results))
    return results[found[0].start() : found[-1].end()]


def _with_tags(turns: Sequence[tuple[str, str]]) -> Parsed:
    rounds: list[RoundRecord] = []
    for message, seen in turns:
        action = _parse("tags", message)
        if action.kind == "answer":
            rounds.append(RoundRecord(message, action))
            return Parsed(rounds, closing=seen.strip())
        results = [_hits(seen)] if action.kind == "search" else []
        rounds.append(RoundRecord(message, action, results, seen))
    return Parsed(rounds, cut=rounds[-1].action.kind == "invalid")


def _with_tools(turns: Sequence[tuple[str, str]]) -> Parsed:
    """Tool calls in the text itself. A message without one that ends the text is the answer."""
    rounds: list[RoundRecord] = []
    for message, seen in turns:
        action = _parse("tools", message)
        if action.kind == "answer":
            return Parsed([*rounds, RoundRecord(message, action)], closing=seen.strip())
        if action.error in _FOREIGN and (foreign := _foreign(message, seen)) is not None:
            rounds.append(foreign)
        elif action.error == "no_act" and not seen:
            return Parsed([*rounds, *parse_responses([_item(message)]).rounds])
        else:
            results = [_hits(seen)] if action.kind == "search" else []
            rounds.append(RoundRecord(message, action, results, seen))
        if rounds[-1].action.kind == "answer":
            break
    return Parsed(rounds, cut=rounds[-1].action.kind == "invalid")


def _foreign(message: str, seen: str) -> RoundRecord | None:
    """The round of a call of a tool that is not this package's; None if the call cannot be read."""
    (block,) = _CALL.findall(_THOUGHT.sub("", message))[:1] or [""]
    try:
        call = json.loads(block)
        name, arguments = call["name"], call.get("arguments", {})
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    items: list[dict[str, Any]] = [
        {"type": "function_call", "name": str(name), "arguments": arguments, "call_id": "0"},
        {"type": "function_call_output", "call_id": "0", "output": "\n".join(_bodies(seen))},
    ]
    (round_,) = parse_responses(items).rounds
    round_.text, round_.observation = message, seen
    if round_.action.kind == "search" and round_.results:
        round_.results = [_hits(seen), *round_.results[1:]]
    return round_


def _with_calls(messages: Sequence[dict[str, Any]]) -> Parsed:
    """Messages with native tool calls, as items of the Responses API.

    The ids of calls are made unique: servers count them from 0 in each message, or leave them empty. A result belongs to
    the call of the message before it that has its id, or else to the first one without a result.
    """
    items: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        content = _content(message)
        if message["role"] == "tool":
            given = str(message.get("tool_call_id", ""))
            call = next((c for c in waiting if c["given"] == given), waiting[0] if waiting else None)
            if call is None:
                raise RolloutTextError("a result of a tool in it has no call")
            waiting.remove(call)
            items.append({"type": "function_call_output", "call_id": call["call_id"], "output": content})
        elif message["role"] == "assistant":
            reasoning = message.get("reasoning_content")
            if isinstance(reasoning, str) and reasoning:
                items.append({"type": "reasoning", "summary": [{"text": reasoning}]})
            if content.strip():
                items.append(_item(content))
            calls = message.get("tool_calls") or []
            if not isinstance(calls, list):
                raise RolloutTextError("the tool calls of a message are not a list")
            waiting = [{**_call(call), "call_id": f"{number}/{i}"} for i, call in enumerate(calls)]
            items += waiting
        else:
            items.append({"type": "message", "role": "user", "content": content})
    return parse_responses(items)


def _call(given: Any) -> dict[str, Any]:
    """A tool call: flat, nested under "function", or either as a JSON string."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise RolloutTextError("a tool call in it is not JSON") from None
    inner = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise RolloutTextError("a tool call in it has no name")
    return {
        "type": "function_call",
        "name": inner["name"],
        "arguments": inner.get("arguments", {}),
        "given": str(given.get("id", "")),
    }


def _item(content: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": content}


def _parse(dialect: str, message: str) -> Act:
    most = _MOST_QUERIES if dialect == "tools" else 1
    found = DIALECTS[dialect].parse(message, feedback=False, max_queries=most)
    return act(found.kind, queries=list(found.queries), answer=found.answer, error=found.error)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
    return "" if content is None else str(content)


def _with_reasoning(message: dict[str, Any], content: str) -> str:
    reasoning = message.get("reasoning_content")
    return f"<think>{reasoning}</think>{content}" if isinstance(reasoning, str) and reasoning else content


def _bodies(seen: str) -> list[str]:
    """The results without the tags around them."""
    return [body.strip() for _, body in _INNER.findall(seen)] or [seen.strip()]


def _hits(seen: str) -> list[Hit]:
    """The documents of results: numbered ones, or else each body as one hit without a title."""
    found = [pair for body in _bodies(seen) for pair in documents(_unwrapped(body))]
    return [hit(title, text, rank) for rank, (title, text) in enumerate(found, 1)]


def _unwrapped(body: str) -> str:
    """The text of {"result": "…"}, as verl's search tool writes it; any other body as it is."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    return value.strip() if isinstance(value, str) else body
