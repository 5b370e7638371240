"""Dialects: how an act is written, parsed and answered. Scoring is the same in all of them.

A dialect is one object: system prompt, parser, writer, renderer of observations, stop strings. It never sees
gold data and never decides anything about the episode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from .errors import UnknownIdError
from .retriever import Hit

__all__ = ["DIALECTS", "Act", "Dialect", "TagsDialect", "ToolsDialect", "get_dialect"]


class Act(NamedTuple):
    """A parsed message.

    Attributes:
        kind: "search", "answer", "feedback" or "invalid".
        queries: the search queries (kind "search").
        draft: the draft answer put up for feedback (kind "feedback").
        answer: the final answer (kind "answer").
        error: why the message is invalid (kind "invalid"): one of "no_act", "several_acts", "empty_act",
            "nested_act", "too_many_queries", "unknown_tool", "malformed_call", "feedback_off",
            "feedback_spent", "too_long".
    """

    kind: str
    queries: tuple[str, ...] = ()
    draft: str = ""
    answer: str = ""
    error: str = ""


def _invalid(error: str) -> Act:
    return Act("invalid", error=error)


def _without_thoughts(text: str) -> str:
    """Drop complete think blocks. `str.find` and not a lazy regex: that is quadratic in unclosed tags."""
    kept, position = [], 0
    while (start := text.find("<think>", position)) >= 0 and (end := text.find("</think>", start)) >= 0:
        kept.append(text[position:start])
        position = end + len("</think>")
    kept.append(text[position:])
    return "".join(kept)


def _blocks(text: str, opening: re.Pattern[str]) -> list[tuple[str, str]]:
    """(name, body) of the first two `<name>body</name>` (two are already too many), in linear time.

    `opening` matches an opening tag with its name as group 1. A tag that is never closed is plain text.
    """
    blocks: list[tuple[str, str]] = []
    unclosed: set[str] = set()
    position = 0
    while len(blocks) < 2 and (tag := opening.search(text, position)) is not None:
        name, position = tag[1], tag.end()
        if name in unclosed:
            continue
        end = text.find(f"</{name}>", position)
        if end < 0:
            unclosed.add(name)
            continue
        blocks.append((name, text[position:end]))
        position = end + len(name) + 3
    return blocks


@runtime_checkable
class Dialect(Protocol):
    """One way of writing acts. `feedback` and `max_queries` say which acts the environment allows now."""

    @property
    def name(self) -> str:
        """The name `get_dialect` finds it by."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Generation ends after any of these: the closings of an act."""

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        """Instructions for a language model. Mentions feedback only when it is on."""

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        """Read one message. Never raises; whatever is not exactly one allowed act is "invalid"."""

    def write(self, act: Act, thought: str = "") -> str:
        """The message a scripted agent sends for an act; `parse(write(act))` gives the act back."""

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        """The observation after a search, cut to `max_chars` at a passage's end or inside the last one."""

    def render_feedback(self, text: str) -> str:
        """The observation after a feedback act."""

    def render_invalid(self, error: str, *, feedback: bool) -> str:
        """The observation after an invalid message: what to write instead."""


_RETRY = {
    "no_act": "it contained no action",
    "several_acts": "it contained more than one action",
    "empty_act": "its action was empty",
    "nested_act": "its action contained another action",
    "too_many_queries": "it contained more queries than allowed",
    "unknown_tool": "it called an unknown tool",
    "malformed_call": "its tool call could not be read",
    "feedback_off": "it used an action that is not available",
    "feedback_spent": "no more feedback is available",
    "too_long": "it was too long",
}
_ROLE = (
    "You answer questions by searching an encyclopedia. Work in rounds. In each round first think, then do "
    "exactly one act and stop. "
)


class TagsDialect:
    """XML-like tags, as Search-R1 writes them.

    Acts are looked for outside complete `<think>…</think>` blocks. Text after the act is ignored. With
    `max_queries` > 1, the lines of a search act are its queries. There is no escape: an act cannot hold this
    dialect's own tags (with them it is "nested_act"), which no query or answer needs.
    """

    name = "tags"
    stop_strings = ("</search>", "</answer>", "</feedback>")

    _ACT = re.compile(r"<(search|answer|feedback)>")
    _ANY_TAG = re.compile(r"</?(?:search|answer|feedback)>")
    _OWN_TAG = re.compile(r"<(?=/?(?:information|search|answer|feedback|think)>)")

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        queries = "your query" if max_queries == 1 else f"up to {max_queries} queries, one per line"
        ask = (
            "- <feedback>a draft answer</feedback> asks what is wrong with a draft before you commit to it.\n"
            if feedback
            else ""
        )
        return (
            f"{_ROLE}Write your thoughts as <think>…</think>.\n"
            f"- <search>{queries}</search> returns passages as <information>…</information>.\n"
            f"{ask}"
            "- <answer>the answer</answer> ends the episode. Give only the answer, a few words, no sentence."
            "\nAsk about one fact at a time, do not repeat a query, and rephrase a query that found nothing."
        )

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        acts = _blocks(_without_thoughts(text), self._ACT)
        if not feedback and "feedback" in [kind for kind, _ in acts]:
            return _invalid("feedback_off")
        if not acts:
            return _invalid("no_act")
        if len(acts) > 1:
            return _invalid("several_acts")
        kind, body = acts[0]
        body = body.strip()
        if not body:
            return _invalid("empty_act")
        if "<" in body and self._ANY_TAG.search(body):
            return _invalid("nested_act")
        if kind == "answer":
            return Act("answer", answer=body)
        if kind == "feedback":
            return Act("feedback", draft=body)
        if max_queries == 1:
            return Act("search", queries=(body,))
        queries = tuple(line.strip() for line in body.splitlines() if line.strip())
        return Act("search", queries=queries) if len(queries) <= max_queries else _invalid("too_many_queries")

    def write(self, act: Act, thought: str = "") -> str:
        body = {"search": "\n".join(act.queries), "answer": act.answer, "feedback": act.draft}[act.kind]
        think = f"<think> {thought} </think> " if thought else ""
        return f"{think}<{act.kind}> {body} </{act.kind}>"

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        if not hits:
            return "<information>\nNothing was found.\n</information>"
        block = "\n".join([f"[{rank}] {hit.title}\n{hit.text}" for rank, hit in enumerate(hits, 1)])
        return f"<information>\n{self._quote(block)[:max_chars]}\n</information>"

    def render_feedback(self, text: str) -> str:
        return f"<information>\n{self._quote(text)}\n</information>"

    def render_invalid(self, error: str, *, feedback: bool) -> str:
        acts = "<search>, <answer> or <feedback>" if feedback else "<search> or <answer>"
        return f"Your last message was not used: {_RETRY[error]}. Write exactly one {acts} action."

    def _quote(self, text: str) -> str:
        """Our own tags inside a passage must not look like the environment's or the agent's."""
        return self._OWN_TAG.sub("< ", text) if "<" in text else text


class ToolsDialect:
    """Hermes tool calls, the format of Qwen's chat template.

    One `<tool_call>{"name": …, "arguments": {…}}</tool_call>` per message, outside complete think blocks.
    `search` takes {"query": string}, or a list of strings under "query" when `max_queries` > 1.
    """

    name = "tools"
    stop_strings = ("</tool_call>",)
    response = ("<tool_response>\n", "\n</tool_response>")
    """What stands around every observation."""

    _CALL = re.compile(r"<(tool_call)>")
    _OWN_TAG = re.compile(r"<(?=/?(?:tool_response|tool_call|tools|think)>)")
    _ARGUMENT: ClassVar[dict[str, str]] = {"search": "query", "answer": "answer", "feedback": "draft"}

    def tools(self, *, feedback: bool, max_queries: int) -> list[dict[str, Any]]:
        """The tool list in JSON-schema form, as chat templates take it."""
        query: dict[str, Any] = {"type": "string", "description": "what to look for"}
        if max_queries > 1:
            query = {"type": "array", "items": query, "maxItems": max_queries}
        described = {
            "search": ("Search the encyclopedia for passages.", query),
            "answer": (
                "Give the final answer and end.",
                {"type": "string", "description": "only the answer, a few words"},
            ),
        }
        if feedback:
            described["feedback"] = (
                "Ask what is wrong with a draft answer before committing to it.",
                {"type": "string", "description": "the draft answer"},
            )
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": description,
                    "parameters": {
                        "type": "object",
                        "properties": {self._ARGUMENT[name]: schema},
                        "required": [self._ARGUMENT[name]],
                    },
                },
            }
            for name, (description, schema) in described.items()
        ]

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        return (
            f"{_ROLE}Each act is one tool call. Ask about one fact at a time, do not repeat a query, and "
            "rephrase a query that found nothing. End with the answer tool."
            + self.tool_section(feedback=feedback, max_queries=max_queries)
        )

    def tool_section(self, *, feedback: bool, max_queries: int) -> str:
        """The part of `system_prompt` that a chat template with tools of its own writes itself."""
        tools = "\n".join(json.dumps(t) for t in self.tools(feedback=feedback, max_queries=max_queries))
        return (
            f"\n\n# Tools\n\n<tools>\n{tools}\n</tools>\n\n"
            "Write a call as JSON inside tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        calls = _blocks(_without_thoughts(text), self._CALL)
        if not calls:
            return _invalid("no_act")
        if len(calls) > 1:
            return _invalid("several_acts")
        try:
            call = json.loads(calls[0][1])
            kind, arguments = call["name"], call["arguments"]
            if kind not in self._ARGUMENT:
                return _invalid("unknown_tool")
            value = arguments[self._ARGUMENT[kind]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return _invalid("malformed_call")
        if kind == "feedback" and not feedback:
            return _invalid("feedback_off")
        values = value if isinstance(value, list) and kind == "search" else [value]
        if not all(isinstance(v, str) for v in values):
            return _invalid("malformed_call")
        values = [v.strip() for v in values if v.strip()]
        if not values:
            return _invalid("empty_act")
        if kind == "answer":
            return Act("answer", answer=values[0])
        if kind == "feedback":
            return Act("feedback", draft=values[0])
        return (
            Act("search", queries=tuple(values))
            if len(values) <= max_queries
            else _invalid("too_many_queries")
        )

    def write(self, act: Act, thought: str = "") -> str:
        value: object = {"answer": act.answer, "feedback": act.draft}.get(act.kind)
        if act.kind == "search":
            value = act.queries[0] if len(act.queries) == 1 else list(act.queries)
        think = f"<think>\n{thought}\n</think>\n" if thought else ""
        call = json.dumps({"name": act.kind, "arguments": {self._ARGUMENT[act.kind]: value}})
        call = call.replace("<", "\\u003c")  # a tag inside a value must not end the call
        return f"{think}<tool_call>\n{call}\n</tool_call>"

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        block = "\n".join([f"[{rank}] {hit.title}\n{hit.text}" for rank, hit in enumerate(hits, 1)])
        return self._answer(self._quote(block)[:max_chars] if hits else "Nothing was found.")

    def render_feedback(self, text: str) -> str:
        return self._answer(self._quote(text))

    def render_invalid(self, error: str, *, feedback: bool) -> str:
        tools = "search, answer or feedback" if feedback else "search or answer"
        return self._answer(
            f"Your last message was not used: {_RETRY[error]}. Write exactly one call of {tools}."
        )

    def _answer(self, text: str) -> str:
        before, after = self.response
        return f"{before}{text}{after}"

    def _quote(self, text: str) -> str:
        return self._OWN_TAG.sub("< ", text) if "<" in text else text


DIALECTS: dict[str, Dialect] = {"tags": TagsDialect(), "tools": ToolsDialect()}
"""The dialects by name, as `gym.make(..., dialect=…)` takes them."""


def get_dialect(name: str) -> Dialect:
    """The dialect of that name; raises `UnknownIdError`."""
    if not isinstance(name, str) or name not in DIALECTS:
        raise UnknownIdError("dialect", name, DIALECTS)
    return DIALECTS[name]
