"""Open a planner agent, as a policy where one of its parts can be trained."""

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
    """A `PlannerAgent`; one that trainers can train where a part is a policy.

    Args:
        planner, answerer, evidence, draft, tell_budget: see `PlannerAgent`.
        train: "planner" or "answerer": which of two policies learns. Where only one part is a policy, or one policy plays
            both, it is that one.

    Raises:
        ConfigError: a part or an option that cannot be used.
    """
    agent = PlannerAgent(planner, answerer, evidence, draft, tell_budget)
    trainable = [part for part in agent.parts if hasattr(part, "evaluate_tokens")]
    if train is None and len(trainable) != 1:
        return agent
    from .policy import PlannerPolicy  # needs torch, which a policy has loaded already

    return PlannerPolicy(agent, train)
