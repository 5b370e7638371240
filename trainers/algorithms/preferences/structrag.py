"""StructRAG: a router over forms of the search result, trained by DPO on which form lets the agent answer.

Source: StructRAG, arXiv 2410.08815, and its code at c5ee2d1, as summarised by a third party; DPO: arXiv 2305.18290. Each question is
played G times; the router π(f | q) draws the form of each episode's results. Episode i is preferred to j of the same question
if r_i > r_j. With the initial router π_ref and h_ij = β [ log π(f_i)/π_ref(f_i) − log π(f_j)/π_ref(f_j) ]:

    L    = − 1/P Σ_(i,j) log σ(h_ij)                                  over the P pairs of a group with different forms
    ∇L   = − Σ_i a_i ∇ log π(f_i),    a_i = β/P [ Σ_(i preferred to j) σ(−h_ij) − Σ_(j preferred to i) σ(−h_ji) ]

a is the credit, computed from the log-probabilities that were recorded; with one optimizer step per iteration (epochs=1,
minibatches=1) the gradient is DPO's.

Departures:
1. [OURS] Preferences come from the agent's own rewards. The paper synthesises them with a language model before training.
2. [OURS] Pairs are drawn anew in every iteration from the current router, not once from a fixed set.
3. [OURS] Episodes with the same form are no pair, as their difference says nothing about the form.
4. The agent must be `structured`, whose head states the departures of the router and of the forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.agents.structure.agent import StructuredAgent
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode

from ...config import option
from ...core.algorithm import Algorithm, AlgorithmConfig, Loss
from ...core.batch import Batch
from ...core.credit import Credit
from ...core.groups import Group, Groups

__all__ = ["StructRAG", "StructRAGSettings", "pair_credit"]


@dataclass(frozen=True)
class StructRAGSettings(AlgorithmConfig):
    """Settings of `StructRAG`; the inherited ones first."""

    beta: float = option(0.1, "beta of DPO: how strongly preferences outweigh the initial router", low=1e-6)


class StructRAG(Algorithm):
    """DPO of the agent `structured` over forms of the search result; see the head of this file."""

    settings_class: ClassVar[type[AlgorithmConfig]] = StructRAGSettings
    settings: StructRAGSettings
    uses_ratio = False

    @property
    def group_relative(self) -> bool:
        return True

    def check_policy(self, policy: Policy) -> None:
        if not isinstance(policy, StructuredAgent):
            raise ConfigError(
                f"structrag trains the router of the agent 'structured', and the agent is {policy.name!r}: use --agent structured "
                "--agent-option agent=NAME"
            )
        if policy.rendering is not None:
            raise ConfigError(
                f"the agent's rendering is {policy.rendering!r}, so there is nothing to choose: leave rendering out"
            )

    def select(self, groups: Groups) -> list[bool]:
        return [bool(r_G.min() < r_G.max()) for r_G in groups.rewards]

    def credit(self, groups: Groups) -> Credit:
        found = [
            pair_credit(group, r_G, self.settings.beta)
            for group, r_G in zip(groups, groups.rewards, strict=True)
        ]
        pairs = [count for _, count in found]
        return Credit.per_episode(
            [a_G for a_G, _ in found], {"pairs": float(np.mean(pairs))} if pairs else {}
        )

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        return Loss(batch.total(-batch.advantages_N * outputs.logprobs_N))


def pair_credit(group: Group, r_G: NDArray[np.float64], beta: float) -> tuple[NDArray[np.float64], int]:
    """a of each episode of a group, and the number of its pairs.

    Args:
        group: the episodes; the choice of each is its first sampled token.
        r_G: their rewards.
        beta: β of DPO.
    """
    chosen = [_choice(episode) for episode in group]
    forms_G = np.array([form for form, _ in chosen])
    # π_ref is uniform, so it cancels in h.
    logprobs_G = np.array([logprob for _, logprob in chosen])
    better_GG = (r_G[:, None] > r_G[None, :]) & (forms_G[:, None] != forms_G[None, :])
    count = int(better_GG.sum())
    margin_GG = beta * (logprobs_G[:, None] - logprobs_G[None, :])
    pull_GG = np.where(better_GG, 1.0 / (1.0 + np.exp(margin_GG)), 0.0)
    a_G: NDArray[np.float64] = beta / max(count, 1) * (pull_GG.sum(axis=1) - pull_GG.sum(axis=0))
    return a_G, count


def _choice(episode: Episode) -> tuple[int, float]:
    """The first sampled token of an episode, and its log-probability; (-1, 0) without one."""
    for segment in episode.segments:
        for token, logprob, sampled in zip(segment.tokens, segment.logprobs, segment.mask, strict=True):
            if sampled:
                return token, logprob
    return -1, 0.0
