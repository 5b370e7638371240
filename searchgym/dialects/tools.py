"""The dialect `tools`: Hermes tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..records.acts import Act
from ..records.question import PLAIN_DESCRIPTION
from ..records.retriever import Hit
from .calls import CallError, json_text, read_call, text_argument
from .dialect import ScannedDialect, blank, invalid, plain_message, role
from .observations import list_hits, refusal
from .scanner import THOUGHT_NAMES, Grammar, with_tags

__all__ = ["ToolsDialect"]


@dataclass(frozen=True)
class ToolsDialect(ScannedDialect):
    """Hermes tool calls, the format of Qwen's chat template.

    One `<tool_call>{"name": …, "arguments": {…}}</tool_call>` per message, outside thoughts (see `searchgym.dialects.scanner`).
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

    _PLAIN: ClassVar[re.Pattern[str]] = plain_message("tool_call")
    _GRAMMAR: ClassVar[Grammar] = Grammar(("tool_call",), calls=True)
    _OWN_TAG: ClassVar[re.Pattern[str]] = re.compile(
        rf"<(?=/?(?:tool_response|tool_call|tools|(?i:{THOUGHT_NAMES}))>)"
    )
    _ARGUMENT: ClassVar[dict[str, str]] = {"search": "query", "answer": "answer", "feedback": "draft"}

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
            f"{role(self.corpus_description)}Each action is one tool call. Ask about one fact at a time, do not repeat a query, and "
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
        plain = self._PLAIN.fullmatch(text) if with_tags(text) == text else None
        if plain is not None:
            body = plain[2]
        else:
            calls = self.read(text).blocks
            if not calls:
                return invalid("no_act")
            if len(calls) > 1:
                return invalid("several_acts")
            body = calls[0].body
        try:
            kind, arguments = read_call(body)
            if kind not in self._ARGUMENT:
                return invalid("unknown_tool", f"{kind[:40]!r}")
            values = text_argument(arguments, self._ARGUMENT[kind], several=kind == "search")
        except CallError as error:
            return invalid("malformed_call", str(error))
        if kind == "feedback" and not feedback:
            return invalid("feedback_off")
        values = [v.strip() for v in values if not blank(v)]
        if not values:
            return invalid("empty_act")
        if kind == "answer":
            return Act("answer", answer=values[0])
        if kind == "feedback":
            return Act("feedback", draft=values[0])
        return (
            Act("search", queries=tuple(values))
            if len(values) <= max_queries
            else invalid("too_many_queries")
        )

    def write(self, act: Act, thought: str = "") -> str:
        value: object = {"answer": act.answer, "feedback": act.draft}.get(act.kind)
        if act.kind == "search":
            value = act.queries[0] if len(act.queries) == 1 else list(act.queries)
        think = f"<think>\n{thought}\n</think>\n" if thought else ""
        call = json_text({"name": act.kind, "arguments": {self._ARGUMENT[act.kind]: value}})
        return f"{think}<tool_call>\n{call}\n</tool_call>"

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        return self._answer(self._quote(list_hits(hits))[:max_chars] if hits else "Nothing was found.")

    def render_feedback(self, text: str) -> str:
        return self._answer(self._quote(text))

    def render_invalid(self, error: str, *, feedback: bool, reason: str = "") -> str:
        tools = "search, answer or feedback" if feedback else "search or answer"
        return self._answer(f"{refusal(error, self._quote(reason))} Write exactly one call of {tools}.")

    def _answer(self, text: str) -> str:
        before, after = self.response
        return f"{before}{text}{after}"


def _the(noun_phrase: str) -> str:
    """The definite form of a noun phrase: "an encyclopedia" becomes "the encyclopedia"."""
    article, _, noun = noun_phrase.partition(" ")
    return f"the {noun}" if article.lower() in ("a", "an") else noun_phrase
