"""DPO on episodes: of two episodes of one question, the one with more reward is made more likely than the other.

Source: Rafailov et al., Direct Preference Optimization, arXiv 2305.18290; on whole trajectories of the current policy with
success and failure as preference, as OPRL (iStar, arXiv 2509.19199) trains its implicit reward model. In a group of episodes
τ_i with rewards R_i, every pair with R_i > R_j is one preference:

    h_ij = β [ log π_θ(τ_i)/π_ref(τ_i) − log π_θ(τ_j)/π_ref(τ_j) ]
    L    = mean over questions of  mean over the question's pairs of  −log σ(h_ij)

log π(τ) is the sum over the tokens that the agent wrote; retrieved passages do not count. π_ref is the policy at the start of
the run.

Departures from the papers:
1. The first paper's pairs are given and come from another policy. Here each iteration plays `questions` × `group_size` episodes
   with the current policy and learns from them once (online DPO).
2. [OURS] Every question weighs the same, however many pairs it has. weight=gap weights a pair by R_i − R_j (weighted DPO).
3. [OURS] Pairs whose rewards differ by at most `min_gap` are left out; by default only equal ones.
4. The gradient is exact at every optimizer step; see pairwise.py.
5. Groups without a pair are skipped and counted; so are groups that failures leave with one episode.
6. Log-probabilities are of the tempered distribution (`temperature`), as everywhere in this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...components.preference import Pairs
from ...config import option
from ...core.algorithm import AlgorithmConfig
from ...core.groups import Groups
from .pairwise import PairwiseAlgorithm, PairwiseSettings

__all__ = ["DPO", "DPOSettings"]


@dataclass(frozen=True)
class DPOSettings(PairwiseSettings):
    """Settings of `DPO`; the inherited ones first."""

    min_gap: float = option(0.0, "pairs whose rewards differ by more than this are preferences", low=0.0)
    weight: Literal["equal", "gap"] = option(
        "equal", "weight of a pair: equal ones, or the difference of rewards"
    )


class DPO(PairwiseAlgorithm):
    """Direct preference optimization on episodes; see the head of this file."""

    settings_class: ClassVar[type[AlgorithmConfig]] = DPOSettings
    settings: DPOSettings

    @property
    def group_relative(self) -> bool:
        return True

    def select(self, groups: Groups) -> list[bool]:
        return [bool(r_G.max() - r_G.min() > self.settings.min_gap) for r_G in groups.rewards]

    def sides(self, groups: Groups) -> tuple[NDArray[np.int64], Pairs]:
        acted_E = np.bincount(groups.tokens.episode_N, minlength=len(groups.episodes)) > 0
        chosen: list[int] = []
        rejected: list[int] = []
        weights: list[float] = []
        first = 0
        for r_G in groups.rewards:
            gap_GG = r_G[:, None] - r_G[None, :]
            acted_G = acted_E[first : first + len(r_G)]
            better, worse = np.nonzero((gap_GG > self.settings.min_gap) & acted_G[:, None] & acted_G[None, :])
            share = gap_GG[better, worse] if self.settings.weight == "gap" else np.ones(len(better))
            chosen += (first + better).tolist()
            rejected += (first + worse).tolist()
            weights += (share / share.sum()).tolist()
            first += len(r_G)
        pairs = Pairs(
            torch.tensor(chosen).long(),
            torch.tensor(rejected).long(),
            torch.tensor(weights, dtype=torch.float64),
        )
        return groups.tokens.episode_N.copy(), pairs
