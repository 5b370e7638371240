"""One act of another agent after recorded rounds: what it would have done there, executed in the environment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.env.vector import SearchVectorEnv
from searchgym.episode import Episode, StopReason
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import Start

__all__ = ["play_one_act"]


class _OneAct(Agent):
    """Takes the first act of another agent in each episode, and then ends it."""

    def __init__(self, agent: Agent) -> None:
        self.name, self._agent = agent.name, agent
        self._acted: set[int] = set()

    def bind(self, agent_context: AgentContext) -> None:
        super().bind(agent_context)
        self._agent.bind(agent_context)

    def begin(self, slots: Sequence[int]) -> None:
        self._agent.begin(slots)
        self._acted.difference_update(slots)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        self._agent.resume(slot, prefix, fork_round)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        self._agent.fork(source, targets)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        waiting = [i for i, slot in enumerate(slots) if slot not in self._acted]
        acts: list[str | Turn] = [Turn("", stop=StopReason.TOKEN_BUDGET) for _ in slots]
        if waiting:
            columns = ([column[i] for i in waiting] for column in (slots, observations, infos))
            for i, act in zip(waiting, self._agent.act(*columns), strict=True):
                acts[i] = act if isinstance(act, str) else act.text
        self._acted.update(slots)
        return acts


def play_one_act(
    agent: Agent, envs: SearchVectorEnv, starts: Sequence[Start], rng: np.random.Generator
) -> list[Episode]:
    """Let an agent take one act at each start.

    Args:
        agent: must be able to continue episodes of others (`Agent.resume`). It may read gold data.
        envs: the environments in which the episodes were played.
        starts: where it acts.
        rng: draws episode ids.

    Returns:
        One branch per start, which holds the shared rounds, the act and, unless the act ended the episode, a last round
        without an act. They have no tokens of the act. Every process of a run plays all of them.
    """
    if not starts:
        return []
    if agent.needs_gold and not envs.config.reveal_gold:
        envs = SearchVectorEnv.from_config(replace(envs.config, reveal_gold=True), envs.num_envs)
    return collect(envs, _OneAct(agent), starts=starts, ids=random.Random(int(rng.integers(2**63))))
