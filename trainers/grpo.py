"""GRPO: group-relative policy optimization, with the switches of Dr.GRPO, DAPO and RLOO.

Source: Shao et al., DeepSeekMath, arXiv 2402.03300. Of a question q the policy plays G episodes o_1..o_G with
rewards r_1..r_G:

    Â_i = (r_i − mean(r)) / (std(r) + 1e-6)                                  for every token of o_i
    ρ_i,t = π_θ(o_i,t | …) / π_old(o_i,t | …)
    L = − 1/G Σ_i 1/|o_i| Σ_t [ min(ρ Â, clip(ρ, 1−ε, 1+ε) Â) − β KL_i,t ]
    KL_i,t = π_ref/π_θ − log(π_ref/π_θ) − 1                                  (the estimator k3)

|o_i| counts sampled tokens only: what was retrieved, and the template around it, is never trained on
(Search-R1, arXiv 2503.09516). The mean over i runs over all episodes of a minibatch.

Variants, by setting:
- Dr.GRPO (arXiv 2503.20783): advantage=dr-grpo, aggregation=seq-mean-token-sum-norm, loss_length=constant.
- DAPO (arXiv 2503.14476): clip_high=0.28, aggregation=token-mean, resample=9, overlong_*.
- RLOO (arXiv 2402.14740): advantage=rloo.

Departures from the paper:
1. β = 0 by default, and then no reference forward pass is made. The paper uses 0.04.
2. A group whose rewards are all equal has no advantage; it is skipped and counted (`skip_equal`), and with it
   its KL term. skip_equal=false keeps it.
3. Episodes that infrastructure failures cut short are dropped; a group left with one of several is skipped.
   A group of size one by choice has mean 0 and std 1, as in verl.
4. The standard deviation is the unbiased one (n − 1), as in verl; the paper does not say.
5. π_old's log-probabilities are those recorded while sampling; they are not computed a second time.
6. An episode is one sequence of the mean over i, also when its context was cut into several segments.
7. seq-mean-token-sum-norm divides by the number of episodes as well; verl's leaves that factor out.
8. DAPO's resampling uses every group with unequal rewards; verl throws the surplus of the last batch away.
9. The reference is the initial policy and stays it (the paper refreshes it between outer iterations).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.vector import SearchVectorEnv

from .algorithm import Algorithm, Loss, Settings, play_groups, token_logprobs
from .batch import Batch
from .config import option
from .groups import Credit, Group, Groups, sampled_tokens
from .objective import (
    AdvantageEstimator,
    KLEstimator,
    clipped_surrogate,
    group_advantages,
    kl_estimate,
    overlong_penalty,
)
from .tasks import TaskSampler

__all__ = ["GRPO", "GRPOSettings"]


@dataclass(frozen=True)
class GRPOSettings(Settings):
    """Settings of `GRPO`; the inherited ones first."""

    advantage: AdvantageEstimator = option("grpo", "(r-mean)/std, r-mean, or r minus the mean of the others")
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

    settings_class = GRPOSettings
    settings: GRPOSettings

    def setup(self, policy: Policy, rng: np.random.Generator) -> None:
        super().setup(policy, rng)
        self._reference = _Reference(policy.module) if self.settings.kl_coef > 0.0 else None

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        groups = list(super().collect(policy, envs, tasks))
        for _ in range(self.settings.resample):
            if sum(_unequal(group) for group in groups) >= tasks.count:
                break
            groups += play_groups(policy, envs, tasks.draw(), self.settings.group_size, self.rng)
        return groups

    def rewards(self, group: Group) -> NDArray[np.float64]:
        r_G = super().rewards(group)
        s = self.settings
        if s.overlong_length:
            lengths_G = [sampled_tokens(episode) for episode in group]
            r_G += overlong_penalty(lengths_G, s.overlong_length, s.overlong_buffer, s.overlong_factor)
        return r_G

    def select(self, groups: Groups) -> list[bool]:
        return super().select(groups) if self.settings.skip_equal else [True] * len(groups)

    def prepare(self, policy: Policy, groups: Groups) -> None:
        if self._reference is not None:
            with self._reference.swapped_in():
                groups.columns["ref_logprobs"] = token_logprobs(policy, groups.samples, self.token_budget)

    def advantages(self, groups: Groups) -> list[NDArray[np.float64]]:
        """The advantage of each episode over its group, one array per group: what other rules redistribute."""
        return [group_advantages(r_G, self.settings.advantage) for r_G in groups.rewards]

    def credit(self, groups: Groups) -> Credit:
        return Credit.per_episode(self.advantages(groups))

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        s = self.settings
        loss_N, clipped_N = clipped_surrogate(
            outputs.logprobs_N, batch.old_logprobs_N, batch.advantages_N, s.clip_low, s.clip_high, s.dual_clip
        )
        metrics = {"clip_fraction": batch.mean(clipped_N)}
        if self._reference is not None:
            kl_N = kl_estimate(outputs.logprobs_N, batch.columns["ref_logprobs"], s.kl_estimator)
            loss_N = loss_N + s.kl_coef * kl_N
            metrics["kl"] = batch.mean(kl_N)
        if s.entropy_coef > 0.0:
            loss_N = loss_N - s.entropy_coef * outputs.entropy_N
        return Loss(batch.total(loss_N), metrics)


class _Reference:
    """The initial values of the trainable weights, lent to the policy's own module for a forward pass.

    Frozen weights are shared, so for adapters (LoRA) this costs the adapters' size only.
    """

    def __init__(self, module: nn.Module) -> None:
        self._pairs: list[tuple[nn.Parameter, Tensor]] = [
            (p, p.detach().clone()) for p in module.parameters() if p.requires_grad
        ]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        current = [p.data for p, _ in self._pairs]
        try:
            for p, initial in self._pairs:
                p.data = initial
            yield
        finally:
            for (p, _), data in zip(self._pairs, current, strict=True):
                p.data = data


def _unequal(group: Group) -> bool:
    rewards = [episode.reward for episode in group if episode.valid_for_training]
    return bool(rewards) and min(rewards) < max(rewards)
