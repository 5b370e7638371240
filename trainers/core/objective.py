"""The formulas policy-gradient trainers share, as pure functions.

Axis suffixes: _G episodes of one group; _N sampled tokens, flattened over samples. Names of estimators,
aggregation modes and clamps follow verl 0.6.1, so that a setting means the same in both.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = [
    "AdvantageEstimator",
    "Aggregation",
    "KLEstimator",
    "clipped_surrogate",
    "discounted_sums",
    "group_advantages",
    "kl_estimate",
    "overlong_penalty",
    "sequence_log_ratio",
    "token_weights",
    "whiten",
]

AdvantageEstimator = Literal["grpo", "dr-grpo", "rloo"]
Aggregation = Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum-norm"]
KLEstimator = Literal["k1", "k2", "k3", "k1+", "k3+"]

_MAX_LOG_RATIO = 20.0
_MAX_K3 = 10.0


def group_advantages(
    rewards_G: ArrayLike, estimator: AdvantageEstimator = "grpo", eps: float = 1e-6
) -> NDArray[np.float64]:
    """Advantage of each episode over the others of its group.

    - "grpo" (arXiv 2402.03300): (r − mean) / (std + eps), with the unbiased std (n − 1).
    - "dr-grpo" (arXiv 2503.20783): r − mean.
    - "rloo" (arXiv 2402.14740): (r − mean) · n / (n − 1), which is r minus the mean of the others.

    A group of one has mean 0 and std 1, as in verl: the reward itself is the advantage. Equal rewards give
    exact zeros (rounding in the mean would leave ±1e-17, and dividing by eps would make that matter).

    Args:
        rewards_G: one reward per episode.
        estimator: which of the three.
        eps: added to the standard deviation.

    Returns:
        Float64, same length.
    """
    r_G: NDArray[np.float64] = np.asarray(rewards_G, dtype=np.float64)
    if len(r_G) == 1:
        return r_G * (1.0 / (1.0 + eps) if estimator == "grpo" else 1.0)
    if len(r_G) == 0 or r_G.min() == r_G.max():
        return np.zeros_like(r_G)
    centred_G: NDArray[np.float64] = r_G - r_G.mean()
    if estimator == "grpo":
        centred_G /= r_G.std(ddof=1) + eps
    elif estimator == "rloo":
        centred_G *= len(r_G) / (len(r_G) - 1)
    return centred_G


def whiten(
    values_E: NDArray[np.float64], counts_E: NDArray[np.int64], eps: float = 1e-8
) -> NDArray[np.float64]:
    """(x − mean) / (std + eps), with mean and unbiased std over tokens: value e counts `counts_E[e]` times.

    Values that are all equal give exact zeros.
    """
    total = int(counts_E.sum())
    if total < 2 or values_E.min() == values_E.max():
        return np.zeros_like(values_E)
    centred_E: NDArray[np.float64] = values_E - (counts_E * values_E).sum() / total
    std = math.sqrt((counts_E * centred_E**2).sum() / (total - 1))
    centred_E /= std + eps
    return centred_E


def discounted_sums(
    values_N: NDArray[np.float64], owner_N: NDArray[np.int64], discount: float
) -> NDArray[np.float64]:
    """Σ_{j≥k} discount^{j−k} x_j over the values of the same owner, for many owners at once.

    Args:
        values_N: x, the values of one owner in order, then those of the next.
        owner_N: which owner each value belongs to; non-decreasing.
        discount: γ for returns of rewards; γ λ for advantages of temporal differences.

    Returns:
        Float64, [N].
    """
    if not len(values_N):
        return np.zeros(0)
    _, index_N, length_E = np.unique(owner_N, return_inverse=True, return_counts=True)
    step_N = np.arange(len(index_N)) - (np.cumsum(length_E) - length_E)[index_N]
    sums_ES = np.zeros((len(length_E), int(length_E.max())))
    sums_ES[index_N, step_N] = values_N
    for step in range(sums_ES.shape[1] - 2, -1, -1):  # past an owner's end all values are 0
        sums_ES[:, step] += discount * sums_ES[:, step + 1]
    sums_N: NDArray[np.float64] = sums_ES[index_N, step_N]
    return sums_N


def overlong_penalty(
    lengths_G: ArrayLike, max_length: int, buffer: int, factor: float
) -> NDArray[np.float64]:
    """DAPO's soft penalty for long episodes (arXiv 2503.14476): min(0, −(len − (L − B)) / B · factor).

    Args:
        lengths_G: sampled tokens of each episode.
        max_length: L.
        buffer: B, the last tokens before L over which the penalty grows from 0 to `factor`.
        factor: penalty at length L; longer episodes lose more.
    """
    excess_G = np.asarray(lengths_G, dtype=np.float64) - (max_length - buffer)
    return np.minimum(0.0, -excess_G / buffer * factor)


def clipped_surrogate(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective per token, as a loss to minimise.

    ratio = exp(log π − log π_old);  loss = max(−A · ratio, −A · clip(ratio, 1 − low, 1 + high)).
    With `dual_clip` = c > 1 the loss of a token with A < 0 is capped at −A · c (arXiv 1912.09729).

    Returns:
        (loss_N with gradients, clipped_N: 1.0 where the clip or the cap took the gradient away).
    """
    log_ratio_N = (logprobs_N - old_logprobs_N).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    plain_N = -advantages_N * ratio_N
    bounded_N = -advantages_N * ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_N = torch.maximum(plain_N, bounded_N)
    clipped_N = bounded_N > plain_N
    if dual_clip > 0.0:
        cap_N = -advantages_N * dual_clip
        capped_N = (advantages_N < 0.0) & (loss_N > cap_N)
        loss_N = torch.where(capped_N, cap_N, loss_N)
        clipped_N = clipped_N | capped_N
    return loss_N, clipped_N.to(loss_N.dtype)


def sequence_log_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor, sample_N: Tensor) -> Tensor:
    """GSPO's log-ratio (arXiv 2507.18071, its token form): every token has that of its whole sequence.

    log s_t = sg[mean over the sequence's tokens of (log π − log π_old)] + log π_t − sg[log π_t], with sg the
    stop-gradient: the value is the sequence's, the gradient the token's own.

    Args:
        logprobs_N: log π, with gradients.
        old_logprobs_N: log π_old.
        sample_N: which sequence each token belongs to; numbers from 0.
    """
    gap_N = (logprobs_N - old_logprobs_N).detach()
    counts_S = torch.bincount(sample_N)
    sums_S = torch.zeros(len(counts_S), dtype=gap_N.dtype, device=gap_N.device).index_add(0, sample_N, gap_N)
    return (sums_S / counts_S.clamp(min=1))[sample_N] + logprobs_N - logprobs_N.detach()


def kl_estimate(logprobs_N: Tensor, ref_logprobs_N: Tensor, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(π ‖ π_ref) from tokens sampled by π; delta = log π_ref − log π.

    k1 = −delta; k2 = delta² / 2; k3 = exp(delta) − delta − 1, with delta clamped to ±20 and the value to ±10.
    k1 and k3 are unbiased as values. As a *loss* only k2's gradient is the gradient of the KL, so "k1+" and
    "k3+" keep the value and take k2's gradient (straight-through).
    """
    delta_N = ref_logprobs_N - logprobs_N
    name = estimator.removesuffix("+")
    if name == "k1":
        value_N = -delta_N
    elif name == "k2":
        value_N = 0.5 * delta_N.square()
    else:
        bounded_N = delta_N.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        value_N = (bounded_N.exp() - bounded_N - 1.0).clamp(-_MAX_K3, _MAX_K3)
    if not estimator.endswith("+"):
        return value_N
    k2_N = 0.5 * delta_N.square()
    return k2_N - k2_N.detach() + value_N.detach()


def token_weights(
    sequence_N: NDArray[np.int64], loss_mask_N: NDArray[np.bool_], mode: Aggregation, length: int
) -> NDArray[np.float32]:
    """Weights that turn per-token losses into the minibatch's loss: loss = Σ_N weight · loss_N.

    Every aggregation is linear, so a weight per token is sufficient, and the division of a minibatch into micro-batches
    changes nothing.

    - "seq-mean-token-mean" (GRPO): mean over a sequence's tokens, then over sequences.
    - "token-mean" (DAPO): mean over all tokens.
    - "seq-mean-token-sum-norm" (Dr.GRPO): sum over a sequence's tokens / `length`, then mean over sequences.

    Args:
        sequence_N: which sequence each token belongs to (any integers).
        loss_mask_N: False for tokens that do not enter the loss.
        mode: one of the three.
        length: the constant of the third mode.
    """
    weights_N: NDArray[np.float64] = loss_mask_N.astype(np.float64)
    if mode == "token-mean":
        weights_N /= max(weights_N.sum(), 1.0)
        return weights_N.astype(np.float32)
    _, index_N = np.unique(sequence_N, return_inverse=True)
    tokens_Q = np.bincount(index_N, weights=weights_N)
    sequences = max(int((tokens_Q > 0).sum()), 1)
    weights_N /= sequences * (tokens_Q.clip(min=1.0)[index_N] if mode == "seq-mean-token-mean" else length)
    return weights_N.astype(np.float32)
