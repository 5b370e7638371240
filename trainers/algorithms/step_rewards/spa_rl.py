"""SPA-RL: a progress estimator divides the outcome of an episode among its rounds, and PPO learns from these shares.

Source: arXiv 2505.20732 and its code, WangHanLinHenry/SPA-RL-Agent at ed20087. The estimator gives every round a number, and the
numbers of an episode are fitted to add up to its reward R:

    L_c  = mean over episodes of (Σ_t c_t − R)²
    r_t  = c_t + g · [the act of round t could be executed]                            g = 0.5

Then PPO with the rewards r_t at the last token of each round (`ppo.py`: values, GAE, clipped surrogate).

The estimator is a linear function of the policy's last hidden states: of the one before the last token of the round, and of the one
before the first token of the next round, which has seen what the act brought:

    c_t = w · x_t          x_t = [h(last token of round t), h(first token of round t + 1), 1]; the second is 0 in the last round

So Σ_t c_t is linear too, and w is the ridge regression of R on Σ_t x_t over the episodes so far, those of n iterations ago with weight
`forget`^n. It is solved anew in every iteration, before credit; the sums that it needs are saved and resumed with the run.

Departures from the paper and its code:
1. [OURS] The estimator: the paper fits a language model of its own with a linear head on the last token of each turn, by gradient
   descent on recorded episodes, before reinforcement learning.
2. The released code overwrites c_t by a leave-one-out-centred final reward plus the executability term; the paper's formula is used.
3. g pays for every act that the environment accepts, whatever it brings, so longer episodes earn more. grounding=0 leaves it out.
4. Departures 1 to 7 of `ppo.py`. With `permute_rewards` the estimator is fitted to the permuted rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from searchgym.agents.policy import Policy

from ...config import option
from ...core.algorithm import TrainContext, each_token
from ...core.credit import Credit
from ...core.groups import Groups
from ..ppo import PPO, PPOSettings

__all__ = ["SPARL", "ProgressEstimator", "SPARLSettings", "round_features"]


@dataclass(frozen=True)
class SPARLSettings(PPOSettings):
    """Settings of `SPARL`; those of PPO first."""

    grounding: float = option(0.5, "g: reward of every act that could be executed; 0: none", low=0.0)
    ridge: float = option(0.01, "ridge of the estimator, relative to the mean square of its inputs", low=1e-6)
    forget: float = option(
        0.8, "weight of the previous iteration's episodes in the estimator", low=0.0, high=1.0
    )


class SPARL(PPO):
    """PPO on the shares of a progress estimator; see the head of this file."""

    settings_class = SPARLSettings
    settings: SPARLSettings

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self.progress = ProgressEstimator(2 * self.head.in_features + 1)

    def extra_modules(self) -> dict[str, nn.Module]:
        return {**super().extra_modules(), "progress": self.progress}

    def prepare(self, policy: Policy, groups: Groups) -> None:
        # One pass for the value and the hidden state of a token; `each_token` keeps further dimensions.
        found_NW = each_token(
            policy,
            groups.samples,
            self.context.token_budget,
            lambda outputs: torch.cat([self._values(outputs)[:, None], outputs.hidden_N.float()], dim=1),
        ).reshape(-1, 1 + self.head.in_features)
        groups.columns["values"] = found_NW[:, 0]
        x_RD = round_features(groups, found_NW[:, 1:])
        episode_R = torch.from_numpy(groups.episode_R)
        sum_ED = x_RD.new_zeros(len(groups.episodes), x_RD.shape[1]).index_add(0, episode_R, x_RD)
        reward_E = torch.from_numpy(np.concatenate([np.zeros(0), *groups.rewards]))
        w_D = self.progress.fit(sum_ED, reward_E, self.settings.forget, self.settings.ridge)
        self._share_R = (x_RD @ w_D).numpy()
        missed_E = (reward_E - sum_ED @ w_D).numpy()
        self._error = float(np.mean(missed_E**2)) if len(missed_E) else 0.0

    def round_rewards(self, groups: Groups) -> NDArray[np.float64]:
        executed_R = np.array(
            [r.action.kind not in ("invalid", "none") for e in groups.episodes for r in e.rounds], dtype=bool
        )
        rewards_R: NDArray[np.float64] = self._share_R + self.settings.grounding * executed_R
        return rewards_R

    def credit(self, groups: Groups) -> Credit:
        credit = super().credit(groups)
        credit.metrics["progress_error"] = self._error
        return credit


class ProgressEstimator(nn.Module):
    """Ridge regression of rewards on sums of features, with a memory that fades; it has no weights to optimize.

    Args:
        width: number of features.
    """

    gram_DD: Tensor
    moment_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("gram_DD", torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("moment_D", torch.zeros(width, dtype=torch.float64))

    def fit(self, x_ED: Tensor, y_E: Tensor, forget: float, ridge: float) -> Tensor:
        """Take in further episodes; returns the coefficients, [D].

        Args:
            x_ED: sums of features.
            y_E: rewards.
            forget: weight of what was taken in before.
            ridge: relative to the mean of the diagonal.
        """
        self.gram_DD = forget * self.gram_DD + x_ED.T @ x_ED
        self.moment_D = forget * self.moment_D + x_ED.T @ y_E
        strength = ridge * self.gram_DD.diagonal().mean() + 1e-12
        damping_DD = strength * torch.eye(len(self.moment_D), dtype=torch.float64)
        w_D: Tensor = torch.linalg.solve(self.gram_DD + damping_DD, self.moment_D)
        return w_D


def round_features(groups: Groups, hidden_NW: Tensor) -> Tensor:
    """x of each round, all rounds in order, [R, 2 W + 1]; zeros for a round without sampled tokens.

    Args:
        groups: the episodes.
        hidden_NW: the hidden state before each sampled token.
    """
    round_N, episode_N = groups.round_of_token_N, groups.tokens.episode_N
    changes_N = round_N[1:] != round_N[:-1]
    last = np.flatnonzero(np.append(changes_N, True)[: len(round_N)])
    first = np.flatnonzero(np.append(False, changes_N & (episode_N[1:] == episode_N[:-1]))[: len(round_N)])
    width = hidden_NW.shape[1]
    x_RD = torch.zeros(len(groups.episode_R), 2 * width + 1, dtype=torch.float64)
    x_RD[round_N[last], :width] = hidden_NW[last].double()
    x_RD[round_N[first - 1], width:-1] = hidden_NW[first].double()
    x_RD[round_N[last], -1] = 1.0
    return x_RD
