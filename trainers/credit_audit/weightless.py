"""Agents without weights in an audit: each act counts as one token, so trainers can give it credit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.agents.policy import Policy, Sample, TokenOutputs
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode

__all__ = ["WeightlessPolicy"]


class WeightlessPolicy(Policy):
    """An agent as a policy that cannot learn. Trainers that need forward passes of the policy refuse it.

    Args:
        agent: plays; it must be able to fork and to resume.
    """

    def __init__(self, agent: Agent) -> None:
        self.name, self.agent = agent.name, agent
        self.needs_gold = agent.needs_gold
        self.module = nn.Module()
        self.generator = torch.Generator()

    def bind(self, agent_context: AgentContext) -> None:
        super().bind(agent_context)
        self.agent.bind(agent_context)

    def begin(self, slots: Sequence[int]) -> None:
        self.agent.begin(slots)

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        self.agent.seed(slots, seeds)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        self.agent.fork(source, targets)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        self.agent.resume(slot, prefix, fork_round)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        acts = self.agent.act(slots, observations, infos)
        texts = [act.text if isinstance(act, Turn) else act for act in acts]
        return [Turn(text, prompt_ids=[0], token_ids=[0], logprobs=[0.0]) for text in texts]

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        raise ConfigError(
            f"agent {self.name!r} has no weights, and this trainer computes log-probabilities or values with them: audit it "
            "on a policy that learns"
        )

    def save(self, directory: Path) -> None:
        raise ConfigError(f"agent {self.name!r} has no weights to save")

    def describe(self) -> dict[str, Any]:
        return {"agent": self.name, "weights": 0}
