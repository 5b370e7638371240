"""The dialect `tags`: XML-like tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..records.acts import Act
from ..records.question import PLAIN_DESCRIPTION
from ..records.retriever import Hit
from .dialect import ScannedDialect, blank, invalid, plain_message, role
from .observations import list_hits, refusal
from .scanner import THOUGHT_NAMES, Grammar, with_tags

__all__ = ["TagsDialect"]


@dataclass(frozen=True)
class TagsDialect(ScannedDialect):
    """XML-like tags, as Search-R1 writes them.

    Acts are looked for outside thoughts (see `searchgym.dialects.scanner`). Text after the act is ignored. With
    `max_queries` > 1, the lines of a search act are its queries. Tags cannot be escaped: an act that contains one of this
    dialect's own tags is a "nested_act"; no query or answer needs them.

    Args:
        corpus_description: how the system prompt names the corpus, a noun phrase.
    """

    corpus_description: str = PLAIN_DESCRIPTION

    name: ClassVar[str] = "tags"
    stop_strings: ClassVar[tuple[str, ...]] = ("</search>", "</answer>", "</feedback>")

    _PLAIN: ClassVar[re.Pattern[str]] = plain_message("search|answer|feedback", markup=False)
    _MARKUP: ClassVar[re.Pattern[str]] = plain_message("search|answer|feedback")
    _GRAMMAR: ClassVar[Grammar] = Grammar(("search", "answer", "feedback"))
    _ANY_TAG: ClassVar[re.Pattern[str]] = re.compile(r"</?(?:search|answer|feedback)>")
    _OWN_TAG: ClassVar[re.Pattern[str]] = re.compile(
        rf"<(?=/?(?:information|search|answer|feedback|(?i:{THOUGHT_NAMES}))>)"
    )

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        queries = (
            "your query in it" if max_queries == 1 else f"up to {max_queries} queries in it, one per line,"
        )
        ask = (
            "- <feedback>…</feedback> with a draft answer in it asks what is wrong with it before you commit to it.\n"
            if feedback
            else ""
        )
        return (
            f"{role(self.corpus_description)}Write your thoughts as <think>…</think>.\n"
            f"- <search>…</search> with {queries} returns passages as <information>…</information>.\n"
            f"{ask}"
            "- <answer>…</answer> with the answer in it ends the episode. Give only the answer, a few words, no sentence."
            "\nAsk about one fact at a time, do not repeat a query, and rephrase a query that found nothing."
        )

    def query_prompt(self) -> str:
        """The system prompt of the task `query`; see `EnvConfig.task`."""
        return (
            f"You write search queries for {self.corpus_description}. Read the question and write the one query whose results "
            "contain everything that is needed to answer it. First think, as <think>…</think>; then write "
            "<search>…</search> with the query in it, and stop. Do not answer the question."
        )

    def parse(self, text: str, *, feedback: bool, max_queries: int) -> Act:
        plain = (
            self._PLAIN.fullmatch(text) or self._MARKUP.fullmatch(text) if with_tags(text) == text else None
        )
        if plain is not None:
            kind, body = plain.groups()
            if kind == "feedback" and not feedback:
                return invalid("feedback_off")
        else:
            acts = self.read(text).blocks
            if not feedback and "feedback" in [act.name for act in acts[:2]]:
                return invalid("feedback_off")
            if not acts:
                return invalid("no_act")
            if len(acts) > 1:
                return invalid("several_acts")
            kind, body, _ = acts[0]
            if self._ANY_TAG.search(body):
                return invalid("nested_act")
        body = body.strip()
        if blank(body):
            return invalid("empty_act")
        if kind == "answer":
            return Act("answer", (), "", body)
        if kind == "feedback":
            return Act("feedback", (), body)
        if max_queries == 1:
            return Act("search", (body,))
        queries = tuple(line.strip() for line in body.splitlines() if not blank(line))
        return Act("search", queries=queries) if len(queries) <= max_queries else invalid("too_many_queries")

    def write(self, act: Act, thought: str = "") -> str:
        body = {"search": "\n".join(act.queries), "answer": act.answer, "feedback": act.draft}[act.kind]
        think = f"<think> {thought} </think> " if thought else ""
        return f"{think}<{act.kind}> {body} </{act.kind}>"

    def render_hits(self, hits: Sequence[Hit], max_chars: int) -> str:
        if not hits:
            return "<information>\nNothing was found.\n</information>"
        return f"<information>\n{self._quote(list_hits(hits))[:max_chars]}\n</information>"

    def render_feedback(self, text: str) -> str:
        return f"<information>\n{self._quote(text)}\n</information>"

    def render_invalid(self, error: str, *, feedback: bool, reason: str = "") -> str:
        acts = "<search>, <answer> or <feedback>" if feedback else "<search> or <answer>"
        return f"{refusal(error, self._quote(reason))} Write exactly one {acts} action."

    def render_invalid_query(self, error: str, *, reason: str = "") -> str:
        """The observation after an invalid message in the task `query`."""
        return f"{refusal(error, self._quote(reason))} Write exactly one <search> action."
