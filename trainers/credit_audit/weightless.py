"""Agents without weights in an audit: each act counts as one token, so trainers can give it credit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from searchgym.agent import Agent, Turn
from searchgym.agents.policy import Policy, Sample, TokenOutputs
from searchgym.agents.wrapping import WrappingAgent
from searchgym.errors import ConfigError

__all__ = ["WeightlessPolicy"]


class WeightlessPolicy(WrappingAgent, Policy):
    """An agent as a policy that cannot learn. Trainers that need forward passes of the policy refuse it.

    Args:
        agent: plays; it must be able to fork and to resume.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self.module = nn.Module()
        self.generator = torch.Generator()

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
