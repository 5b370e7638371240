"""IGPO: information-gain policy optimization. A round is paid the change of the policy's probability of the gold answer.

Source: arXiv 2510.14967 and its code, GuoqingWang1/IGPO at bff163b. Before round t of episode i the gold answer a = a_1..a_L
is forced behind the context s_t and a fixed phrase, without gradient. The episode has T rounds:

    v_t = exp( 1/L Σ_l log π_θ(a_l | s_t, phrase, a_<l) )              probability of the gold answer before round t
    r_t = v_{t+1} − v_t        for t < T                               what the round found out
    r_T = F1 of the answer
    R_t = Σ_{k≥t} γ^{k−t} r_k,     γ = 1
    A_t = R_t − mean of R_t over the group's rounds with the same number t     for every token of round t

Then GRPO's clipped surrogate. With γ = 1 the gains of an episode add up to v_T − v_t: a round is paid for how much more
likely the answer is at the end than before it.

Departures from the paper and its code:
1. [OURS] The normalisation: the paper's is not known to us. The released function subtracts the group's mean at the same
   *token position*, so a token is compared with tokens of other rounds wherever lengths differ. compare=token does that;
   compare=round (default) compares rounds of the same number; compare=group all rounds of the group. No standard deviation,
   as in the function that the code uses; advantage=grpo divides by it (the code has such a variant, too).
2. The running return of the code is multiplied by the mask that it is given, so that with a loss mask credit would stop at
   retrieved tokens. Here it does not.
3. [OURS] Without a phrase (`phrase`): the words are the code's own; give yours. A language model then writes its act of
   answering at once.
4. The gold answer is the question's first. For the candidate policy, v_t is exact: the probability, given that it answers,
   that its answer is one of the gold answers. forced=false takes the probability that the next act is that answer.
5. outcome=f1 (default) pays F1 in the last round and nothing else, whatever the environment's reward is; outcome=reward pays
   the environment's rewards. The code's −2 for broken tags is left to the environment (a reward term).
6. Groups of equal outcomes are kept (skip_equal=false): their gains differ.
7. A round that cannot be probed (no tokens, no room) counts as one that changed nothing.
8. Sizes are the kit's; the released runs have 16 episodes per question, 32 questions and a learning rate of 1e-6.
9. The control `permute_rewards` permutes the outcomes. The gains stay, and they know the answer: the control learns, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy

from ...components.answer_probes import change_after, check_prober, followed, probe_rounds, read_probes
from ...config import option
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.objective import discounted_sums
from ..gigpo import state_advantages
from ..grpo import GRPO, GRPOSettings

__all__ = ["IGPO", "IGPOSettings"]


@dataclass(frozen=True)
class IGPOSettings(GRPOSettings):
    """Settings of `IGPO`; those of GRPO first."""

    advantage: Literal["grpo", "dr-grpo"] = option(
        "dr-grpo", "dr-grpo subtracts the mean (as released), grpo also divides by the standard deviation"
    )
    skip_equal: bool = option(False, "skip groups whose rewards are all equal")
    outcome: Literal["f1", "reward"] = option(
        "f1", "the last round is paid the answer's F1, or rounds are paid what the environment pays"
    )
    compare: Literal["round", "token", "group"] = option(
        "round", "a return is compared with those of the group at the same round, token position, or with all"
    )
    gamma: float = option(1.0, "discount of returns, per round", low=0.0, high=1.0)
    phrase: str = option("", "thought that the policy is made to think before the forced answer")
    forced: bool = option(
        True, "probability of the gold answer given that the policy answers; false: of answering with it now"
    )


class IGPO(GRPO):
    """Information-gain policy optimization; see the head of this file."""

    settings_class = IGPOSettings
    settings: IGPOSettings

    @property
    def told(self) -> str:
        return "the gold answer"

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()

    @property
    def group_relative(self) -> bool:
        return False  # rounds are paid for what they found out, also where all outcomes are equal

    def check_policy(self, policy: Policy) -> None:
        check_prober(policy, "igpo")

    def rewards(self, group: Group) -> NDArray[np.float64]:
        r_G = super().rewards(group)
        if self.settings.outcome == "f1":
            r_G += [episode.outcome.f1 - episode.reward for episode in group]
        return r_G

    def prepare(self, policy: Policy, groups: Groups) -> None:
        super().prepare(policy, groups)
        s = self.settings
        self._tokens = probe_rounds(
            policy, groups, self.context.token_budget, forced=s.forced, thought=s.phrase
        )

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        values_R, episode_R = read_probes(groups).probability_R, groups.episode_R
        gains_R = change_after(values_R, episode_R)
        paid_R = groups.round_rewards(at_end=s.outcome == "f1" or s.permute_rewards)
        returns = discounted_sums(paid_R + gains_R, episode_R, s.gamma)
        owner = episode_R
        unit: Literal["round", "token"] = "round"
        if s.compare == "token":
            returns, owner, unit = returns[groups.round_of_token_N], groups.tokens.episode_N, "token"
        group_E = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        number = _place(owner) if s.compare != "group" else np.zeros(len(owner), dtype=np.int64)
        _, state = np.unique(group_E[owner] * (number.max(initial=0) + 1) + number, return_inverse=True)
        inner_R = followed(episode_R)
        metrics = {
            "gain": float(gains_R[inner_R].mean()) if inner_R.any() else 0.0,
            "gold_probability": float(values_R.mean()),
            "probe_tokens": float(self._tokens),
        }
        advantages = state_advantages(returns, state, scaled=s.advantage == "grpo")
        return Credit.flat(unit, advantages, groups, metrics)


def _place(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each entry among those of its owner, from 0; `owner` is non-decreasing."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)
