"""The policy gradient that credit implies, compared with the true one.

Credit c of a round enters an on-policy update as c ∇ log π(a|s). With g_e the sum of these over the rounds of episode e,

    cosine      cos(mean of g_e, ∇J)                               does the expected update point uphill?
    snr         (mean of g_e·u)² / variance of g_e·u, u = ∇J/|∇J|   how much one episode says about that direction

∇J is exact (`ExactValues.policy_gradient`). The mean over E episodes has noise of its own, so even the true advantage has a
cosine below 1: compare rules with it. An algorithm's own weighting of tokens and its clipping are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy, Sample
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode

__all__ = ["gradient_scores", "score_vectors"]

_MOST_PARAMETERS = 100_000
_TOKENS = 128  # tokens per pass


def score_vectors(policy: Policy, episodes: Sequence[Episode]) -> NDArray[np.float32]:
    """∇ log π of each round's tokens, [R, parameters], all rounds of the episodes in order; 0 for rounds without tokens.

    Args:
        policy: played the episodes, with the weights it has now.
        episodes: recorded episodes.

    Raises:
        ConfigError: the policy has too many parameters to hold such vectors.
    """
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    width = sum(p.numel() for p in parameters)
    if width > _MOST_PARAMETERS:
        raise ConfigError(
            f"agent {policy.name!r} has {width:,} parameters: gradients are compared up to {_MOST_PARAMETERS:,}"
        )
    counts_E = [len(episode.rounds) for episode in episodes]
    first_E = np.cumsum([0, *counts_E[:-1]])
    vectors_RP = np.zeros((sum(counts_E), width), dtype=np.float32)
    samples, owners = [], []
    for first, episode in zip(first_E, episodes, strict=True):
        for segment in episode.segments:
            rounds = [r for r, sampled in zip(segment.rounds, segment.mask, strict=True) if sampled]
            if rounds:
                samples.append(Sample(episode, segment))
                owners.append(first + np.array(rounds))
    begin = 0
    while begin < len(samples):
        end, tokens = begin, 0
        while end < len(samples) and (end == begin or tokens + len(owners[end]) <= _TOKENS):
            tokens += len(owners[end])
            end += 1
        logprobs_N = policy.evaluate_tokens(samples[begin:end]).logprobs_N
        gradients = torch.autograd.grad(
            logprobs_N, parameters, torch.eye(len(logprobs_N)), is_grads_batched=True, allow_unused=True
        )
        rows_NP = torch.cat(
            [
                torch.zeros(len(logprobs_N), p.numel()) if g is None else g.flatten(1)
                for p, g in zip(parameters, gradients, strict=True)
            ],
            dim=1,
        )
        np.add.at(vectors_RP, np.concatenate(owners[begin:end]), rows_NP.detach().numpy())
        begin = end
    return vectors_RP


def gradient_scores(
    vectors_RP: NDArray[np.float32],
    credit_R: NDArray[np.float64],
    episode_R: NDArray[np.int64],
    gradient_P: NDArray[np.float32],
) -> dict[str, float]:
    """Cosine and signal-to-noise ratio; see the head of this file.

    Args:
        vectors_RP: see `score_vectors`.
        credit_R: the credit of each round.
        episode_R: the episode of each round.
        gradient_P: ∇J.
    """
    length = float(np.linalg.norm(gradient_P))
    mean_P = credit_R.astype(np.float32) @ vectors_RP
    if length == 0.0 or not mean_P.any():
        return {"cosine": float("nan"), "snr": 0.0}
    unit_P = gradient_P / length
    along_E = np.bincount(episode_R, credit_R * (vectors_RP @ unit_P))
    variance = float(along_E.var())
    return {
        "cosine": float(mean_P @ unit_P / np.linalg.norm(mean_P)),
        "snr": float(along_E.mean() ** 2 / variance) if variance > 0.0 else float("nan"),
    }
