"""The base class of agents that let another agent play and change what it reads or writes."""

from __future__ import annotations

from collections.abc import Sequence

from searchgym.agent import Agent, AgentContext
from searchgym.records.episode import Episode

__all__ = ["WrappingAgent"]


class WrappingAgent(Agent):
    """Forwards all of `Agent` except `act` and `act_some` to another agent.

    Subclasses implement `act`, and `act_some` if they can answer some of the observations before the others.

    Args:
        agent: plays.

    Attributes:
        agent: as given.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.name, self.needs_gold = agent.name, agent.needs_gold
        self.reads_text, self.reads_system_prompt = agent.reads_text, agent.reads_system_prompt

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

    def costs(self) -> dict[str, float]:
        return self.agent.costs()
