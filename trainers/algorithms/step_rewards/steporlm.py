"""StepORLM: preferences between whole episodes, weighted by their outcome and by a critique of their rounds, as weighted DPO.

Source: arXiv 2509.22558, of which the abstract alone was available to us: policy and generative process reward model improve
together; the solver's outcome and a critique of the whole trace weight the pairs of a weighted DPO, after a warm-up by SFT on
verified traces. The weights are not known to us.

[OURS] An episode's score is its reward plus κ times the mean score of its rounds, which a judge gives (u · v, of answers v); every
pair of a question's episodes with different scores is a preference, weighted by the difference:

    S_i = R_i + κ · mean_t s_i,t                                                        κ = 0.5
    Λ_i = Σ_{tokens of τ_i} log π_θ − log π_ref
    L   = − Σ_{S_w > S_l} (S_w − S_l) log σ(β (Λ_w − Λ_l)) / Σ (S_w − S_l)               β = 0.1 [OURS]

With rewards of 0 and 1 and κ < 1 a right answer beats every wrong one, and among right answers (or wrong ones) the better critique
wins. κ = 0 is DPO on outcomes.

Departures from what is known of the paper:
1. The critique is the environment's judge (`judge=llm` writes one; `judge=prm` is a learned one). The generative critic of the paper
   is trained by weighted DPO with `searchgym prm train --set loss=wdpo` between runs: in turn with the policy, not together.
2. The gradient is that of weighted DPO at the weights before the update (`preference`), so several `epochs` or minibatches follow
   the same preferences; there is no clip.
3. Episodes are the policy's own of this iteration, not a fixed set; the reference is the initial policy.
4. An episode without a single verdict is in no pair, and counted (`unjudged`). With `permute_rewards` the critique is left out.
5. It raises and lowers whole episodes: tokens of a group's episodes that are equal (the same first search) cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.env.config import EnvConfig

from ...components.evidence import require_judge, verdicts
from ...components.trajectory_pairs import pairs_by_score, preference_slopes
from ...config import option
from ...core.algorithm import Algorithm, AlgorithmConfig, Loss, TrainContext, token_logprobs
from ...core.batch import Batch
from ...core.credit import Credit
from ...core.groups import Groups

__all__ = ["StepORLM", "StepORLMSettings"]


@dataclass(frozen=True)
class StepORLMSettings(AlgorithmConfig):
    """Settings of `StepORLM`; the inherited ones first."""

    dpo_beta: float = option(0.1, "beta of the weighted DPO", low=0.0)
    critique: float = option(
        0.5,
        "kappa: weight of the mean score of an episode's rounds beside its reward; 0: outcomes alone",
        low=0.0,
    )
    entropy_coef: float = option(0.0, "weight of the entropy bonus", low=0.0)


class StepORLM(Algorithm):
    """Weighted DPO on a group's own episodes; see the head of this file."""

    settings_class = StepORLMSettings
    settings: StepORLMSettings
    uses_ratio = False
    supports_tis = False

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()

    @property
    def _criticized(self) -> bool:
        return self.settings.critique > 0.0 and not self.settings.permute_rewards

    @property
    def group_relative(self) -> bool:
        return not self._criticized

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self._criticized:
            require_judge(env_config, "steporlm", "ranks episodes")
        return env_config

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self._reference = context.policy.freeze_reference()

    def select(self, groups: Groups) -> list[bool]:
        score_E, ends = self.scores(groups), np.cumsum([len(group) for group in groups])
        parts = np.split(score_E, ends[:-1]) if len(groups) else []
        known = [part[~np.isnan(part)] for part in parts]
        return [len(part) > 1 and bool(part.min() < part.max()) for part in known]

    def prepare(self, policy: Policy, groups: Groups) -> None:
        budget = self.context.token_budget
        with self._reference():
            reference_N = token_logprobs(policy, groups.samples, budget)
        groups.columns["log_ratio"] = token_logprobs(policy, groups.samples, budget) - reference_N

    def credit(self, groups: Groups) -> Credit:
        """Of each token, how strongly DPO raises its log-probability."""
        score_E = self.scores(groups)
        owner_N = torch.from_numpy(groups.tokens.episode_N)
        log_ratio_E = torch.zeros(len(groups.episodes), dtype=torch.float64)
        log_ratio_E.index_add_(0, owner_N, groups.columns["log_ratio"].double())
        pairs = pairs_by_score(groups, score_E, weighted=True)
        slope_E, metrics = preference_slopes(log_ratio_E, pairs, self.settings.dpo_beta)
        metrics["unjudged"] = float(np.isnan(score_E).sum())
        return Credit.flat("token", slope_E[owner_N].numpy(), groups, metrics)

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        total = -(batch.advantages_N * outputs.logprobs_N).sum()
        if self.settings.entropy_coef > 0.0:
            total = total - self.settings.entropy_coef * batch.total(outputs.entropy_N)
        return Loss(total)

    def scores(self, groups: Groups) -> NDArray[np.float64]:
        """S of each episode, [E]; NaN where no round has a verdict."""
        reward_E = np.concatenate([np.zeros(0), *groups.rewards])
        if not self._criticized:
            return reward_E
        score_R = verdicts(groups, "contribution")
        known_R = ~np.isnan(score_R)
        count_E = np.bincount(groups.episode_R, known_R, len(reward_E))
        sum_E = np.bincount(groups.episode_R, np.where(known_R, score_R, 0.0), len(reward_E))
        mean_E = np.where(count_E > 0, sum_E / np.maximum(count_E, 1), np.nan)
        scores_E: NDArray[np.float64] = reward_E + self.settings.critique * mean_E
        return scores_E
