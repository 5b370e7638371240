"""VinePPO: the value of a round's state is the mean return of continuations that the policy plays from it. No critic.

Source: Kazemnejad et al., arXiv 2410.01679 (abstract and figures). SPO (segment policy optimization, Guo et al., arXiv
2505.23564) estimates the values of segments in the same way; a round is the segment here. For round t of an episode,
which starts in state s_t and pays r_t, K continuations η_k are played from s_t to the end:

    V̂(s_t) = 1/K Σ_k G(η_k),    η_k ~ π(· | s_t)            V̂ = 0 after the last round
    A_t     = r_t + V̂(s_{t+1}) − V̂(s_t)                      for every token of round t

Then the clipped surrogate. The continuations only estimate values: they are not learned from. They count in every budget of
tokens (`lookahead_tokens`).

Departures from the papers:
1. [OURS] A step is a round: thought, act and observation. VinePPO's steps are those of a mathematical solution; SPO cuts
   segments where the policy is unsure, and masks tokens of high probability, which is left out.
2. [OURS] Episodes of a question that reach a state by the same acts share its continuations, also those of the question
   itself. SPO's tree does something similar; VinePPO continues every state on its own.
3. K is 3 by default, because rounds are few and continuations dear; VinePPO uses 9.
4. The advantage is not normalized, and γ = 1. The group is not compared: groups of one are allowed.
5. [OURS] An episode whose values are not known (it was not collected by this trainer, or all continuations of a state
   failed) keeps GRPO's advantage and is counted (`unvalued`).
6. [OURS] A group is skipped if every advantage is 0 (`skip_equal`); equal rewards alone are not sufficient.
7. The control `permute_rewards` permutes the returns of a group's continuations, too, and pays rewards in the last round.
8. β = 0 by default, as in grpo.py; the papers use a KL term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv

from ...components.step_values import continuation_values, or_outcome, stored_values
from ...config import option
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.rollouts import check_can_branch
from ..grpo import GRPO, GRPOSettings

__all__ = ["VinePPO", "VinePPOSettings", "value_differences"]

VALUES = "step_values"
"""The key of `Episode.extra` that holds V̂ of the state before each round."""


@dataclass(frozen=True)
class VinePPOSettings(GRPOSettings):
    """Settings of `VinePPO`; those of GRPO first."""

    continuations: int = option(3, "K: continuations of every state", low=1)


class VinePPO(GRPO):
    """Monte Carlo step values; see the head of this file."""

    settings_class = VinePPOSettings
    settings: VinePPOSettings

    @property
    def group_relative(self) -> bool:
        return False

    def check_policy(self, policy: Policy) -> None:
        check_can_branch(policy)

    def play(self, policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str]) -> list[Group]:
        groups = super().play(policy, envs, task_ids)
        s, context = self.settings, self.context
        values = continuation_values(
            context.play, policy, envs, groups, s.continuations, context.rng, s.permute_rewards
        )
        for group, found in zip(groups, values, strict=True):
            for episode, values_R in zip(group, found, strict=True):
                if np.isfinite(values_R).all():
                    episode.extra[VALUES] = values_R.tolist()
        return groups

    def select(self, groups: Groups) -> list[bool]:
        if not self.settings.skip_equal:
            return [True] * len(groups)
        differences = zip(groups.episodes, self._differences(groups), strict=True)
        moved = {id(episode): a_R is not None and bool(a_R.any()) for episode, a_R in differences}
        return [
            kept or any(moved[id(episode)] for episode in group)
            for kept, group in zip(super().select(groups), groups, strict=True)
        ]

    def credit(self, groups: Groups) -> Credit:
        values_R, unvalued = or_outcome(self._differences(groups), self.advantages(groups), groups)
        return Credit.flat("round", values_R, groups, {"unvalued": float(unvalued)})

    def _differences(self, groups: Groups) -> list[NDArray[np.float64] | None]:
        return value_differences(groups, self.settings.permute_rewards)


def value_differences(groups: Groups, at_end: bool = False) -> list[NDArray[np.float64] | None]:
    """r_t + V̂(s_{t+1}) − V̂(s_t) of each round, one array per episode; None where the values are not known.

    Args:
        groups: the episodes, with their values in `extra`.
        at_end: see `Groups.round_rewards`.
    """
    paid = np.split(groups.round_rewards(at_end), np.cumsum(groups.round_counts_E)[:-1])
    known = [stored_values(episode, VALUES) for episode in groups.episodes]
    return [
        None if values is None else paid_R + np.diff([*values, 0.0])
        for values, paid_R in zip(known, paid, strict=False)
    ]
