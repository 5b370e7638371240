"""The agent `memory`: any language model, shown what a memory recalls with its observations.

The text is added to what the model reads, and to nothing else: the episode records the environment's observations, the recorded
tokens contain it, and so training sees what the model saw. With recall switched off, the model reads the observations as they
are, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchgym.agent import Agent, Turn
from searchgym.errors import ConfigError
from searchgym.options import choice
from searchgym.records.episode import Episode

from ..wrapping import WrappingAgent
from .protocol import Memory

__all__ = ["RECALL", "MemoryAgent"]

RECALL = ("always", "training", "never")
"""When a memory is shown; "training": not in evaluations, in which policies act greedily."""


class MemoryAgent(WrappingAgent):
    """An agent that reads what a memory recalls.

    Args:
        agent: plays; it must read observations as text (`Agent.reads_text`), unless nothing is recalled.
        memory: says what to add. Somebody else tells it of episodes: a trainer, or `run_trials`.
        recall: one of `RECALL`.

    Attributes:
        agent: as given.
        memory: as given.
        recall: as given; may be changed between episodes.

    Raises:
        ConfigError: the agent does not read texts.
    """

    def __init__(self, agent: Agent, memory: Memory, recall: str = "always") -> None:
        self.recall = choice("recall", recall, RECALL)
        if recall != "never" and not agent.reads_text:
            raise ConfigError(
                f"agent {agent.name!r} does not read observations as text, so a memory cannot tell it anything: use a language "
                "model ('tiny', 'hf', 'api')"
            )
        super().__init__(agent)
        self.memory = memory
        self.name = f"{agent.name}+{memory.name}"
        self._questions: dict[int, str] = {}

    @property
    def recalls(self) -> bool:
        """Whether the next act is shown what the memory recalls."""
        return self.recall == "always" or (self.recall == "training" and not getattr(self, "greedy", False))

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._questions.pop(slot, None)
        super().begin(slots)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`."""
        for target in targets:
            self._questions.pop(target, None)
            if source in self._questions:
                self._questions[target] = self._questions[source]
        super().fork(source, targets)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`. What was recalled in the rounds before is in their tokens."""
        self._questions[slot] = prefix.question
        super().resume(slot, prefix, fork_round)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return self.agent.act(slots, self._all_shown(slots, observations), infos)

    def act_some(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[Turn | None]:
        return self.agent.act_some(slots, self._all_shown(slots, observations), infos)

    def _all_shown(self, slots: Sequence[int], observations: Sequence[str]) -> Sequence[str]:
        if not self.recalls:
            return observations
        return [
            self.shown(self._questions.setdefault(slot, observation), observation)
            for slot, observation in zip(slots, observations, strict=True)
        ]

    def shown(self, question: str, observation: str) -> str:
        """An observation with what the memory recalls.

        Args:
            question: the first observation of the episode.
            observation: the observation; an empty one, after the last act, stays empty.
        """
        text = self.memory.recall(question, observation) if observation else ""
        if not text:
            return observation
        return f"{observation}\n\n{text.replace('<', '< ')}"  # it must not look like an act
