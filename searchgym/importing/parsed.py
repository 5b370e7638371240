"""What the parser of a rollout format returns, and helpers that the parsers share."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ..dialects import Act
from ..records.episode import RoundRecord
from ..records.retriever import Hit

__all__ = ["Parsed", "RolloutTextError", "act", "content_id", "documents", "hit"]

_DOCUMENT = re.compile(r'^Doc \d+ ?\(Title: "?(.*?)"?\)[ \t]*\n?', re.MULTILINE)
_NUMBERED = re.compile(r"^\[\d+\] (.*)\n", re.MULTILINE)


class RolloutTextError(ValueError):
    """A rollout that is not in the format it claims; the importer adds file and line."""


@dataclass(slots=True)
class Parsed:
    """A rollout taken apart.

    Attributes:
        rounds: in order; the last one holds the answer if its action is an answer. Text, action, results and observation
            are set.
        question: as the text states it; "" if it does not.
        cut: whether the text ends in the middle of an act or of a result.
        closing: what the environment said after the answer ("reward = True"). It is not an observation: a judge that
            read it would know the outcome.
        correct: the verdict in `closing`; None if this importer does not recognise one.
    """

    rounds: list[RoundRecord]
    question: str = ""
    cut: bool = False
    closing: str = ""
    correct: bool | None = None


def act(kind: str, *, queries: list[str] | None = None, answer: str = "", error: str = "") -> Act:
    """An act with its text stripped; an empty one is invalid.

    Args:
        kind: "search", "answer" or "invalid".
        queries: of a search.
        answer: of an answer.
        error: why the act is invalid.
    """
    queries, answer = [q.strip() for q in queries or []], answer.strip()
    if (kind == "search" and not all(queries)) or (kind == "answer" and not answer):
        kind, queries, error = "invalid", [], "empty_act"
    return Act(kind, tuple(queries), "", answer, error)


def content_id(title: str, text: str) -> str:
    """A stable id for a passage whose source does not have one: equal passages have equal ids, in any file."""
    digest = hashlib.sha256(f"{title}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256-{digest[:16]}"


def hit(title: str, text: str, rank: int) -> Hit:
    """A hit. The records have no scores: the reciprocal rank keeps their order.

    Args:
        title: of the passage; white space around it is dropped.
        text: of the passage; white space around it is dropped.
        rank: 1 is the best.
    """
    title, text = title.strip(), text.strip()
    return Hit(content_id(title, text), title, text, 1.0 / rank)


def documents(shown: str) -> list[tuple[str, str]]:
    """Titles and texts of the passages that a search has shown.

    Args:
        shown: numbered passages ("[1] Title" or "Doc 1(Title: …)" before each), or one text, which has no title.
    """
    pattern = next((p for p in (_DOCUMENT, _NUMBERED) if p.match(shown)), None)
    if pattern is None:
        return [("", shown)] if shown and shown != "Nothing was found." else []
    marks = list(pattern.finditer(shown))
    ends = [mark.start() for mark in marks[1:]] + [len(shown)]
    return [(m[1], shown[m.end() : end]) for m, end in zip(marks, ends, strict=True)]
