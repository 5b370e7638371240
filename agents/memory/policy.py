"""The agent `memory` as a policy: its model learns, and its memory is saved with the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from searchgym.agent import Turn
from searchgym.errors import CheckpointError
from searchgym.files import read_json, write_text
from searchgym.records.episode import Episode, Segment

from ..policy import Policy, Sample, TokenOutputs
from .agent import MemoryAgent
from .protocol import Memory

__all__ = ["MEMORY_FILE", "MemoryPolicy"]

MEMORY_FILE = "memory.json"


class MemoryPolicy(MemoryAgent, Policy):
    """A policy that reads what a memory recalls, and learns. The memory is saved with the weights.

    Args:
        agent: the policy. Its weights and generator are shared, and its sampling settings follow this object's.
        memory: see `MemoryAgent`.
        recall: see `MemoryAgent`.

    Raises:
        ConfigError: see `MemoryAgent`.
    """

    agent: Policy

    def __init__(self, agent: Policy, memory: Memory, recall: str = "always") -> None:
        super().__init__(agent, memory, recall)
        self.module, self.generator = agent.module, agent.generator
        self.version, self.greedy = agent.version, agent.greedy
        self.temperature, self.top_p = agent.temperature, agent.top_p

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        self._set_sampling()
        return super().act(slots, observations, infos)

    def act_some(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[Turn | None]:
        self._set_sampling()
        return super().act_some(slots, observations, infos)

    def _set_sampling(self) -> None:
        for name in ("version", "temperature", "top_p", "greedy"):
            setattr(self.agent, name, getattr(self, name))

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        self.agent.temperature = self.temperature
        return self.agent.evaluate_tokens(samples)

    @contextmanager
    def remembering(self, episodes: Sequence[Episode]) -> Iterator[None]:
        """See `Policy`."""
        with self.agent.remembering(episodes):
            yield

    def freeze_reference(self) -> Callable[[], AbstractContextManager[None]]:
        return self.agent.freeze_reference()

    def fsdp_module(self) -> nn.Module | None:
        return self.agent.fsdp_module()

    def encode(self, episode: Episode) -> list[Segment]:
        """See `Policy`. What the memory recalls now is part of the tokens, as where this policy plays: a cold start by
        supervised fine-tuning learns to read it."""
        if not self.recalls:
            return self.agent.encode(episode)
        shown = [replace(r, observation=self.shown(episode.question, r.observation)) for r in episode.rounds]
        question = self.shown(episode.question, episode.question)
        return self.agent.encode(replace(episode, question=question, rounds=shown))

    def cost(self, sample: Sample) -> int:
        return self.agent.cost(sample)

    def micro_batches(self, samples: Sequence[Sample], budget: int) -> list[list[int]]:
        return self.agent.micro_batches(samples, budget)

    def save(self, directory: Path) -> None:
        """See `Policy`: the policy's files, and the memory."""
        self.agent.save(directory)
        held = {"memory": self.memory.name, **self.memory.to_json()}
        write_text(Path(directory) / MEMORY_FILE, json.dumps(held, ensure_ascii=False, indent=1) + "\n")

    def load_weights(self, directory: Path) -> None:
        """See `Policy`. Weights that were saved without a memory leave it as it is."""
        self.agent.load_weights(directory)
        file = Path(directory) / MEMORY_FILE
        if not file.exists():
            return
        try:
            held = read_json(file)
            name = held.pop("memory")
            if name == self.memory.name:
                self.memory.load_json(held)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{file} does not hold a memory ({error!r:.100}): restore it from a copy"
            ) from error
        if name != self.memory.name:
            raise CheckpointError(
                f"{file} holds the memory {name!r}, and this agent has {self.memory.name!r}: use that one"
            )

    def describe(self) -> dict[str, Any]:
        return {"memory": self.memory.name, "agent": self.agent.describe()}
