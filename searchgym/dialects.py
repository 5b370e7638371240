"""Dialects: how an act is written, parsed and answered. Scoring is the same in all of them.

A dialect is one object: system prompt, parser, writer, renderer of observations and stop strings. It never sees
gold data and decides nothing about the episode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

from .acts import Act
from .calls import CallError, json_text, read_call, text_argument
from .errors import UnknownIdError
from .question import PLAIN_DESCRIPTION
from .retriever import Hit
from .scanner import THOUGHT_NAMES, Grammar, Scanner

__all__ = ["DIALECTS", "Act", "Dialect", "TagsDialect", "ToolsDialect", "get_dialect"]


def _invalid(error: str, reason: str = "") -> Act:
    return Act("invalid", error=error, reason=reason)


def _plain_message(names: str, *, markup: bool = True) -> re.Pattern[str]:
    """The usual message, to be read in one go: at most one thought, one act of these names, and no other tag anywhere.

    Args:
        names: names of acts, as a regular expression.
        markup: whether a "<" may stand in it that begins none of these tags; without, matching is a quarter faster.
    """
    text = "[^<]*"
    if markup:
        text = rf"[^<]*+(?:<(?!/?(?:{names}|(?i:{THOUGHT_NAMES}))>)[^<]*+)*+"
    return re.compile(rf"{text}(?:<think>{text}</think>{text})?<({names})>({text})</\1>{text}")


def _read(grammar: Grammar, text: str) -> Scanner:
    """A scanner that has read a whole message."""
    scanner = Scanner(grammar)
    if "<" in text:
        scanner.feed(text)
        scanner.finish(text)
    return scanner


def _list_hits(hits: Sequence[Hit]) -> str:
    """Numbered passages, each with its title in a line of its own."""
    return "\n".join([f"[{rank}] {title}\n{text}" for rank, (_, title, text, _) in enumerate(hits, 1)])


@runtime_checkable
class Dialect(Protocol):
    """One way of writing acts.

    In all methods `feedback` says whether the environment offers the feedback act, and `max_queries` how many queries it
    allows in one search act.
    """

    @property
    def name(self) -> str:
        """The name that `get_dialect` takes."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The closing tags of an act. One of them ends a message only where an act is open; `scanner` knows."""

    def scanner(self) -> Scanner:
        """Reads a message piece by piece, as it is sampled, and tells when its act is complete."""

    def read(self, text: str) -> Scanner:
        """The scanner after a whole message."""

    def cut(self, text: str) -> str:
        """A message up to the end of its first act; all of it if it has none."""

    def close(self, text: str) -> str:
        """The message that a server cut off at a closing tag, with that tag, where it completes the act that is open."""

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        """Instructions for a language model. They mention feedback only if it is enabled."""

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        """Parse one message. Never raises; a message that is not exactly one allowed act is "invalid"."""

    def write(self, act: Act, thought: str = "") -> str:
        """The message that a scripted agent sends for an act; `parse(write(act))` returns the act."""

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        """The observation after a search, cut to `max_chars` at a passage's end or inside the last one."""

    def render_feedback(self, text: str) -> str:
        """The observation after a feedback act."""

    def render_invalid(self, error: str, *, feedback: bool, reason: str = "") -> str:
        """The observation after an invalid message: what was wrong and what to write instead."""


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


_LONGEST_REASON = 90  # characters; observations are bounded


def _refusal(error: str, reason: str) -> str:
    detail = f" ({reason[:_LONGEST_REASON]})" if reason else ""
    return f"Your last message was not used: {_RETRY[error]}{detail}."


def _role(corpus_description: str) -> str:
    return (
        f"You answer questions by searching {corpus_description}. Work in rounds. In each round first think, then take "
        "exactly one action and stop. "
    )


@dataclass(frozen=True)
class TagsDialect:
    """XML-like tags, as Search-R1 writes them.

    Acts are looked for outside thoughts (see `searchgym.scanner`). Text after the act is ignored. With
    `max_queries` > 1, the lines of a search act are its queries. Tags cannot be escaped: an act that contains one of this
    dialect's own tags is a "nested_act"; no query or answer needs them.

    Args:
        corpus_description: how the system prompt names the corpus, a noun phrase.
    """

    corpus_description: str = PLAIN_DESCRIPTION

    name: ClassVar[str] = "tags"
    stop_strings: ClassVar[tuple[str, ...]] = ("</search>", "</answer>", "</feedback>")

    _PLAIN: ClassVar[re.Pattern[str]] = _plain_message("search|answer|feedback", markup=False)
    _MARKUP: ClassVar[re.Pattern[str]] = _plain_message("search|answer|feedback")
    _GRAMMAR: ClassVar[Grammar] = Grammar(("search", "answer", "feedback"))
    _ANY_TAG: ClassVar[re.Pattern[str]] = re.compile(r"</?(?:search|answer|feedback)>")
    _OWN_TAG: ClassVar[re.Pattern[str]] = re.compile(
        rf"<(?=/?(?:information|search|answer|feedback|(?i:{THOUGHT_NAMES}))>)"
    )

    def scanner(self) -> Scanner:
        return Scanner(self._GRAMMAR)

    def read(self, text: str) -> Scanner:
        return _read(self._GRAMMAR, text)

    def cut(self, text: str) -> str:
        return _cut(self.read(text), text)

    def close(self, text: str) -> str:
        return _close(self.scanner(), text)

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        queries = "your query" if max_queries == 1 else f"up to {max_queries} queries, one per line"
        ask = (
            "- <feedback>a draft answer</feedback> asks what is wrong with a draft before you commit to it.\n"
            if feedback
            else ""
        )
        return (
            f"{_role(self.corpus_description)}Write your thoughts as <think>…</think>.\n"
            f"- <search>{queries}</search> returns passages as <information>…</information>.\n"
            f"{ask}"
            "- <answer>the answer</answer> ends the episode. Give only the answer, a few words, no sentence."
            "\nAsk about one fact at a time, do not repeat a query, and rephrase a query that found nothing."
        )

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        plain = self._PLAIN.fullmatch(text) or self._MARKUP.fullmatch(text)
        if plain is not None:
            kind, body = plain.groups()
            if kind == "feedback" and not feedback:
                return _invalid("feedback_off")
        else:
            acts = _read(self._GRAMMAR, text).blocks
            if not feedback and "feedback" in [act.name for act in acts[:2]]:
                return _invalid("feedback_off")
            if not acts:
                return _invalid("no_act")
            if len(acts) > 1:
                return _invalid("several_acts")
            kind, body, _ = acts[0]
            if self._ANY_TAG.search(body):
                return _invalid("nested_act")
        body = body.strip()
        if not body:
            return _invalid("empty_act")
        if kind == "answer":
            return Act("answer", (), "", body)
        if kind == "feedback":
            return Act("feedback", (), body)
        if max_queries == 1:
            return Act("search", (body,))
        queries = tuple(line.strip() for line in body.splitlines() if line.strip())
        return Act("search", queries=queries) if len(queries) <= max_queries else _invalid("too_many_queries")

    def write(self, act: Act, thought: str = "") -> str:
        body = {"search": "\n".join(act.queries), "answer": act.answer, "feedback": act.draft}[act.kind]
        think = f"<think> {thought} </think> " if thought else ""
        return f"{think}<{act.kind}> {body} </{act.kind}>"

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        if not hits:
            return "<information>\nNothing was found.\n</information>"
        return f"<information>\n{self._quote(_list_hits(hits))[:max_chars]}\n</information>"

    def render_feedback(self, text: str) -> str:
        return f"<information>\n{self._quote(text)}\n</information>"

    def render_invalid(self, error: str, *, feedback: bool, reason: str = "") -> str:
        acts = "<search>, <answer> or <feedback>" if feedback else "<search> or <answer>"
        return f"{_refusal(error, self._quote(reason))} Write exactly one {acts} action."

    def _quote(self, text: str) -> str:
        """Our own tags inside a passage must not look like the environment's or the agent's."""
        return self._OWN_TAG.sub("< ", text) if "<" in text else text


@dataclass(frozen=True)
class ToolsDialect:
    """Hermes tool calls, the format of Qwen's chat template.

    One `<tool_call>{"name": …, "arguments": {…}}</tool_call>` per message, outside thoughts (see `searchgym.scanner`).
    `search` takes {"query": string}, or a list of strings under "query" when `max_queries` > 1. Numbers and booleans are
    read as the text that the model wrote, and arguments may be JSON inside a string.

    Args:
        corpus_description: how the system prompt and the search tool name the corpus, a noun phrase.
    """

    corpus_description: str = PLAIN_DESCRIPTION

    name: ClassVar[str] = "tools"
    stop_strings: ClassVar[tuple[str, ...]] = ("</tool_call>",)
    response: ClassVar[tuple[str, str]] = ("<tool_response>\n", "\n</tool_response>")
    """The text around every observation."""

    _PLAIN: ClassVar[re.Pattern[str]] = _plain_message("tool_call")
    _GRAMMAR: ClassVar[Grammar] = Grammar(("tool_call",), calls=True)
    _OWN_TAG: ClassVar[re.Pattern[str]] = re.compile(
        rf"<(?=/?(?:tool_response|tool_call|tools|(?i:{THOUGHT_NAMES}))>)"
    )
    _ARGUMENT: ClassVar[dict[str, str]] = {"search": "query", "answer": "answer", "feedback": "draft"}

    def scanner(self) -> Scanner:
        return Scanner(self._GRAMMAR)

    def read(self, text: str) -> Scanner:
        return _read(self._GRAMMAR, text)

    def cut(self, text: str) -> str:
        return _cut(self.read(text), text)

    def close(self, text: str) -> str:
        return _close(self.scanner(), text)

    def tools(self, *, feedback: bool, max_queries: int) -> list[dict[str, Any]]:
        """The tool list in JSON-schema form, as chat templates take it."""
        query: dict[str, Any] = {"type": "string", "description": "what to look for"}
        if max_queries > 1:
            query = {"type": "array", "items": query, "maxItems": max_queries}
        described = {
            "search": (f"Search {_the(self.corpus_description)} for passages.", query),
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
            f"{_role(self.corpus_description)}Each action is one tool call. Ask about one fact at a time, do not repeat a query, and "
            "rephrase a query that found nothing. End with the answer tool."
            + self.tool_section(feedback=feedback, max_queries=max_queries)
        )

    def tool_section(self, *, feedback: bool, max_queries: int) -> str:
        """The part of `system_prompt` that chat templates with native tools write themselves."""
        tools = "\n".join(
            json.dumps(t, ensure_ascii=False) for t in self.tools(feedback=feedback, max_queries=max_queries)
        )
        return (
            f"\n\n# Tools\n\n<tools>\n{tools}\n</tools>\n\n"
            "Write a call as JSON inside tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        plain = self._PLAIN.fullmatch(text)
        if plain is not None:
            body = plain[2]
        else:
            calls = _read(self._GRAMMAR, text).blocks
            if not calls:
                return _invalid("no_act")
            if len(calls) > 1:
                return _invalid("several_acts")
            body = calls[0].body
        try:
            kind, arguments = read_call(body)
            if kind not in self._ARGUMENT:
                return _invalid("unknown_tool", f"{kind[:40]!r}")
            values = text_argument(arguments, self._ARGUMENT[kind], several=kind == "search")
        except CallError as error:
            return _invalid("malformed_call", str(error))
        if kind == "feedback" and not feedback:
            return _invalid("feedback_off")
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
        call = json_text({"name": act.kind, "arguments": {self._ARGUMENT[act.kind]: value}})
        return f"{think}<tool_call>\n{call}\n</tool_call>"

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        return self._answer(self._quote(_list_hits(hits))[:max_chars] if hits else "Nothing was found.")

    def render_feedback(self, text: str) -> str:
        return self._answer(self._quote(text))

    def render_invalid(self, error: str, *, feedback: bool, reason: str = "") -> str:
        tools = "search, answer or feedback" if feedback else "search or answer"
        return self._answer(f"{_refusal(error, self._quote(reason))} Write exactly one call of {tools}.")

    def _answer(self, text: str) -> str:
        before, after = self.response
        return f"{before}{text}{after}"

    def _quote(self, text: str) -> str:
        return self._OWN_TAG.sub("< ", text) if "<" in text else text


def _the(noun_phrase: str) -> str:
    """The definite form of a noun phrase: "an encyclopedia" becomes "the encyclopedia"."""
    article, _, noun = noun_phrase.partition(" ")
    return f"the {noun}" if article.lower() in ("a", "an") else noun_phrase


_CLASSES: dict[str, Callable[[str], Dialect]] = {"tags": TagsDialect, "tools": ToolsDialect}


def _cut(scanner: Scanner, text: str) -> str:
    return text[: scanner.blocks[0].end] if scanner.blocks else text


def _close(scanner: Scanner, text: str) -> str:
    """`text` with the closing tag of the act that is open in the scanner, unless the tag closed something inside it."""
    scanner.feed(text)
    return f"{text}</{scanner.name}>" if scanner.closable else text


@lru_cache(maxsize=256)
def _open_dialect(name: str, corpus_description: str) -> Dialect:
    return _CLASSES[name](corpus_description)


DIALECTS: dict[str, Dialect] = {name: _open_dialect(name, PLAIN_DESCRIPTION) for name in _CLASSES}
"""The dialects by name, as `gym.make(..., dialect=…)` takes them, for a corpus without a description."""


def get_dialect(name: str, corpus_description: str = PLAIN_DESCRIPTION) -> Dialect:
    """A dialect by name.

    Args:
        name: "tags" or "tools".
        corpus_description: how the system prompt names the corpus, a noun phrase.

    Raises:
        UnknownIdError: an unknown dialect.
    """
    if not isinstance(name, str) or name not in DIALECTS:
        raise UnknownIdError("dialect", name, DIALECTS)
    return _open_dialect(name, corpus_description)
