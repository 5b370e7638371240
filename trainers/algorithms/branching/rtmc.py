"""RTMC: rollout-tree Monte Carlo. Episodes of a question that pass through the same states form a tree; no critic.

Source: Wang et al., arXiv 2604.11037 (abstract). States and acts are compared by signatures, which compress what happened before
to what can be compared. With R_t the return from round t on, γ its discount, n(s) the episodes of the group that come by
state s, and n(s, a) those that first choose a there:

    Q̂(s, a) = 1/n(s, a) Σ R_t                                  over the first visits of the episodes with (s, a)
    V̂(s)    = (Σ_{first visits of s} R_t + κ V̂(s_0)) / (n(s) + κ)        V̂(s_0) = the mean return of the group
    A_t     = Q̂(s_t, a_t) − V̂(s_t)                              for every token of round t

divided by the standard deviation of the group's returns + 1e-6 (advantage=grpo) or not (dr-grpo). Then the clipped surrogate.
GiGPO compares a round with the others of its state, too, but gives each the return of its own episode; here the returns of all
episodes that took the same act there are averaged.

Departures from the paper, whose formulas were not available to us (a third-party note says: first-visit Monte Carlo, Bayesian
smoothing with a prior, signatures written by hand):
1. [OURS] The smoothing: V̂ is pulled towards the value of the question with the weight of κ episodes. Without it a state
   that one episode visits has Q̂ = V̂ and no credit. κ → ∞ compares every act with the question's mean, as GRPO does.
2. [OURS] The signatures. Of a state: the passages that the searches so far have returned, whatever their order
   (state=passages), the newest observation (state=observation, GiGPO's anchor), or the sequence of acts (state=acts).
   Of an act: its kind and its words in lower case, without thoughts.
3. [OURS] A repeated visit of a state has the Q̂ and V̂ of the state; its own return does not enter them.
4. γ = 1 by default.
5. A group whose returns are all equal is skipped and counted (`skip_equal`).
6. The control `permute_rewards` pays the permuted reward in the last round.
7. β = 0 by default.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.records.episode import Episode

from ...components.state_matching import act_signature, anchor_states, found_passages, number_states
from ...config import option
from ...core.credit import Credit
from ...core.groups import Groups
from ...core.objective import discounted_sums
from ..grpo import GRPO, GRPOSettings

__all__ = ["RTMC", "RTMCSettings", "tree_values"]


@dataclass(frozen=True)
class RTMCSettings(GRPOSettings):
    """Settings of `RTMC`; those of GRPO first."""

    advantage: Literal["grpo", "dr-grpo"] = option(
        "grpo", "grpo divides by the standard deviation of the group's returns, dr-grpo does not"
    )
    state: Literal["passages", "observation", "acts"] = option(
        "passages", "what makes two states one: the passages found so far, the newest observation, the acts"
    )
    gamma: float = option(1.0, "discount of returns, per round", low=0.0, high=1.0)
    prior: float = option(
        1.0, "kappa: weight of the question's value in that of a state, in episodes", low=0.0
    )


class RTMC(GRPO):
    """Rollout-tree Monte Carlo; see the head of this file."""

    settings_class = RTMCSettings
    settings: RTMCSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()

    @property
    def group_relative(self) -> bool:
        return self.settings.gamma == 1.0  # otherwise the shorter of two successes has the larger return

    def select(self, groups: Groups) -> list[bool]:
        if not self.settings.skip_equal or not len(groups):
            return [True] * len(groups)
        spread_G = _spread(self._returns(groups), groups)[1]
        return [bool(spread > 0.0) for spread in spread_G]

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        if not len(groups):
            return Credit.per_round([])
        returns_R = self._returns(groups)
        state_R = self._states(groups)
        pair_R = _pairs(groups, state_R)
        mean_G, spread_G = _spread(returns_R, groups)
        group_R = np.repeat(
            np.arange(len(groups)), [sum(len(episode.rounds) for episode in group) for group in groups]
        )
        q_R, v_R = tree_values(returns_R, state_R, pair_R, groups.episode_R, mean_G[group_R], s.prior)
        values_R = q_R - v_R
        values_R[spread_G[group_R] == 0.0] = 0.0  # exact zeros where all returns are equal
        if s.advantage == "grpo":
            values_R /= (spread_G + 1e-6)[group_R]
        episodes_S = np.bincount(state_R[_first_visits(state_R, groups.episode_R)])
        metrics = {"shared_states": float((episodes_S[state_R] > 1).mean())}
        return Credit.flat("round", values_R, groups, metrics)

    def _returns(self, groups: Groups) -> NDArray[np.float64]:
        paid_R = groups.round_rewards(at_end=self.settings.permute_rewards)
        return discounted_sums(paid_R, groups.episode_R, self.settings.gamma)

    def _states(self, groups: Groups) -> NDArray[np.int64]:
        if self.settings.state == "observation":
            return anchor_states(groups)
        return number_states(groups, found_passages if self.settings.state == "passages" else _acts_before)


def tree_values(
    returns_R: NDArray[np.float64],
    state_R: NDArray[np.int64],
    pair_R: NDArray[np.int64],
    episode_R: NDArray[np.int64],
    prior_R: NDArray[np.float64],
    weight: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Q̂ and V̂ of each round, [R].

    Args:
        returns_R: the return from each round on.
        state_R: the state it starts in; numbers from 0.
        pair_R: the state and the act; numbers from 0.
        episode_R: its episode.
        prior_R: the value that V̂ is pulled towards.
        weight: κ, the weight of the prior in episodes.
    """
    first_s, first_p = (_first_visits(key_R, episode_R) for key_R in (state_R, pair_R))
    count_S = np.bincount(state_R[first_s], minlength=state_R.max() + 1)
    total_S = np.bincount(state_R[first_s], returns_R[first_s], minlength=state_R.max() + 1)
    v_R = (total_S[state_R] + weight * prior_R) / (count_S[state_R] + weight)
    count_P = np.bincount(pair_R[first_p], minlength=pair_R.max() + 1)
    total_P = np.bincount(pair_R[first_p], returns_R[first_p], minlength=pair_R.max() + 1)
    q_R: NDArray[np.float64] = total_P[pair_R] / count_P[pair_R]
    return q_R, v_R


def _first_visits(key_R: NDArray[np.int64], episode_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the rounds at which an episode comes by a state, or a state and act, for the first time."""
    found: NDArray[np.int64] = np.unique(key_R * (episode_R.max() + 1) + episode_R, return_index=True)[1]
    return found


def _acts_before(episode: Episode) -> Sequence[Hashable]:
    return list(accumulate(((act_signature(r),) for r in episode.rounds[:-1]), initial=()))


def _pairs(groups: Groups, state_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each round's state and act together."""
    numbers: dict[tuple[int, Hashable], int] = {}
    acts = (act_signature(record) for episode in groups.episodes for record in episode.rounds)
    pairs = zip(state_R.tolist(), acts, strict=True)
    return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], dtype=np.int64)


def _spread(
    returns_R: NDArray[np.float64], groups: Groups
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and unbiased standard deviation of the returns of whole episodes, per group; exactly 0 if all are equal."""
    first_E = np.cumsum(groups.round_counts_E) - groups.round_counts_E
    whole = np.split(returns_R[first_E], np.cumsum([len(group) for group in groups])[:-1])
    mean_G = np.array([part.mean() for part in whole])
    spread_G = np.array([part.std(ddof=1) if part.min() < part.max() else 0.0 for part in whole])
    return mean_G, spread_G
