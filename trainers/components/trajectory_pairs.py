"""Preferences between whole episodes of one question, for methods that learn from them token by token (see `preference`)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.groups import Groups
from .preference import Pairs, dpo_coefficients, dpo_loss, dpo_margins

__all__ = ["pairs_by_score", "preference_slopes"]


def pairs_by_score(groups: Groups, scores_E: NDArray[np.float64], weighted: bool = False) -> Pairs:
    """All pairs of episodes of one group with different scores, the one with the higher score preferred.

    Args:
        groups: the episodes.
        scores_E: their scores; an episode with NaN is compared with none.
        weighted: the weight of a pair is the difference of its scores; otherwise it is 1.
    """
    group_E = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    better_EE = (group_E[:, None] == group_E) & (scores_E[:, None] > scores_E)
    chosen_P, rejected_P = np.nonzero(better_EE)
    gap_P = scores_E[chosen_P] - scores_E[rejected_P] if weighted else np.ones(len(chosen_P))
    return Pairs(torch.from_numpy(chosen_P), torch.from_numpy(rejected_P), torch.from_numpy(gap_P))


def preference_slopes(log_ratio_E: Tensor, pairs: Pairs, beta: float) -> tuple[Tensor, dict[str, float]]:
    """By how much DPO raises the log-probability of each episode's tokens, and what the log shows of the pairs.

    Args:
        log_ratio_E: the sum over an episode's sampled tokens of log π − log π_ref.
        pairs: the preferences.
        beta: β.

    Returns:
        −dL / d log π(episode), [E], zeros without pairs; and {"pairs", "dpo_loss", "dpo_accuracy"}, the weighted share of pairs that
        are ranked right. Without pairs only the first.
    """
    if not len(pairs):
        return torch.zeros_like(log_ratio_E), {"pairs": 0.0}
    zeros_E = torch.zeros_like(log_ratio_E)
    slope_E = dpo_coefficients(log_ratio_E, zeros_E, pairs, beta)
    h_P = dpo_margins(log_ratio_E, zeros_E, pairs, beta)
    right_P = (h_P > 0.0).double() + 0.5 * (h_P == 0.0).double()
    found = {
        "pairs": float(len(pairs)),
        "dpo_loss": float(dpo_loss(h_P, pairs.weight_P)),
        "dpo_accuracy": float((pairs.weight_P * right_P).sum() / pairs.weight_P.sum()),
    }
    return slope_E, found
