"""The protocol of a dialect, and what all dialects share: reading, cutting and closing messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Protocol, cast, runtime_checkable

from ..records.acts import Act
from ..records.retriever import Hit
from .scanner import THOUGHT_NAMES, Grammar, Scanner

__all__ = [
    "Dialect",
    "QueryDialect",
    "ScannedDialect",
    "blank",
    "invalid",
    "plain_message",
    "prompt_of",
    "render_refusal",
    "role",
]


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


@runtime_checkable
class QueryDialect(Protocol):
    """What a dialect also has if it can write the task `query`, in which the first search ends the episode."""

    def query_prompt(self) -> str:
        """Instructions for a language model."""

    def render_invalid_query(self, error: str, *, reason: str = "") -> str:
        """The observation after an invalid message."""


def prompt_of(dialect: Dialect, task: str, *, feedback: bool, max_queries: int) -> str:
    """The system prompt of a task.

    Args:
        dialect: of the environment; a `QueryDialect` for the task `query`, which the environment checks.
        task: see `EnvConfig.task`.
        feedback: see `Dialect`.
        max_queries: see `Dialect`.
    """
    if task == "query":
        return cast(QueryDialect, dialect).query_prompt()
    return dialect.system_prompt(feedback=feedback, max_queries=max_queries)


def render_refusal(dialect: Dialect, task: str, error: str, *, feedback: bool, reason: str) -> str:
    """The observation after an invalid message in a task.

    Args:
        dialect: see `prompt_of`.
        task: see `EnvConfig.task`.
        error: see `Act.error`.
        feedback: see `Dialect`.
        reason: see `Act.reason`.
    """
    if task == "query":
        return cast(QueryDialect, dialect).render_invalid_query(error, reason=reason)
    return dialect.render_invalid(error, feedback=feedback, reason=reason)


class ScannedDialect:
    """What follows from a dialect's grammar: where its acts begin and end, and which tags a passage must not show."""

    _GRAMMAR: ClassVar[Grammar]
    _OWN_TAG: ClassVar[re.Pattern[str]]

    def scanner(self) -> Scanner:
        """See `Dialect.scanner`."""
        return Scanner(self._GRAMMAR)

    def read(self, text: str) -> Scanner:
        """See `Dialect.read`."""
        scanner = self.scanner()
        if "<" in text:
            scanner.feed(text)
            scanner.finish(text)
        return scanner

    def cut(self, text: str) -> str:
        """See `Dialect.cut`."""
        acts = self.read(text).blocks
        return text[: acts[0].end] if acts else text

    def close(self, text: str) -> str:
        """See `Dialect.close`."""
        scanner = self.scanner()
        scanner.feed(text)
        return f"{text}</{scanner.name}>" if scanner.closable else text

    def _quote(self, text: str) -> str:
        """Our own tags inside a passage must not look like the environment's or the agent's."""
        return self._OWN_TAG.sub("< ", text) if "<" in text else text


def invalid(error: str, reason: str = "") -> Act:
    return Act("invalid", error=error, reason=reason)


def plain_message(names: str, *, markup: bool = True) -> re.Pattern[str]:
    """The usual message, to be read in one go: at most one thought, one act of these names, and no other tag anywhere.

    Args:
        names: names of acts, as a regular expression.
        markup: whether a "<" may stand in it that begins none of these tags; without, matching is a quarter faster.
    """
    text = "[^<]*"
    if markup:
        text = rf"[^<]*+(?:<(?!/?(?:{names}|(?i:{THOUGHT_NAMES}))>)[^<]*+)*+"
    return re.compile(rf"{text}(?:<think>{text}</think>{text})?<({names})>({text})</\1>{text}")


_BLANK = re.compile(r"[\s.…]*")


def blank(text: str) -> bool:
    """Whether a text says nothing: white space, and dots, which stand for a text in prompts, and models copy prompts."""
    return _BLANK.fullmatch(text) is not None


def role(corpus_description: str) -> str:
    return (
        f"You answer questions by searching {corpus_description}. Work in rounds. In each round first think, then take "
        "exactly one action and stop. "
    )
