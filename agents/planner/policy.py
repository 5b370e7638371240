"""The planner agent as a policy: one of its parts learns, or one policy that plays both parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from searchgym.agent import Turn
from searchgym.errors import ConfigError

from ..policy import Policy, Sample, TokenOutputs
from ..wrapping import WrappingAgent
from .agent import PlannerAgent

__all__ = ["PlannerPolicy"]

_ROLES = ("planner", "answerer")


class PlannerPolicy(WrappingAgent, Policy):
    """Trains one part of a `PlannerAgent`.

    Only the tokens of the trained part are recorded. The other part belongs to the environment of the trained one, like
    the frozen generator in s3 (arXiv 2505.14146).

    Args:
        agent: the planner agent.
        train: "planner" or "answerer"; None: the only part that is a policy.

    Attributes:
        policy: the trained part. Its weights and generator are shared, and its sampling settings follow this object's.

    Raises:
        ConfigError: that part is not a policy.
    """

    def __init__(self, agent: PlannerAgent, train: str | None = None) -> None:
        if train not in (None, *_ROLES):
            raise ConfigError(f"train is {train!r}: give planner or answerer")
        parts = agent.parts if train is None else (agent.planner if train == "planner" else agent.answerer,)
        policies = [part for part in parts if isinstance(part, Policy)]
        if len(policies) != 1:
            raise ConfigError(
                f"no part of {agent.name} can be trained: {', '.join(part.name for part in parts)} has no weights here"
                if not policies
                else f"both parts of {agent.name} can be trained: choose with train=planner or train=answerer"
            )
        (self.policy,) = policies
        super().__init__(agent)
        agent.recorded = (self.policy,)
        self.module, self.generator = self.policy.module, self.policy.generator
        self.version, self.greedy = self.policy.version, self.policy.greedy
        self.temperature, self.top_p = self.policy.temperature, self.policy.top_p

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        for name in ("version", "temperature", "top_p", "greedy"):
            setattr(self.policy, name, getattr(self, name))
        turns = self.agent.act(slots, observations, infos)
        for turn in chain.from_iterable((*t.earlier, t) for t in turns if isinstance(t, Turn)):
            if turn.new_segment and turn.token_ids and not turn.prompt_ids:
                raise ConfigError(
                    f"agent {self.policy.name!r} cannot be trained as an answerer: it rebuilds its context from the "
                    "episode's texts, which do not contain an answerer's input; let it be the planner, or set train=planner"
                )
        return turns

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        return self.policy.evaluate_tokens(samples)

    def freeze_reference(self) -> Callable[[], AbstractContextManager[None]]:
        return self.policy.freeze_reference()

    def fsdp_module(self) -> nn.Module | None:
        return self.policy.fsdp_module()

    def cost(self, sample: Sample) -> int:
        return self.policy.cost(sample)

    def micro_batches(self, samples: Sequence[Sample], budget: int) -> list[list[int]]:
        return self.policy.micro_batches(samples, budget)

    def save(self, directory: Path) -> None:
        """See `Policy`: the trained part saves its weights."""
        self.policy.save(directory)

    def load_weights(self, directory: Path) -> None:
        self.policy.load_weights(directory)

    def describe(self) -> dict[str, Any]:
        return {"agent": self.name, "trained": self.policy.describe()}
