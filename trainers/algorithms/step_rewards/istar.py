"""iStar: an implicit process reward model, trained online from preferences between episodes, rewards single rounds.

Source: arXiv 2509.19199 (also called OPRL) and its code, Tongyi-ConvAI/Qwen-Character, CharacterRL-iStar. A second policy π_φ starts
as a copy of the policy. In every iteration it learns, by DPO, to prefer each episode of a question to those with a smaller reward:

    Λ_i   = Σ_{tokens of τ_i} log π_φ − log π_ref
    L_φ   = − mean over pairs (τ_w ≻ τ_l) of log σ(β (Λ_w − Λ_l))                      β = 0.05

Its log-ratio is the reward of a round, and both are compared inside the group:

    s_i,t = β Σ_{tokens of round t} log π_φ − log π_ref
    A_i,t = A_i^O + A^S_i,t            A^O: GRPO's advantage; A^S: z-score of s over all rounds of the group

Then GRPO's clipped surrogate. Only the outcomes of episodes are labels. π_φ is an extra module: its weights are optimized, saved and
resumed with the policy.

Departures from the paper and its code:
1. π_φ is updated with the policy, on the same minibatches: the coefficients of DPO's gradient are computed once per iteration
   (`preference`). So the rewards of an iteration come from π_φ before it has seen these episodes; in the first one it equals
   π_ref, all s are 0, and the credit is GRPO's. The paper's loop updates π_φ first.
2. π_ref is the initial policy. reference=behaviour takes the log-probabilities with which the tokens were sampled, which costs no pass.
3. All pairs with unequal rewards are used, not successes against failures alone.
4. `prm_lr` is a multiple of the policy's learning rate: 2 as in the paper (1e-6 and 5e-7).
5. [OURS] A group of equal rewards makes no pairs, and is skipped like GRPO's (`skip_equal`).
6. `permute_rewards` permutes the outcomes that π_φ learns from, too, so that s carries no information either.

Memory: π_φ is a copy of the policy's whole module (with LoRA also of the frozen weights), and so is a second set of trainable
weights for π_ref. Two forward passes per iteration beside GRPO's (one with reference=behaviour), and one backward pass of π_φ.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from searchgym.agents.policy import Policy, TokenOutputs

from ...components.round_scores import standardize
from ...components.trajectory_pairs import pairs_by_score, preference_slopes
from ...config import option
from ...core.algorithm import Loss, TrainContext, token_logprobs
from ...core.batch import Batch
from ...core.credit import Credit
from ...core.groups import Groups
from ..grpo import GRPO, GRPOSettings

__all__ = ["IStar", "IStarSettings"]


@dataclass(frozen=True)
class IStarSettings(GRPOSettings):
    """Settings of `IStar`; those of GRPO first."""

    step_weight: float = option(
        1.0, "weight of the rounds' advantages beside the outcome's; 0: GRPO", low=0.0
    )
    prm_beta: float = option(0.05, "beta of the implicit reward and of its DPO loss", low=0.0)
    prm_lr: float = option(
        2.0, "learning rate of the implicit reward model, as a multiple of the policy's", low=0.0
    )
    reference: Literal["initial", "behaviour"] = option(
        "initial", "what the implicit reward is compared with: the initial policy, or the one that sampled"
    )


class IStar(GRPO):
    """GRPO with an implicit process reward model; see the head of this file."""

    settings_class = IStarSettings
    settings: IStarSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()

    @property
    def group_relative(self) -> bool:
        return False  # rounds of a group with equal rewards differ in their implicit rewards

    @property
    def module_lr(self) -> dict[str, float]:
        return {"implicit_prm": self.settings.prm_lr}

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self.prm = copy.deepcopy(context.policy)
        self._initial = context.policy.freeze_reference() if self.settings.reference == "initial" else None
        self._log: dict[str, float] = {}

    def extra_modules(self) -> dict[str, nn.Module]:
        return {"implicit_prm": self.prm.module}

    def prepare(self, policy: Policy, groups: Groups) -> None:
        super().prepare(policy, groups)
        s, budget = self.settings, self.context.token_budget
        self.prm.temperature = policy.temperature
        if self._initial is None:
            reference_N = torch.from_numpy(groups.tokens.logprobs_N)
        else:
            with self._initial():
                reference_N = token_logprobs(policy, groups.samples, budget)
        ratio_N = token_logprobs(self.prm, groups.samples, budget) - reference_N
        owner_N = torch.from_numpy(groups.tokens.episode_N)
        log_ratio_E = torch.zeros(len(groups.episodes), dtype=torch.float64)
        log_ratio_E.index_add_(0, owner_N, ratio_N.double())
        rewards_E = np.array(list(chain.from_iterable(groups.rewards)))
        slope_E, self._log = preference_slopes(log_ratio_E, pairs_by_score(groups, rewards_E), s.prm_beta)
        groups.columns["implicit_reward"] = s.prm_beta * ratio_N
        groups.columns["prm_slope"] = slope_E[owner_N].float()

    def credit(self, groups: Groups) -> Credit:
        if not len(groups):
            return super().credit(groups)
        rewards_N = groups.columns["implicit_reward"].double().numpy()
        place_N, rounds = groups.round_of_token_N, len(groups.episode_R)
        score_R = np.bincount(place_N, rewards_N, rounds).astype(np.float64)
        score_R[np.bincount(place_N, minlength=rounds) == 0] = np.nan  # nothing was sampled in it
        step_R: NDArray[np.float64] = self.settings.step_weight * standardize(score_R, groups.group_R)
        outcome_R = np.concatenate(self.advantages(groups))[groups.episode_R]
        return Credit.flat("round", outcome_R + step_R, groups, self._log)

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        loss = super().loss(batch, outputs)
        logprobs_N = self.prm.evaluate_tokens(batch.samples).logprobs_N
        preference = (batch.columns["prm_slope"] * logprobs_N).sum()
        return Loss(loss.total - preference, loss.metrics)
