"""One act of another agent after recorded rounds: what it would have done there, executed in the environment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchgym.agent import Agent, Turn
from searchgym.agents.policy import Policy
from searchgym.agents.wrapping import WrappingAgent
from searchgym.env.vector import SearchVectorEnv
from searchgym.records.episode import Episode, Segment, StopReason, segments_before
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import Start

__all__ = ["play_one_act", "written_act"]


class _OneAct(WrappingAgent):
    """Takes the first act of another agent in each episode, and then ends it."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._acted: set[int] = set()

    def begin(self, slots: Sequence[int]) -> None:
        super().begin(slots)
        self._acted.difference_update(slots)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        waiting = [i for i, slot in enumerate(slots) if slot not in self._acted]
        acts: list[str | Turn] = [Turn("", stop=StopReason.TOKEN_BUDGET) for _ in slots]
        if waiting:
            taken = self.agent.act(
                [slots[i] for i in waiting], [observations[i] for i in waiting], [infos[i] for i in waiting]
            )
            for i, act in zip(waiting, taken, strict=True):
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


def written_act(policy: Policy, taken: Episode, instead_of: Episode, index: int) -> Episode | None:
    """An episode of `play_one_act` in the policy's own tokens: those of the shared rounds as they were, and the act's.

    Args:
        policy: writes the act; bound to the environment.
        taken: the episode in which the act was taken.
        instead_of: the episode that it continues, played by the policy.
        index: the round of the act.

    Returns:
        None if the act is the one that it replaces, or the policy cannot write it.
    """
    if taken.rounds[index].action == instead_of.rounds[index].action:
        return None
    segments = segments_before(instead_of.segments, index)
    for encoded in policy.encode(replace(taken, rounds=taken.rounds[: index + 1], segments=[])):
        at = [i for i, round_ in enumerate(encoded.rounds) if round_ == index]
        if not any(encoded.mask[i] for i in at):
            continue
        if len(at) == len(encoded.rounds) or not segments:  # a context of its own
            segments.append(Segment())
        for name in ("tokens", "mask", "logprobs", "rounds"):
            column: list[Any] = getattr(segments[-1], name)
            column += [getattr(encoded, name)[i] for i in at]
        return replace(taken, agent=instead_of.agent, segments=segments)
    return None
