"""Items of an OpenAI Responses API output: reasoning, messages, function calls and their outputs.

The items between two outputs are one turn of the agent and one round; parallel calls are one round with several
queries. A call whose name holds "submit", "final", "finish" or "answer" gives the answer, and so does a message
that no call follows; every other call counts as a search, whatever the name of its tool
(search, browse, retrieve). Its query is the argument `query`, or else `q`, `queries`, `query_list`, `prompt`,
`question` or `url`, or else all arguments as JSON.

An output is JSON, often JSON within JSON. A list of records in it gives one hit each (title from `title` or `name`,
text from `text`, `snippet`, `content` or `description`, or else the record as JSON); any other text is one hit,
titled with the call's `url` where it has one. An output {"error": …} is not a hit.

The answer of a message is what stands between <answer> and </answer>, else the last JSON object with a key "answer" in
it, else the last \\boxed{…}, else all of it; thoughts before it do not count.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..dialects import DIALECTS, after_thoughts
from ..records.episode import RoundRecord
from ..records.retriever import Hit
from .parsed import Parsed, RolloutTextError, act, documents, hit

__all__ = ["parse_responses"]

_QUERY_KEYS = ("query", "q", "queries", "query_list", "prompt", "question", "url")
_ANSWER_KEYS = ("answer", "final_answer", "final_result", "result")
_TITLE_KEYS = ("title", "name")
_TEXT_KEYS = ("text", "snippet", "content", "description")
_ANSWER_CALL = re.compile(r"submit|final|finish|answer", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf)\s*\{(.*)\}", re.DOTALL)
_NESTING = 4


def parse_responses(text: Any) -> Parsed:
    """Take a list of items apart.

    Raises:
        RolloutTextError: not a list of items, an item of an unknown type, or no act of the agent among them.
    """
    if not isinstance(text, list):
        raise RolloutTextError(f"the text is a {type(text).__name__}, not a list of items")
    outputs: dict[str, str] = {}
    turns: list[list[dict[str, Any]]] = [[]]
    question = ""
    for item in text:
        kind = item.get("type") if isinstance(item, dict) else None
        if not isinstance(kind, str):
            raise RolloutTextError(f"an item is {item!r:.60}, which has no type")
        if kind.endswith("_call_output"):
            outputs[str(item.get("call_id"))] = _written(item.get("output"))
            if turns[-1]:
                turns.append([])
        elif kind == "message" and item.get("role") != "assistant":
            if len(turns) == 1 and not turns[0] and item.get("role") == "user":
                question = _message(item).strip()
        elif kind in ("message", "reasoning") or kind.endswith("_call"):
            turns[-1].append(item)
        else:
            raise RolloutTextError(f"an item has the type {kind!r}, which this importer does not know")
    rounds: list[RoundRecord] = []
    for turn in turns:
        if not turn:
            continue
        rounds.append(_round(turn, outputs))
        if rounds[-1].action.kind == "answer":
            closing = "\n".join(outputs[c] for i in turn if (c := str(i.get("call_id"))) in outputs)
            return Parsed(rounds, question, closing=closing)
    if not rounds:
        raise RolloutTextError("no act of an assistant in it")
    return Parsed(rounds, question)


def _round(turn: list[dict[str, Any]], outputs: dict[str, str]) -> RoundRecord:
    said: list[str] = []
    calls: list[tuple[str, Any, str]] = []
    for item in turn:
        if item["type"] == "reasoning":
            said += [str(part.get("text", "")) for part in item.get("summary") or []]
        elif item["type"] == "message":
            said.append(_message(item))
        else:
            name = str(item.get("name") or item["type"].removesuffix("_call"))
            given = item.get("arguments", item.get("action", {}))
            calls.append((name, _unwrapped(given), str(item.get("call_id"))))
            said.append(f"{name}({_written(given)})")
    message = "\n".join(part for part in said if part)
    for name, arguments, _ in calls:
        if _ANSWER_CALL.search(name):
            return RoundRecord(message, act("answer", answer=_argument(arguments, _ANSWER_KEYS)[0]))
    if not calls:
        last = next((_message(i) for i in reversed(turn) if i["type"] == "message"), "")
        answer = act("answer", answer=_final(last)) if last else act("invalid", error="no_act")
        return RoundRecord(message, answer)
    queries: list[str] = []
    results: list[list[Hit]] = []
    for _, arguments, call_id in calls:
        asked = _argument(arguments, _QUERY_KEYS)
        # The hits of a call with several queries count as those of its first one.
        results += [_hits(outputs.get(call_id, ""), arguments), *([] for _ in asked[1:])]
        queries += asked
    seen = "\n".join(outputs[call_id] for *_, call_id in calls if call_id in outputs)
    return RoundRecord(message, act("search", queries=queries), results, seen)


def _argument(arguments: Any, keys: tuple[str, ...]) -> list[str]:
    """The first argument of these names, as a list of texts; all of them, written out, where there is none."""
    if isinstance(arguments, dict):
        for key in keys:
            value = arguments.get(key)
            values = value if isinstance(value, list) else [value]
            if values and all(isinstance(v, str | int | float) for v in values):
                return [_written(v) for v in values]  # a year or a count may be a number
    return [_written(arguments)]


def _hits(output: str, arguments: Any) -> list[Hit]:
    content: Any = output
    for _ in range(_NESTING):
        content = _json(content)
        if not isinstance(content, dict):
            break
        if content.get("error"):
            return []
        inner = [v for v in content.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if "items" in content or inner:
            content = content.get("items", inner[0] if inner else [])
        elif len(content) == 1:
            (content,) = content.values()
        else:
            break
    if isinstance(content, list):
        records = [r if isinstance(r, dict) else {"text": _written(r)} for r in content]
        return [
            hit(_field(r, _TITLE_KEYS), _field(r, _TEXT_KEYS) or _written(r), rank)
            for rank, r in enumerate(records, 1)
        ]
    shown = _written(content).strip()
    url = str(arguments.get("url", "")) if isinstance(arguments, dict) else ""
    found = [(url, shown)] if url and shown else documents(shown)
    return [hit(title, text, rank) for rank, (title, text) in enumerate(found, 1)]


def _field(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((record[k] for k in keys if isinstance(record.get(k), str)), "")


def _message(item: dict[str, Any]) -> str:
    content = item.get("content")
    parts = content if isinstance(content, list) else [content]
    shown = [(p.get("text") or p.get("refusal") or "") if isinstance(p, dict) else (p or "") for p in parts]
    return "\n".join(str(part) for part in shown if part)


def _json(value: Any) -> Any:
    """A string that is JSON, read; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _unwrapped(value: Any) -> Any:
    """A string that is JSON, read, also where the JSON is a string that is JSON."""
    for _ in range(_NESTING):
        value = _json(value)
    return value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _final(message: str) -> str:
    """The answer in a final message; see the module docstring."""
    answered = DIALECTS["tags"].parse(message, feedback=False, max_queries=1)
    if answered.kind == "answer":
        return answered.answer
    message = after_thoughts(message).strip()
    decoder = json.JSONDecoder()
    for start in reversed([match.start() for match in re.finditer(r"\{", message)]):
        try:
            value, _ = decoder.raw_decode(message, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "answer" in value:
            return _written(value["answer"])
    boxes = [_braced(message, match.end()) for match in _BOXED.finditer(message)]
    if boxes and boxes[-1] is not None:
        inner = _TEXT_COMMAND.fullmatch(boxes[-1].strip())
        return inner[1] if inner else boxes[-1]
    return message


def _braced(text: str, start: int) -> str | None:
    """The text between an opening brace, which ends at `start`, and its closing brace."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None
