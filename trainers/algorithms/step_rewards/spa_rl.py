"""SPA-RL: a progress estimator divides the outcome of an episode among its rounds, and PPO learns from these shares.

Source: arXiv 2505.20732 and its code, WangHanLinHenry/SPA-RL-Agent at ed20087. The estimator gives every round a number, and the
numbers of an episode are fitted to add up to its reward R:

    L_c  = mean over episodes of (Σ_t c_t − R)²
    r_t  = c_t + g · [the act of round t could be executed]                            g = 0.5

Then PPO with the rewards r_t at the last token of each round (`ppo.py`: values, GAE, clipped surrogate).

The estimator here is a linear function of the policy's last hidden states, which it cannot change, as PPO's value head is:

    c_t = a · h(last token of round t) + b · h(first token of round t + 1) + d         the second term is 0 in the last round

The second state has seen what the act of round t brought. It starts at zero, and is optimized, saved and resumed with the policy.

Departures from the paper and its code:
1. [OURS] The estimator: the paper fits a language model of its own with a linear head on the last token of each turn, on recorded
   episodes before reinforcement learning. Here it is fitted online, on the minibatches of the policy.
2. The gradient of L_c uses the residuals Σ c − R from before the update, once per iteration, so that it is a sum over tokens and
   minibatches may divide an episode. Several `epochs` would follow the same residual several times.
3. The released code overwrites c_t by a leave-one-out-centred final reward plus the executability term; the paper's formula is used.
4. g pays for every act that the environment accepts, whatever it brings, so longer episodes earn more. grounding=0 leaves it out.
5. Departures 1 to 7 of `ppo.py`. With `permute_rewards` the estimator is fitted to the permuted rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from searchgym.agents.policy import Policy, TokenOutputs

from ...algorithm import Loss, TrainContext, each_token
from ...batch import Batch
from ...config import option
from ...credit import Credit
from ...groups import Groups
from ..ppo import PPO, PPOSettings

__all__ = ["SPARL", "SPARLSettings", "progress_shares"]


@dataclass(frozen=True)
class SPARLSettings(PPOSettings):
    """Settings of `SPARL`; those of PPO first."""

    grounding: float = option(0.5, "g: reward of every act that could be executed; 0: none", low=0.0)
    progress_lr: float = option(
        1.0, "learning rate of the progress estimator, as a multiple of the policy's", low=0.0
    )


class SPARL(PPO):
    """PPO on the shares of a progress estimator; see the head of this file."""

    settings_class = SPARLSettings
    settings: SPARLSettings

    @property
    def module_lr(self) -> dict[str, float]:
        return {**super().module_lr, "progress": self.settings.progress_lr}

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self.progress = nn.Linear(self.head.in_features, 2, device=self.head.weight.device)
        nn.init.zeros_(self.progress.weight)
        nn.init.zeros_(self.progress.bias)

    def extra_modules(self) -> dict[str, nn.Module]:
        return {**super().extra_modules(), "progress": self.progress}

    def prepare(self, policy: Policy, groups: Groups) -> None:
        # One pass for all three numbers of a token; `each_token` keeps further dimensions.
        found_N3 = each_token(
            policy,
            groups.samples,
            self.context.token_budget,
            lambda outputs: torch.cat([self._values(outputs)[:, None], self._progress(outputs)], dim=1),
        ).reshape(-1, 3)
        groups.columns["values"] = found_N3[:, 0]
        share_R, last_N, first_N = progress_shares(groups, found_N3[:, 1:].double().numpy())
        wanted_E = np.concatenate([np.zeros(0), *groups.rewards])
        residual_E = np.bincount(groups.episode_R, share_R, len(groups.episodes)) - wanted_E
        slope_N = 2.0 * residual_E[groups.tokens.episode_N] / max(len(residual_E), 1)
        groups.columns["progress_last"] = torch.from_numpy(slope_N * last_N).float()
        groups.columns["progress_first"] = torch.from_numpy(slope_N * first_N).float()
        self._share_R = share_R
        self._error = float(np.mean(residual_E**2)) if len(residual_E) else 0.0

    def round_rewards(self, groups: Groups) -> NDArray[np.float64]:
        executed_R = np.array(
            [r.action.kind not in ("invalid", "none") for e in groups.episodes for r in e.rounds]
        )
        rewards_R: NDArray[np.float64] = self._share_R + self.settings.grounding * executed_R
        return rewards_R

    def credit(self, groups: Groups) -> Credit:
        credit = super().credit(groups)
        credit.metrics.update(progress_error=self._error, progress_spread=float(np.std(self._share_R)))
        return credit

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        loss = super().loss(batch, outputs)
        shares_N2 = self._progress(outputs)
        fit = (
            batch.columns["progress_last"] * shares_N2[:, 0]
            + batch.columns["progress_first"] * shares_N2[:, 1]
        )
        return Loss(loss.total + fit.sum(), loss.metrics)

    def _progress(self, outputs: TokenOutputs) -> Tensor:
        """a · h + d and b · h of each token, [N, 2]; they send no gradient into the policy."""
        hidden_N = outputs.hidden_N.detach().to(self.progress.weight.dtype)
        bias_2 = self.progress.bias * self.progress.bias.new_tensor([1.0, 0.0])
        return hidden_N @ self.progress.weight.T + bias_2


def progress_shares(
    groups: Groups, parts_N2: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """c of each round, and which tokens it is read from.

    Args:
        groups: the episodes.
        parts_N2: a · h + d and b · h of each sampled token.

    Returns:
        c of all rounds in order, [R] (0 for a round without sampled tokens); 1 at the last token of each round, else 0, [N]; 1 at
        the first token of each round that follows another one with tokens in its episode, [N].
    """
    round_N, episode_N = groups.round_of_token_N, groups.tokens.episode_N
    changes_N = round_N[1:] != round_N[:-1]
    last_N = np.append(changes_N, True)[: len(round_N)].astype(np.float64)
    follows_N = np.append(False, changes_N & (episode_N[1:] == episode_N[:-1]))[: len(round_N)]
    first_N = follows_N.astype(np.float64)
    shares_R = np.bincount(round_N, last_N * parts_N2[:, 0], len(groups.episode_R))
    at = np.flatnonzero(follows_N)
    np.add.at(shares_R, round_N[at - 1], parts_N2[at, 1])
    return shares_R, last_N, first_N
