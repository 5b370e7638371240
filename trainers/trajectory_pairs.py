"""Preferences between whole episodes of one question, as DPO learns them, spread over single tokens.

With log-ratios Λ_i = Σ over the sampled tokens of episode i of log π − log π_ref, pairs (w ≻ l) of weight ω:

    h = β (Λ_w − Λ_l)              L = − Σ ω log σ(h) / Σ ω

Its gradient is Σ_i c_i Σ_tokens ∇ log π with c_i = −β/Σω · (Σ_{i wins} ω σ(−h) − Σ_{i loses} ω σ(−h)). So with c_i computed before an
update, Σ c_i log π is a loss of single tokens whose gradient is DPO's, and which a minibatch may divide in any way.

Source: direct preference optimization, arXiv 2305.18290.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .groups import Groups

__all__ = ["Pairs", "dpo_coefficients", "pairs_by_score"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Preferences between episodes, counted over all groups.

    Attributes:
        winner_P: the better episode.
        loser_P: the worse one.
        weight_P: ω, positive.
    """

    winner_P: NDArray[np.int64]
    loser_P: NDArray[np.int64]
    weight_P: NDArray[np.float64]


def pairs_by_score(groups: Groups, scores_E: NDArray[np.float64], weighted: bool = False) -> Pairs:
    """All pairs of episodes of one group with different scores, the one with the higher score first.

    Args:
        groups: the episodes.
        scores_E: their scores; an episode with NaN is compared with none.
        weighted: ω is the difference of the scores; otherwise it is 1.
    """
    group_E = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    better_EE = (group_E[:, None] == group_E) & (scores_E[:, None] > scores_E)
    winner_P, loser_P = np.nonzero(better_EE)
    gap_P = scores_E[winner_P] - scores_E[loser_P]
    return Pairs(winner_P, loser_P, gap_P if weighted else np.ones(len(winner_P)))


def dpo_coefficients(
    log_ratio_E: NDArray[np.float64], pairs: Pairs, beta: float
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """c of each episode, and the loss and the share of pairs that are ranked right.

    Args:
        log_ratio_E: Λ.
        pairs: the preferences.
        beta: β.

    Returns:
        c, [E] (zeros without pairs), and {"dpo_loss", "dpo_accuracy", "pairs"}; without pairs only the last.
    """
    coefficient_E = np.zeros(len(log_ratio_E))
    if not len(pairs.winner_P):
        return coefficient_E, {"pairs": 0.0}
    h_P = beta * (log_ratio_E[pairs.winner_P] - log_ratio_E[pairs.loser_P])
    total = pairs.weight_P.sum()
    doubt_P = pairs.weight_P * np.exp(-np.logaddexp(0.0, h_P)) * beta / total  # ω σ(−h) β / Σω
    np.add.at(coefficient_E, pairs.winner_P, -doubt_P)
    np.add.at(coefficient_E, pairs.loser_P, doubt_P)
    loss = float((pairs.weight_P * np.logaddexp(0.0, -h_P)).sum() / total)
    right = float((pairs.weight_P * ((h_P > 0.0) + 0.5 * (h_P == 0.0))).sum() / total)
    return coefficient_E, {"dpo_loss": loss, "dpo_accuracy": right, "pairs": float(len(h_P))}
