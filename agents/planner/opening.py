"""Opens a planner agent, as a policy if one of its parts can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchgym.agent import Agent
from searchgym.rollouts.collection import AgentLike

from .agent import PlannerAgent

__all__ = ["open_planner"]


def open_planner(
    planner: AgentLike,
    answerer: AgentLike | None = None,
    evidence: Mapping[str, Any] | None = None,
    draft: bool = False,
    tell_budget: bool = False,
    train: str | None = None,
) -> Agent:
    """A `PlannerAgent`, or a `PlannerPolicy` if one of its parts is a policy.

    Args:
        planner: see `PlannerAgent`.
        answerer: see `PlannerAgent`.
        evidence: see `PlannerAgent`.
        draft: see `PlannerAgent`.
        tell_budget: see `PlannerAgent`.
        train: "planner" or "answerer": the one of two policies that learns. None: the only part that is a policy.

    Raises:
        ConfigError: a part or an option that cannot be used.
    """
    agent = PlannerAgent(planner, answerer, evidence, draft, tell_budget)
    trainable = [part for part in agent.parts if hasattr(part, "evaluate_tokens")]
    if train is None and len(trainable) != 1:
        return agent
    from .policy import PlannerPolicy  # needs torch, which a policy has loaded already

    return PlannerPolicy(agent, train)
