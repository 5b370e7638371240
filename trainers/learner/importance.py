"""The mismatch between the engine that samples tokens and the trainer: how large it is, and its correction.

An engine with other kernels, in half precision or with older weights samples from π_engine, while the trainer computes
its gradient as if the tokens came from π_trainer, its own weights before the update. Truncated importance sampling (TIS)
weights each token's policy gradient by

    w = min(π_trainer / π_engine, C)                       π_trainer: computed once more before the update

and measures the ratio of the clip against π_trainer: L = − w · min(ρ A, clip(ρ) A), ρ = π_θ / π_trainer. Every loss of
this package is linear in A for w ≥ 0, so weighting the advantages is correct for all algorithms; other terms (KL, entropy,
value) are not weighted.

Source: Yao et al., On the Rollout-Training Mismatch in Modern RL Systems (NeurIPS 2025 workshop), first the post "Your
Efficient RL Framework Secretly Brings You Off-Policy RL Training"; the same per token as in TRL's
`vllm_importance_sampling_correction` and verl's `rollout_is`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from ..core.batch import Batch
from ..core.objective import kl_estimate

__all__ = ["TRAINER_LOGPROBS", "ratio_statistics", "truncated_importance_sampling"]

TRAINER_LOGPROBS = "trainer_logprobs"
"""The column with log π_trainer."""

_SAME = 1e-3  # nats; two float32 passes of the same weights differ by much less
_MAX_LOG_RATIO = 20.0


def ratio_statistics(engine_N: Tensor, trainer_N: Tensor) -> dict[str, float]:
    """Statistics of r = log π_trainer − log π_engine over the sampled tokens.

    Args:
        engine_N: log π_engine, recorded while sampling.
        trainer_N: log π_trainer, before the update.

    Returns:
        "sampling_gap" (the largest |r|); if that exceeds rounding, also "sampling_gap_mean" and
        "sampling_gap_p95" of |r|, "sampling_kl" (KL(π_engine ‖ π_trainer), nats per token, the estimate k3) and
        "sampling_ess", the effective sample size (Σ e^r)² / (N Σ e^2r) as a share of the tokens.
    """
    log_ratio_N = (trainer_N - engine_N).float()
    gap_N = log_ratio_N.abs()
    result = {"sampling_gap": float(gap_N.max())}
    if result["sampling_gap"] > _SAME:
        weight_N = log_ratio_N.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).double().exp()
        result |= {
            "sampling_gap_mean": float(gap_N.mean()),
            "sampling_gap_p95": _percentile(gap_N, 0.95),
            "sampling_kl": float(kl_estimate(engine_N, trainer_N, "k3").mean()),
            "sampling_ess": float(weight_N.sum().square() / (len(weight_N) * weight_N.square().sum())),
        }
    return result


def truncated_importance_sampling(batch: Batch, cap: float) -> tuple[Batch, dict[str, float]]:
    """Truncated importance sampling; see the head of this file.

    Args:
        batch: has the column `TRAINER_LOGPROBS`.
        cap: C.

    Returns:
        The batch with weighted advantages, whose old log-probabilities are the trainer's; and "tis_weight" (the mean w)
        and "tis_capped" (the share of tokens whose ratio exceeds the cap).
    """
    trainer_N = batch.columns[TRAINER_LOGPROBS]
    log_ratio_N = (trainer_N - batch.old_logprobs_N).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    weight_N = ratio_N.clamp(max=cap)
    corrected = replace(batch, old_logprobs_N=trainer_N, advantages_N=batch.advantages_N * weight_N)
    return corrected, {
        "tis_weight": float(weight_N.mean()),
        "tis_capped": float((ratio_N > cap).float().mean()),
    }


def _percentile(values_N: Tensor, share: float) -> float:
    """The quantile at `share`; torch.quantile refuses more than 16 million values."""
    return float(values_N.kthvalue(max(1, math.ceil(share * len(values_N)))).values)
