"""Privileged feedback: the verifier's words about a draft answer, for the training-only `feedback` act.

The levels say how much of the gold derivation leaks. With the act switched off nothing in here runs, and no
prompt mentions it.
"""

from __future__ import annotations

from collections.abc import Collection

from .errors import UnknownIdError
from .question import Question
from .scoring import exact_match

__all__ = ["FEEDBACK_LEVELS", "write_feedback"]

FEEDBACK_LEVELS = ("kind", "hop", "revealing", "gold")
"""kind: right, an earlier step, or wrong. hop: also which step is missing. revealing: also the title of the
passage to read. gold: the answer itself."""


def check_level(level: str) -> str:
    """The level, if there is one of that name; raises `UnknownIdError`."""
    if level not in FEEDBACK_LEVELS:
        raise UnknownIdError("feedback level", level, FEEDBACK_LEVELS)
    return level


def write_feedback(
    question: Question, draft: str, seen_ids: Collection[str], level: str, titles: dict[str, str]
) -> str:
    """The text for a draft answer.

    Args:
        question: with its gold derivation, as far as it is known.
        draft: the agent's draft.
        seen_ids: passages retrieved so far in the episode.
        level: one of `FEEDBACK_LEVELS`.
        titles: title of each gold passage, for the level "revealing".
    """
    if exact_match(draft, question.answers):
        return "The draft is right."
    early = any(exact_match(draft, [hop.bridge]) for hop in question.chain[:-1])
    text = "The draft is an earlier step, not the answer." if early else "The draft is wrong."
    if level == "gold":
        return f"{text} The answer is {question.answers[0]}."
    if level == "kind" or not question.supporting_ids:  # nothing is known of the way there
        return text
    missing = [i for i, passage in enumerate(question.supporting_ids) if passage not in seen_ids]
    if not missing:
        return f"{text} Everything needed has been found."
    text += f" Step {missing[0] + 1} of {len(question.supporting_ids)} has not been found."
    if level == "revealing":
        text += f" Read {titles[question.supporting_ids[missing[0]]]}."
    return text
