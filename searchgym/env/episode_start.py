"""How an episode starts: its first observation, and the info of the reset."""

from __future__ import annotations

from typing import Any

from ..records.episode import INFO_SCHEMA, anchor_of
from ..records.question import Question, gold_record

__all__ = ["EpisodeStart"]


class EpisodeStart:
    """What a reset returns: the first observation and what its info is derived from.

    Attributes:
        observation: the question, as the agent reads it.
        question: the task.
        budget: what the episode may use; see `EpisodeState.budget`.
        reveals_gold: whether `to_info` has the gold data.
    """

    __slots__ = ("budget", "observation", "question", "reveals_gold")

    def __init__(
        self, observation: str, question: Question, budget: dict[str, int], reveals_gold: bool
    ) -> None:
        self.observation = observation
        self.question = question
        self.budget = budget
        self.reveals_gold = reveals_gold

    def to_info(self) -> dict[str, Any]:
        """The info of the reset: a fresh JSON value at each call."""
        question = self.question
        info: dict[str, Any] = {
            "schema": INFO_SCHEMA,
            "task_id": question.id,
            "split": question.split,
            "question": question.text,
            "anchor": anchor_of(self.observation),
            "budget": dict(self.budget),
        }
        if self.reveals_gold:
            info["gold"] = gold_record(question)
        return info
