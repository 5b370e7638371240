"""GRPO: group-relative policy optimization; Dr.GRPO, DAPO, RLOO, REINFORCE++ and GSPO as named variants.

Source: Shao et al., DeepSeekMath, arXiv 2402.03300. Of a question q the policy plays G episodes o_1..o_G with
rewards r_1..r_G:

    Â_i = (r_i − mean(r)) / (std(r) + 1e-6)                                  for every token of o_i
    ρ_i,t = π_θ(o_i,t | …) / π_old(o_i,t | …)
    L = − 1/G Σ_i 1/|o_i| Σ_t [ min(ρ Â, clip(ρ, 1−ε, 1+ε) Â) − β KL_i,t ]
    KL_i,t = π_ref/π_θ − log(π_ref/π_θ) − 1                                  (the estimator k3)

|o_i| counts sampled tokens only: what was retrieved, and the template around it, is never trained on
(Search-R1, arXiv 2503.09516). The mean over i runs over all episodes of a minibatch.

Variants, named by the setting `variant`, which gives other settings other defaults (`VARIANTS` below):
- dr-grpo (arXiv 2503.20783): Â = r − mean(r); the sum over tokens divided by a constant, not by |o_i|.
- dapo (arXiv 2503.14476): clip-higher, ε_high = 0.28; the mean over all tokens; groups of equal accuracy are dropped
  and further questions played in their place, 10 batches at most. Its penalty for long episodes is on once
  `overlong_length` says what long means to the policy (the paper: 20480 tokens, buffer 4096).
- rloo (arXiv 2402.14740): Â = r minus the mean of the others' rewards.
- reinforce++ (arXiv 2501.03262): no group; Â = (r − mean) / (std + 1e-8) over all tokens of the iteration.
- reinforce++-baseline (same paper): r minus its group's mean, then the same normalisation.
- gspo (arXiv 2507.18071): one ratio per sequence, exp(mean_t log ρ_i,t), clipped at 3e-4 and 4e-4. These widths are
  the paper's, for answers of thousands of tokens; the mean over few tokens varies more, and needs wider ones.

Departures from the papers:
1. β = 0 by default, and then no reference forward pass is made. The paper uses 0.04.
2. A group whose rewards are all equal has no advantage; it is skipped and counted (`skip_equal`), and with it
   its KL term. skip_equal=false keeps it. The reinforce++ variants keep it: their advantages are not the group's.
3. Episodes that infrastructure failures cut short are dropped; a group left with one of several is skipped.
   A group of size one by choice has mean 0 and std 1, as in verl.
4. The standard deviation is the unbiased one (n − 1), as in verl; the paper does not say.
5. π_old's log-probabilities are those recorded while sampling; they are not computed a second time, unless `tis_cap`
   corrects an engine that differs (importance.py).
6. An episode is one sequence of the mean over i, also when its context was cut into several segments;
   sequence=segment counts segments. GSPO's ratio is always a segment's: that is what the model saw as one sequence.
7. seq-mean-token-sum-norm divides by the number of episodes as well; verl's leaves that factor out.
8. DAPO's resampling uses every group with unequal rewards; verl throws the surplus of the last batch away. Where ten
   batches hold too few, it goes on with those there are; verl stops.
9. The reference is the initial policy and stays it (the paper refreshes it between outer iterations).
10. REINFORCE++ credits an episode with its whole reward (γ = 1, rewards at the end); reinforce.py has rewards to go. Its
   KL penalty inside the reward is left out; kl_coef is the one in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.env.vector import SearchVectorEnv

from ..algorithm import Algorithm, AlgorithmConfig, Loss, token_logprobs
from ..batch import Batch
from ..config import option
from ..credit import Credit
from ..groups import Group, Groups, sampled_tokens
from ..objective import (
    AdvantageEstimator,
    KLEstimator,
    clipped_surrogate,
    group_advantages,
    kl_estimate,
    overlong_penalty,
    sequence_log_ratio,
    whiten,
)
from ..tasks import TaskSampler

__all__ = ["GRPO", "VARIANTS", "GRPOSettings"]

Variant = Literal["grpo", "dr-grpo", "dapo", "rloo", "reinforce++", "reinforce++-baseline", "gspo"]

VARIANTS: Mapping[Variant, Mapping[str, Any]] = {
    "grpo": {},
    "dr-grpo": {"advantage": "dr-grpo", "aggregation": "seq-mean-token-sum-norm"},
    "dapo": {"clip_high": 0.28, "aggregation": "token-mean", "resample": 9},
    "rloo": {"advantage": "rloo"},
    "reinforce++": {"advantage": "reinforce++", "aggregation": "token-mean", "skip_equal": False},
    "reinforce++-baseline": {
        "advantage": "reinforce++-baseline",
        "aggregation": "token-mean",
        "skip_equal": False,
    },
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
}
"""What each variant sets. A setting that is given wins over its variant's."""


@dataclass(frozen=True)
class GRPOSettings(AlgorithmConfig):
    """Settings of `GRPO`; the inherited ones first."""

    variant: Variant = option("grpo", "defaults of other settings, by name: what each paper changes")
    advantage: AdvantageEstimator | Literal["reinforce++", "reinforce++-baseline"] = option(
        "grpo",
        "(r-mean)/std of the group, r-mean, r minus the mean of the others; or normalised over all tokens: r, r-mean",
    )
    ratio: Literal["token", "sequence"] = option(
        "token", "importance ratio of each token, or GSPO's of each sequence"
    )
    dual_clip: float = option(0.0, "cap the loss of tokens with A < 0 at -A * dual_clip; 0: no cap", low=0.0)
    kl_coef: float = option(0.0, "weight of the KL to the initial policy; 0: no reference pass", low=0.0)
    kl_estimator: KLEstimator = option("k3", "a trailing + keeps the value and takes k2's gradient")
    entropy_coef: float = option(0.0, "weight of the entropy bonus", low=0.0)
    skip_equal: bool = option(True, "skip groups whose rewards are all equal")
    resample: int = option(
        0, "DAPO: draw up to so many further batches until `questions` groups have unequal rewards", low=0
    )
    overlong_length: int = option(
        0, "DAPO: episode length in sampled tokens with the full penalty; 0: off", low=0
    )
    overlong_buffer: int = option(16, "DAPO: tokens before that length over which the penalty grows", low=1)
    overlong_factor: float = option(1.0, "DAPO: the full penalty", low=0.0)


class GRPO(Algorithm):
    """Group-relative policy optimization; see the head of this file."""

    settings_class: ClassVar[type[AlgorithmConfig]] = GRPOSettings
    settings: GRPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = settings or {}
        named = [defaults for name, defaults in VARIANTS.items() if name == given.get("variant")]
        super().__init__({**(named[0] if named else {}), **given})
        self.group_relative = not self.settings.advantage.startswith("reinforce++")

    def setup(self, policy: Policy, rng: np.random.Generator) -> None:
        super().setup(policy, rng)
        self._reference = policy.freeze_reference() if self.settings.kl_coef > 0.0 else None

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        groups = list(super().collect(policy, envs, tasks))
        for _ in range(self.settings.resample):
            if sum(_unequal(group) for group in groups) >= tasks.count:
                break
            groups += self.play(policy, envs, tasks.draw(), self.settings.group_size, self.rng)
        return groups

    def rewards(self, group: Group) -> NDArray[np.float64]:
        r_G = super().rewards(group)
        s = self.settings
        if s.overlong_length:
            lengths_G = [sampled_tokens(episode) for episode in group]
            r_G += overlong_penalty(lengths_G, s.overlong_length, s.overlong_buffer, s.overlong_factor)
        return r_G

    def select(self, groups: Groups) -> list[bool]:
        if not self.settings.skip_equal:
            return [True] * len(groups)
        if self.settings.overlong_length:  # the penalty alone makes no group worth learning from
            return [len(group) == 1 or _unequal(group) for group in groups]
        return super().select(groups)

    def prepare(self, policy: Policy, groups: Groups) -> None:
        if self._reference is not None:
            with self._reference():
                groups.columns["ref_logprobs"] = token_logprobs(policy, groups.samples, self.token_budget)

    def advantages(self, groups: Groups) -> list[NDArray[np.float64]]:
        """The advantage of each episode over its group, one array per group: what other rules redistribute."""
        estimator = self.settings.advantage
        if estimator == "reinforce++":
            return _over_all_tokens(groups, groups.rewards)
        if estimator == "reinforce++-baseline":
            return _over_all_tokens(groups, [group_advantages(r_G, "dr-grpo") for r_G in groups.rewards])
        return [group_advantages(r_G, estimator) for r_G in groups.rewards]

    def credit(self, groups: Groups) -> Credit:
        return Credit.per_episode(self.advantages(groups))

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        s = self.settings
        logprobs_N, old_N = outputs.logprobs_N, batch.old_logprobs_N
        if s.ratio == "sequence":
            logprobs_N = sequence_log_ratio(logprobs_N, old_N, batch.sample_N)
            old_N = torch.zeros_like(old_N)
        loss_N, clipped_N = clipped_surrogate(
            logprobs_N, old_N, batch.advantages_N, s.clip_low, s.clip_high, s.dual_clip
        )
        metrics = {"clip_fraction": batch.mean(clipped_N)}
        if self._reference is not None:
            kl_N = kl_estimate(outputs.logprobs_N, batch.columns["ref_logprobs"], s.kl_estimator)
            loss_N = loss_N + s.kl_coef * kl_N
            metrics["kl"] = batch.mean(kl_N)
        if s.entropy_coef > 0.0:
            loss_N = loss_N - s.entropy_coef * outputs.entropy_N
        return Loss(batch.total(loss_N), metrics)


def _over_all_tokens(groups: Groups, values: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """One value per episode, normalised with every sampled token of the iteration counting once."""
    counts_E = np.bincount(groups.tokens.episode_N, minlength=len(groups.episodes))
    normalised_E = whiten(np.concatenate([np.zeros(0), *values]), counts_E)
    return np.split(normalised_E, np.cumsum([len(group) for group in groups])[:-1]) if len(groups) else []


def _unequal(group: Group) -> bool:
    rewards = [episode.reward for episode in group if episode.valid_for_training]
    return bool(rewards) and min(rewards) < max(rewards)
