"""Losses over pairs of which one side is preferred: DPO and weighted DPO (arXiv 2305.18290). Pure functions.

A side is a set of sampled tokens whose log-probabilities are summed, e.g. an episode, a round, a query. With the frozen
reference π_ref and a weight w_p for each pair p of a preferred side y⁺ and another one y⁻:

    h_p = β [ log π(y⁺)/π_ref(y⁺) − log π(y⁻)/π_ref(y⁻) ]
    L   = Σ_p w_p · (−log σ(h_p)) / Σ_p w_p

A side may be in any number of pairs. Since L depends on the policy through the sums of the sides alone, its gradient is that of
−Σ_S a_S log π(side S) with the coefficients of `dpo_coefficients`, which are computed without gradients. So a long side may be
spread over any number of forward passes.

Axis suffixes: _P pairs, _S sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from searchgym.errors import TrainingError

__all__ = ["Pairs", "dpo_coefficients", "dpo_loss", "dpo_margins"]


@dataclass(frozen=True)
class Pairs:
    """Which sides are preferred to which.

    Attributes:
        chosen_P: number of the preferred side.
        rejected_P: number of the other side.
        weight_P: weight of the pair, positive.

    Raises:
        TrainingError: the three differ in length, a weight is not positive, or a side is paired with itself.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    weight_P: Tensor

    def __post_init__(self) -> None:
        if not len(self.chosen_P) == len(self.rejected_P) == len(self.weight_P):
            raise TrainingError(
                f"pairs have {len(self.chosen_P)} preferred sides, {len(self.rejected_P)} others and {len(self.weight_P)} "
                "weights: give one of each per pair"
            )
        if not bool((self.weight_P > 0).all()):
            raise TrainingError("a pair has a weight that is not positive: leave it out")
        if bool((self.chosen_P == self.rejected_P).any()):
            raise TrainingError("a side is preferred to itself: leave the pair out")

    def __len__(self) -> int:
        return len(self.chosen_P)


def dpo_margins(logprobs_S: Tensor, reference_S: Tensor, pairs: Pairs, beta: float) -> Tensor:
    """h of each pair; carries the gradients of `logprobs_S`.

    Args:
        logprobs_S: log π of each side, the sum over its tokens.
        reference_S: log π_ref of each side.
        pairs: the pairs.
        beta: β.
    """
    gap_S = logprobs_S - reference_S
    return beta * (gap_S[pairs.chosen_P] - gap_S[pairs.rejected_P])


def dpo_loss(margins_P: Tensor, weight_P: Tensor) -> Tensor:
    """L, a scalar; for pairs whose sides are evaluated together.

    Args:
        margins_P: h of each pair.
        weight_P: w of each pair; equal ones give plain DPO.
    """
    return -(weight_P * functional.logsigmoid(margins_P)).sum() / weight_P.sum()


@torch.no_grad()
def dpo_coefficients(logprobs_S: Tensor, reference_S: Tensor, pairs: Pairs, beta: float) -> Tensor:
    """a_S = −dL / d log π(side S): positive for preferred sides, 0 for sides without a pair, [S].

    Args:
        logprobs_S: see `dpo_margins`.
        reference_S: see there.
        pairs: at least one.
        beta: β.
    """
    pull_P = torch.sigmoid(-dpo_margins(logprobs_S, reference_S, pairs, beta))
    pull_P = beta * pairs.weight_P / pairs.weight_P.sum() * pull_P
    coefficients_S = torch.zeros_like(logprobs_S)
    coefficients_S.index_add_(0, pairs.chosen_P, pull_P)
    return coefficients_S.index_add_(0, pairs.rejected_P, -pull_P)
