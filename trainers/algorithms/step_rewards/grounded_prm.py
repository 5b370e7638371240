"""GroundedPRM's fidelity-aided reward: what follows a round is verified without a language model, and mixed with the outcome.

Source: arXiv 2510.14942 and its code, JerryPlain/GroundedPRMCode at 76ec81e (`pipeline/MCTS/mcts.py`, `backpropagate`). There, in a tree
search over steps of mathematics, an external tool verifies every simulated step (v = 1 or −1) and the final answer (F = 1 or −1); the
node from which N steps were simulated before the last one gets

    u = Σ_{k=1..N} (N − k + 1)/N · v_k / N + F / N                         F alone for N = 0

The paper trains a generative process reward model on such trees and searches with it. The method here is its reward as credit [OURS]:
the episodes of a question are the simulations, and rounds with the same messages up to and including their own are one node.

    u_i,t = the formula on the rounds of episode i after round t: v of those but the last, F of the outcome
    Q(n)  = mean of u_i,t over the rounds (i, t) of node n
    A_i,t = A_i^O + β z_i,t              A^O: GRPO's advantage; z: z-score of Q over all rounds of the group

Then GRPO's clipped surrogate. v_i,t = 1 if the verdict of the environment's judge on the round is at least a half, else −1. The judge
`fidelity` needs neither a model nor gold data: does a retrieved passage contain what the act claims?

Departures from the paper and its code:
1. [OURS] Reinforcement learning on the reward; no process reward model is trained (`searchgym prm label --method judge` and `prm
   train` can do so) and no tree is searched: the group's episodes share nodes where they happen to write the same.
2. The code adds u to a node's value at every visit, and 0.9^d u to those of its d-th ancestors; Q here is the mean of the node's own
   rounds, so that frequent nodes are not worth more.
3. F = 2 R − 1 with R the reward, limited to [−1, 1]. /N makes outcomes count less in long episodes, as in the code; outcome=full
   leaves it out for F, which then has a weight of its own.
4. A round without a verdict counts v = 0.
5. `permute_rewards` leaves u out, because verdicts would still tell the episodes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig

from ...components.evidence import require_judge, verdicts
from ...config import option
from ...core.groups import Groups
from ..scored import ScoredRounds, ScoredRoundsSettings

__all__ = ["GroundedPRM", "GroundedPRMSettings", "fidelity_returns", "node_means"]


@dataclass(frozen=True)
class GroundedPRMSettings(ScoredRoundsSettings):
    """Settings of `GroundedPRM`; those of GRPO and of scored rounds first."""

    outcome: Literal["shared", "full"] = option(
        "shared", "weight of the outcome in u: 1/N as in the code, or 1 however many rounds follow"
    )


class GroundedPRM(ScoredRounds):
    """GRPO with a fidelity-aided reward of rounds; see the head of this file."""

    settings_class = GroundedPRMSettings
    settings: GroundedPRMSettings

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self.settings.beta:
            require_judge(env_config, "grounded-prm", "verifies rounds")
        return env_config

    def scores(self, groups: Groups) -> NDArray[np.float64]:
        verdict_R = verdicts(groups, "contribution")
        v_R = np.where(np.isnan(verdict_R), 0.0, np.where(verdict_R >= 0.5, 1.0, -1.0))
        outcome_E = np.clip(2.0 * np.concatenate([np.zeros(0), *groups.rewards]) - 1.0, -1.0, 1.0)
        u_R = fidelity_returns(v_R, outcome_E, groups.round_counts_E, self.settings.outcome == "full")
        return node_means(u_R, groups)


def fidelity_returns(
    v_R: NDArray[np.float64], outcome_E: NDArray[np.float64], rounds_E: NDArray[np.int64], full: bool = False
) -> NDArray[np.float64]:
    """u of each round, all rounds in order.

    Args:
        v_R: whether each round was verified: 1, −1, or 0 for unknown.
        outcome_E: F of each episode.
        rounds_E: its number of rounds.
        full: weigh F with 1 rather than with 1/N.
    """
    count = int(rounds_E.max(initial=0))
    inside_ET = np.arange(count) < rounds_E[:, None]
    v_ET = np.zeros((len(rounds_E), count))
    v_ET[inside_ET] = v_R
    v_ET[np.arange(len(rounds_E)), np.maximum(rounds_E - 1, 0)] = 0.0  # the last round counts by the outcome
    u_ET = np.repeat(outcome_E[:, None], count, axis=1)
    # With D(t) = Σ_{j>t} v_j (last − j) the sum is D(t) / N²: the weight N − k + 1 of round j = t + k is last − j.
    last_E = rounds_E - 1
    weighted_ET = v_ET * (last_E[:, None] - np.arange(count))
    after_ET = np.cumsum(weighted_ET[:, ::-1], axis=1)[:, ::-1] - weighted_ET
    n_ET = last_E[:, None] - np.arange(count) - 1.0
    followed_ET = inside_ET & (n_ET >= 1.0)
    n_ET = np.where(followed_ET, n_ET, 1.0)
    u_ET = np.where(followed_ET, after_ET / n_ET**2 + u_ET / (1.0 if full else n_ET), u_ET)
    returns_R: NDArray[np.float64] = u_ET[inside_ET]
    return returns_R


def node_means(values_R: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """The mean over the rounds of a group that have the same messages up to and including their own.

    Args:
        values_R: one value per round, all rounds in order.
        groups: the episodes.
    """
    numbers: dict[tuple[int, str], int] = {}
    numbered: list[int] = []
    for g, group in enumerate(groups):
        for episode in group:
            node = -1 - g  # the state before the first round
            for record in episode.rounds:
                node = numbers.setdefault((node, record.text), len(numbers))
                numbered.append(node)
    node_R = np.array(numbered, dtype=np.int64)
    means_R: NDArray[np.float64] = (np.bincount(node_R, values_R) / np.bincount(node_R).clip(min=1))[node_R]
    return means_R
