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
    """A planner that searches and an answerer that writes the answer; trainable if a part is.

    Args:
        planner: chooses the searches: an agent, a registered name, or {"name": …, **options}.
        answerer: writes the answer from the evidence, in a context of its own; None: the planner itself.
        evidence: options of `EvidenceOptions`.
        draft: show the answerer the planner's own answer as a draft (only where the evidence is a message).
        tell_budget: add a line with the remaining searches and rounds to each observation of the planner.
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
