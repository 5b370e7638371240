"""What a memory is: it is told of episodes, and says what to add to an observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from searchgym.records.episode import Episode

__all__ = ["Memory", "write_message"]


@runtime_checkable
class Memory(Protocol):
    """Text carried from one episode to the next.

    A memory is deterministic: the same episodes in the same order give the same texts. It is saved as JSON with the weights of
    its agent.
    """

    @property
    def name(self) -> str:
        """The name that `open_memory` takes."""

    def observe(self, episode: Episode, scores: Sequence[float] | None = None) -> None:
        """Learn from an episode.

        Args:
            episode: one that was played; those lost to infrastructure are ignored.
            scores: how good each of its rounds was; None: by how it ended.
        """

    def recall(self, question: str, observation: str) -> str:
        """What to show with an observation; "" for nothing.

        Args:
            question: the first observation of the episode.
            observation: the newest one; equal to the question in the first round.
        """

    def to_json(self) -> dict[str, Any]:
        """Everything it holds, as JSON."""

    def load_json(self, data: dict[str, Any]) -> None:
        """Replace what it holds by what `to_json` gave; raises `ValueError`, `KeyError` or `TypeError` for anything else."""


def write_message(episode: Episode, index: int) -> str:
    """What a round did, in words: "search for X", "answer X" or "a message without a valid act".

    Args:
        episode: the episode.
        index: of the round.
    """
    action = episode.rounds[index].action
    if action.kind == "search":
        return f"search for {' and for '.join(action.queries)}"
    if action.kind == "answer":
        return f"answer {action.answer}"
    return "ask for feedback" if action.kind == "feedback" else "a message without a valid act"
