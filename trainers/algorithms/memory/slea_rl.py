"""SLEA-RL: step-level experience. What was good and bad at observations like this one is shown, and credited.

Source: SLEA-RL, arXiv 2603.18079, known from a third-party summary. Observations of similarity above 0.85 are one cluster c:

    A^E(τ_i)  = (R(τ_i) − mean_G R) / (std_G R + 1e-6)              over the group
    A^S_t     = (R_t^(i) − mean_c R) / (std_c R + 1e-6)             R_t: discounted return; over the rounds of its cluster
    A_t       = A^E(τ_i) + 1.0 · A^S_t                              for every token of round t
    library   ← (observation, act, A^S_t)                           strategies if A^S_t > 0, warnings if A^S_t < 0
    prompt_t  = observation_t + the two best strategies and the worst warning of its cluster

The advantages are GiGPO's with similarity = 0.85, and the loss is, too. The library is the memory `experience` of the agent
`memory` (searchgym/agents/memory/experience.py, with its departures), which shows it and saves it with the weights. With an agent
that has no such memory the credit alone remains; agents that do not read texts, such as the candidate policy, train this way.

Departures:
1. [OURS] Clusters for credit are inside a question's group, as in GiGPO; the library's are not.
2. [OURS] γ = 0.95, the dual clip of 3 and the mean over tokens are GiGPO's.
3. [OURS] The library is updated once per iteration, with what is learned from (`prepare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchgym.agents.memory.experience import Experience
from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv

from ...components.state_matching import anchor_states
from ...config import option
from ...core.algorithm import TrainContext
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.tasks import TaskSampler
from ..gigpo import GiGPO, GiGPOSettings, state_advantages
from .remembered import find_memory

__all__ = ["SLEARL", "SLEARLSettings"]


@dataclass(frozen=True)
class SLEARLSettings(GiGPOSettings):
    """Settings of `SLEARL`; those of GiGPO first."""

    similarity: float = option(
        0.85, "observations with at least this difflib ratio are one cluster", low=0.0, high=1.0
    )


class SLEARL(GiGPO):
    """GiGPO over clusters, with a library of experience; see the head of this file."""

    settings_class = SLEARLSettings
    settings: SLEARLSettings

    def changes_memory(self, policy: Policy) -> bool:
        return find_memory(policy, Experience) is not None

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self._library = find_memory(context.policy, Experience)

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        if self._library is not None:
            self._library.advance()
        return super().collect(policy, envs, tasks)

    def prepare(self, policy: Policy, groups: Groups) -> None:
        super().prepare(policy, groups)
        if self._library is None or not len(groups):
            return
        scaled = self.settings.advantage == "grpo"
        state_R = anchor_states(groups, self.settings.similarity)
        step_R = state_advantages(self._returns(groups), state_R, scaled=scaled)
        ends = np.cumsum([len(episode.rounds) for episode in groups.episodes])
        for episode, scores in zip(groups.episodes, np.split(step_R, ends[:-1]), strict=True):
            self._library.observe(episode, scores.tolist())

    def credit(self, groups: Groups) -> Credit:
        credit = super().credit(groups)
        if self._library is not None:
            held = self._library.to_json()
            credit.metrics.update(
                strategies=float(len(held["strategies"])), warnings=float(len(held["warnings"]))
            )
        return credit
