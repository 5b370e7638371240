"""GRPO: group-relative policy optimization.

Source: Shao et al., DeepSeekMath, arXiv 2402.03300. Of a question q the policy plays G episodes o_1..o_G with
rewards r_1..r_G:

    Â_i = (r_i − mean(r)) / (std(r) + 1e-6)                                  for every token of o_i
    ρ_i,t = π_θ(o_i,t | …) / π_old(o_i,t | …)
    L = − 1/G Σ_i 1/|o_i| Σ_t [ min(ρ Â, clip(ρ, 1−ε, 1+ε) Â) − β KL_i,t ]
    KL_i,t = π_ref/π_θ − log(π_ref/π_θ) − 1                                  (the estimator k3)

|o_i| counts sampled tokens only: retrieved passages and the template around them are never trained on (Search-R1,
arXiv 2503.09516). The mean over i runs over all episodes of a minibatch. `naked_grpo` is the whole algorithm in one
function; `GRPO` is the same in the shared loop, with the variants of variants.py, and a test holds the two to the same
weights.

Departures from the paper:
1. β = 0 by default, and then no reference forward pass is made. The paper uses 0.04.
2. A group whose rewards are all equal has no advantage; it is skipped and counted (`skip_equal`), and with it its KL
   term. skip_equal=false keeps it.
3. Episodes that infrastructure failures cut short are dropped; a group that this leaves with one of several episodes is
   skipped. A group of size one by choice has mean 0 and std 1, as in verl.
4. The standard deviation is the unbiased one (n − 1), as in verl; the paper does not say.
5. π_old's log-probabilities are those recorded while sampling; they are not computed a second time, unless `tis_cap`
   corrects an engine that differs (learner/importance.py).
6. An episode is one sequence of the mean over i, also when its context was divided into several segments;
   sequence=segment counts segments.
7. The reference is the initial policy throughout (the paper refreshes it between outer iterations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy, Sample, TokenOutputs
from searchgym.env.vector import SearchVectorEnv
from searchgym.rollouts.collection import collect

from ..config import option
from ..core.algorithm import Algorithm, AlgorithmConfig, Loss, TrainContext, token_logprobs
from ..core.batch import Batch
from ..core.credit import Credit
from ..core.groups import Group, Groups, sampled_tokens
from ..core.objective import (
    AdvantageEstimator,
    KLEstimator,
    clipped_surrogate,
    group_advantages,
    kl_estimate,
    overlong_penalty,
    sequence_log_ratio,
)
from ..core.tasks import TaskSampler
from .variants import VARIANTS, Variant, normalized_over_tokens, rewards_differ

__all__ = ["GRPO", "GRPOSettings", "naked_grpo"]


def naked_grpo(
    policy: Policy,
    envs: SearchVectorEnv,
    iterations: int,
    questions: int = 16,
    group_size: int = 8,
    lr: float = 0.15,
    epsilon: float = 0.2,
    seed: int = 0,
) -> list[float]:
    """Train a policy with nothing but this function: two optimizer steps per iteration, no KL term.

    Args:
        policy: is trained.
        envs: where it plays.
        iterations: number of times to play and learn.
        questions: questions per iteration.
        group_size: G, episodes per question.
        lr: learning rate.
        epsilon: ε, the width of the clip.
        seed: of the order of questions, of sampling and of the minibatches.

    Returns:
        The mean reward of each iteration's valid episodes.
    """
    policy.generator.manual_seed(seed)
    tasks = TaskSampler(envs.task_ids(), questions, seed)
    shuffle = np.random.default_rng([seed, 2])
    optimizer = torch.optim.AdamW(policy.module.parameters(), lr=lr, weight_decay=0.0)
    mean_rewards = []
    for _ in range(iterations):
        # Play every question G times. An episode that the infrastructure cut short says nothing about the policy.
        played = collect(envs, policy, [task for task in tasks.draw() for _ in range(group_size)])
        groups = [played[i : i + group_size] for i in range(0, len(played), group_size)]
        groups = [[e for e in group if e.valid_for_training] for group in groups]
        rewards = [episode.reward for group in groups for episode in group]
        mean_rewards.append(sum(rewards) / max(len(rewards), 1))

        # Compare each episode with its group. Equal rewards teach nothing.
        episodes, advantages = [], []
        for group in groups:
            r_G = np.array([episode.reward for episode in group])
            if len(group) > 1 and r_G.min() < r_G.max():
                episodes += group
                advantages += ((r_G - r_G.mean()) / (r_G.std(ddof=1) + 1e-6)).tolist()

        # Two optimizer steps, on half of the episodes each.
        order = shuffle.permutation(len(episodes))
        for half in np.array_split(order, min(2, len(order))) if episodes else []:
            samples = [Sample(episodes[i], segment) for i in half for segment in episodes[i].segments]
            old, advantage, weight = [], [], []
            for i in half:
                segments = episodes[i].segments
                sampled = [p for s in segments for p, m in zip(s.logprobs, s.mask, strict=True) if m]
                old += sampled
                advantage += [advantages[i]] * len(sampled)
                share = 1.0 / (len(half) * max(len(sampled), 1))  # the mean over tokens, then over episodes
                weight += [share] * len(sampled)
            advantages_N, weights_N = torch.tensor(advantage), torch.tensor(weight)

            # Raise the probability of what did better than its group, as long as the ratio stays near 1.
            ratio_N = (policy.evaluate_tokens(samples).logprobs_N - torch.tensor(old)).exp()
            clipped_N = ratio_N.clamp(1.0 - epsilon, 1.0 + epsilon)
            loss = -(weights_N * torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.module.parameters(), 1.0)
            optimizer.step()
            policy.version += 1
    return mean_rewards


@dataclass(frozen=True)
class GRPOSettings(AlgorithmConfig):
    """Settings of `GRPO`; the inherited ones first."""

    variant: Variant = option("grpo", "defaults of other settings, by name: what each paper changes")
    advantage: AdvantageEstimator | Literal["reinforce++", "reinforce++-baseline"] = option(
        "grpo",
        "(r-mean)/std of the group, r-mean, r minus the mean of the others; or normalized over all tokens: r, r-mean",
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
        0, "DAPO: draw up to this many further batches until `questions` groups have unequal rewards", low=0
    )
    overlong_length: int = option(
        0, "DAPO: episode length in sampled tokens with the full penalty; 0: off", low=0
    )
    overlong_buffer: int = option(16, "DAPO: tokens before that length over which the penalty grows", low=1)
    overlong_factor: float = option(1.0, "DAPO: the full penalty", low=0.0)


class GRPO(Algorithm):
    """Group-relative policy optimization in the shared loop; see the head of this file.

    The base of methods that change one part of it, most often `credit` or `advantages`.
    """

    settings_class: ClassVar[type[AlgorithmConfig]] = GRPOSettings
    settings: GRPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = settings or {}
        named = [defaults for name, defaults in VARIANTS.items() if name == given.get("variant")]
        super().__init__({**(named[0] if named else {}), **given})
        if (
            self.settings.advantage == "reinforce++-baseline"
        ):  # the mean of a group of one is the reward itself
            self._refuse_single_episodes()

    @property
    def group_relative(self) -> bool:
        return not self.settings.advantage.startswith("reinforce++")

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self._reference = context.policy.freeze_reference() if self.settings.kl_coef > 0.0 else None

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        groups = self.play(policy, envs, tasks.draw())
        for _ in range(self.settings.resample):
            if sum(rewards_differ(group) for group in groups) >= tasks.count:
                break
            groups += self.play(policy, envs, tasks.draw())
        return groups

    def play(self, policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str]) -> list[Group]:
        """Play the group of each question; branching methods override it."""
        return self.context.play(policy, envs, task_ids, self.settings.group_size, self.context.rng)

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
            return [len(group) == 1 or rewards_differ(group) for group in groups]
        return [len(r_G) == 1 or bool(r_G.min() < r_G.max()) for r_G in groups.rewards]

    def prepare(self, policy: Policy, groups: Groups) -> None:
        if self._reference is not None:
            with self._reference():
                groups.columns["ref_logprobs"] = token_logprobs(
                    policy, groups.samples, self.context.token_budget
                )

    def advantages(self, groups: Groups) -> list[NDArray[np.float64]]:
        """The advantage of each episode over its group, one array per group; subclasses redistribute it."""
        estimator = self.settings.advantage
        if estimator == "reinforce++" or estimator == "reinforce++-baseline":
            return normalized_over_tokens(groups, baseline=estimator == "reinforce++-baseline")
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
