"""GiGPO: group-in-group policy optimization. Rounds that start in the same state are compared with each other, too.

Source: Feng et al., arXiv 2505.10978 (NeurIPS 2025), and its code, langfengQ/verl-agent, read in a fork (xlan156 at
8ca3a46). For a question the policy plays episodes τ_i with rewards R(τ_i); round t of episode i starts in state s_t^(i)
and pays r_t^(i):

    A^E(τ_i)  = (R(τ_i) − mean_G R) / F_norm                              over the group, as in GRPO
    R_t^(i)   = Σ_{k≥t} γ^{k−t} r_k^(i)                                   discounted return of round t
    G^S(s)    = { R_t^(i) : s_t^(i) = s }                                 anchor group: one question, one state
    A^S_t     = (R_t^(i) − mean_{G^S(s)} R) / F_norm                      0 if only one round starts in s
    A_t       = A^E(τ_i) + ω A^S_t                                        for every token of round t

F_norm is the standard deviation + 1e-6 (advantage=grpo, "mean_std_norm", as the released search script sets it) or
1 (advantage=dr-grpo, "mean_norm"), for both parts. Then the clipped surrogate, with verl's dual clip of 3 and the mean
over tokens.

The state is the newest observation alone, without history: first the question, later the search results. So all first
rounds of a question share a state, and so do rounds that saw the same passages, whatever the query was. With
similarity=θ below 1, observations of a question whose difflib ratio is at least θ are one state too.

Both layouts of an episode work: rounds concatenated in one context, or one training sequence per round with a
context rebuilt from the last few rounds, which is the original. The agent decides (option `history` of the tiny
agent; the candidate policy rebuilds its input in every round), and sequence=segment makes minibatches and means over
sequences count rounds instead of episodes.

Departures from the paper and its code:
1. Mean and std of A^E count every episode once, as in the paper. The released code lets an episode count once per
   round, so that long ones weigh more; `statistics=rounds` does the same.
2. Observations are sorted before they are clustered. The released code clusters in order of arrival, so that
   shuffling a group changes its credit. The rule is otherwise the same: the first cluster with a similar representative.
3. difflib's heuristic for long texts is off: above 200 characters it ignores frequent letters, so that a change in the
   first characters makes otherwise equal texts dissimilar.
4. The environment pays the penalty for invalid acts: reward={"em": 1, "invalid": -0.01}. The released code
   subtracts it inside the trainer.
5. A group whose returns are all equal is skipped and counted (`skip_equal`). Equal rewards alone are not sufficient: with
   γ < 1 the shorter of two successes has the larger return.
6. A group of one by choice has mean 0 and std 1 in A^E, as in the code; a state that occurs once has A^S = 0.
7. The control `permute_rewards` pays the permuted reward in the last round; rewards of rounds would still tell
   episodes apart.
8. No KL term by default; the released search script has kl_coef=0.001 with k3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.memory.clusters import cluster_texts
from searchgym.records.episode import Episode

from ..components.state_matching import anchor_states
from ..config import option
from ..core.credit import Credit
from ..core.groups import Groups
from ..core.objective import Aggregation, discounted_sums, group_advantages
from .grpo import GRPO, GRPOSettings

__all__ = ["GiGPO", "GiGPOSettings", "anchor_states", "cluster_texts", "state_advantages"]


@dataclass(frozen=True)
class GiGPOSettings(GRPOSettings):
    """Settings of `GiGPO`; those of GRPO first."""

    aggregation: Aggregation = option("token-mean", "how token losses become one loss")
    advantage: Literal["grpo", "dr-grpo"] = option(
        "grpo", "F_norm of both parts: grpo divides by the standard deviation, dr-grpo does not"
    )
    dual_clip: float = option(3.0, "cap the loss of tokens with A < 0 at -A * dual_clip; 0: no cap", low=0.0)
    omega: float = option(1.0, "weight of the comparison inside states; 0: GRPO", low=0.0)
    gamma: float = option(0.95, "discount of returns, per round", low=0.0, high=1.0)
    similarity: float = option(
        1.0,
        "observations with at least this difflib ratio are one state; 1: equal ones only",
        low=0.0,
        high=1.0,
    )
    statistics: Literal["episodes", "rounds"] = option(
        "episodes", "the group's mean and std count every episode once, or once per round (as released)"
    )


class GiGPO(GRPO):
    """Group-in-group policy optimization; see the head of this file."""

    settings_class = GiGPOSettings
    settings: GiGPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()  # also with omega > 0: states are compared across the episodes of a group

    @property
    def group_relative(self) -> bool:
        return self.settings.omega == 0.0  # equal rewards may come after different numbers of rounds

    def select(self, groups: Groups) -> list[bool]:
        if not self.settings.skip_equal or self.settings.omega == 0.0:
            return super().select(groups)
        returns_R, ends = self._returns(groups), np.cumsum([sum(len(e.rounds) for e in g) for g in groups])
        parts = np.split(returns_R, ends[:-1]) if len(groups) else []
        unequal = super().select(groups)
        return [kept or bool(part.min() < part.max()) for kept, part in zip(unequal, parts, strict=True)]

    def advantages(self, groups: Groups) -> list[NDArray[np.float64]]:
        """A^E of each episode, one array per group."""
        if self.settings.statistics == "episodes":
            return super().advantages(groups)
        scaled = self.settings.advantage == "grpo"
        return [_over_rounds(r_G, group, scaled) for r_G, group in zip(groups.rewards, groups, strict=True)]

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        if not len(groups):
            return Credit.per_round([])
        state_R = anchor_states(groups, s.similarity)
        step_R = state_advantages(self._returns(groups), state_R, scaled=s.advantage == "grpo")
        advantages_E = np.concatenate(self.advantages(groups))
        size_S = np.bincount(state_R)
        metrics = {
            "state_size": float(size_S.mean()),
            "shared_states": float((size_S[state_R] > 1).mean()),
            "state_credit": float((step_R != 0.0).mean()),
        }
        return Credit.flat("round", advantages_E[groups.episode_R] + s.omega * step_R, groups, metrics)

    def _returns(self, groups: Groups) -> NDArray[np.float64]:
        """R_t of all rounds, in order."""
        paid_R = groups.round_rewards(at_end=self.settings.permute_rewards)
        return discounted_sums(paid_R, groups.episode_R, self.settings.gamma)


def state_advantages(
    returns_R: NDArray[np.float64], state_R: NDArray[np.int64], scaled: bool, eps: float = 1e-6
) -> NDArray[np.float64]:
    """A^S: each return compared with the others of its state; exact zeros if they are equal or there is only one.

    Args:
        returns_R: R_t of each round.
        state_R: the state of each round; numbers from 0.
        scaled: divide by the unbiased standard deviation + eps.
        eps: added to the standard deviation.
    """
    count_S = np.bincount(state_R)
    low_S, high_S = np.full(len(count_S), np.inf), np.full(len(count_S), -np.inf)
    np.minimum.at(low_S, state_R, returns_R)
    np.maximum.at(high_S, state_R, returns_R)
    centred_R: NDArray[np.float64] = (
        returns_R - (np.bincount(state_R, returns_R) / count_S.clip(min=1))[state_R]
    )
    centred_R[(low_S == high_S)[state_R]] = 0.0
    if scaled:
        std_S = np.sqrt(np.bincount(state_R, centred_R**2) / (count_S - 1).clip(min=1))
        centred_R /= std_S[state_R] + eps
    return centred_R


def _over_rounds(r_G: NDArray[np.float64], group: Sequence[Episode], scaled: bool) -> NDArray[np.float64]:
    """A^E with mean and std over the rounds of all episodes, each having its episode's reward."""
    if len(r_G) == 1 or r_G.min() == r_G.max():
        return group_advantages(r_G, "grpo" if scaled else "dr-grpo")
    r_R = np.repeat(r_G, [len(episode.rounds) for episode in group])
    centred_G: NDArray[np.float64] = r_G - r_R.mean()
    return centred_G / (r_R.std(ddof=1) + 1e-6) if scaled else centred_G
