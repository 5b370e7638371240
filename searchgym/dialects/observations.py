"""The texts of observations that all dialects share: the list of passages and the reply to a message without a valid act.

What is written around them is in `tags` and `tools`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records.retriever import Hit

__all__ = ["RETRY", "list_hits", "refusal"]

_LONGEST_REASON = 90  # characters; observations are bounded


def list_hits(hits: Sequence[Hit]) -> str:
    """Numbered passages, each with its title in a line of its own."""
    return "\n".join([f"[{rank}] {hit[1]}\n{hit[2]}" for rank, hit in enumerate(hits, 1)])


RETRY = {
    "no_act": "it contained no action",
    "several_acts": "it contained more than one action",
    "empty_act": "its action was empty",
    "nested_act": "its action contained another action",
    "too_many_queries": "it contained more queries than allowed",
    "unknown_tool": "it called an unknown tool",
    "malformed_call": "its tool call could not be read",
    "answer_off": "it used an action that is not available",
    "feedback_off": "it used an action that is not available",
    "feedback_spent": "no more feedback is available",
    "too_long": "it was too long",
}
"""What was wrong with a message, by the `error` of its act."""


def refusal(error: str, reason: str) -> str:
    detail = f" ({reason[:_LONGEST_REASON]})" if reason else ""
    return f"Your last message was not used: {RETRY[error]}{detail}."
