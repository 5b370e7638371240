"""What the parser of a rollout format returns, and the parts they share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Parsed", "ParsedRound", "RolloutTextError", "act", "content_id", "hit"]


class RolloutTextError(ValueError):
    """A rollout that is not in the format it claims; the importer says where it stood."""


@dataclass(slots=True)
class ParsedRound:
    """One act of the agent and what came back; the fields are those of `searchgym.episode.Round`."""

    text: str
    action: dict[str, Any]
    hits: list[dict[str, Any]] = field(default_factory=list)
    observation: str = ""


@dataclass(slots=True)
class Parsed:
    """A rollout taken apart.

    Attributes:
        rounds: in order; the last one holds the answer if `action["kind"]` is "answer".
        question: as the text states it; "" where it does not.
        cut: the text ends in the middle of an act or of a result.
        closing: what the environment said after the answer ("reward = True"). It is no observation: a judge that
            read it would know the outcome.
        correct: what it said, where it said so in words this importer knows.
    """

    rounds: list[ParsedRound]
    question: str = ""
    cut: bool = False
    closing: str = ""
    correct: bool | None = None


def act(kind: str, *, queries: list[str] | None = None, answer: str = "", error: str = "") -> dict[str, Any]:
    """An action as `Round.action` holds it; one that says nothing is invalid."""
    queries, answer = [q.strip() for q in queries or []], answer.strip()
    if (kind == "search" and not all(queries)) or (kind == "answer" and not answer):
        kind, queries, error = "invalid", [], "empty_act"
    return {"kind": kind, "queries": queries, "draft": "", "answer": answer, "error": error}


def content_id(title: str, text: str) -> str:
    """A stable id for a passage whose source names none: equal passages have equal ids, in any file."""
    digest = hashlib.sha256(f"{title}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256-{digest[:16]}"


def hit(title: str, text: str, rank: int, query_index: int = 0) -> dict[str, Any]:
    """A hit as `Round.hits` holds it. The records have no scores: the reciprocal rank keeps their order.

    Args:
        title, text: of the passage; white space around them is dropped.
        rank: 1 is the best.
        query_index: which of the round's queries returned it.
    """
    title, text = title.strip(), text.strip()
    return {
        "id": content_id(title, text),
        "title": title,
        "text": text,
        "score": 1.0 / rank,
        "rank": rank,
        "query_index": query_index,
    }
