"""Tree-GRPO: episodes of a question branch from each other, and are compared inside their tree and inside their group.

Source: Ji et al., arXiv 2509.21240, and its code, AMAP-ML/Tree-GRPO at 90b1709. A node is a whole round: thought, act and
observation. For each question the policy plays M episodes, the chains of M trees. Then, L times, N nodes of every tree are
drawn at random, and the policy plays from each of them to the end, which adds a branch to the tree. The group of a
question has M (L N + 1) episodes τ_i with rewards R_i:

    A^tree_i  = (R_i − mean_T R) / (std_T R + 1e-6)               over the episodes of τ_i's tree T
    A^group_i = (R_i − mean_G R) / (std_G R + 1e-6)               over all episodes of the question
    A_i       = A^tree_i + A^group_i                              for every token of τ_i

Then GRPO's clipped surrogate. Branches of a node differ only in what follows it, so A^tree compares what the policy did
there with what it might have done, although only outcomes are rewarded; and shared rounds are sampled once, so the same
budget of tokens gives more episodes.

The group is `group_size` = M (L N + 1); `nodes` is N, `expansions` is L. The defaults are those of the released script:
M = 2, N = 2, L = 1. estimator=tree is the sum, tree-inner is A^tree alone, group is A^group alone (GRPO on trees).

Departures from the paper and its code:
1. [OURS] A round that several episodes share enters the loss once, with the mean of their advantages (`batch.pack`); how
   the paper weights shared rounds is not known to us. So the round of a node is paid for its subtree's mean.
2. [OURS] A node is drawn among the rounds of a tree that do not end an episode, each once, until there are none left; then
   again. In a tree in which every episode answers at once, the branch begins with the question.
3. The standard deviation is the unbiased one (n − 1), as in grpo.py. A tree that failures leave with one episode, or
   whose rewards are all equal, has A^tree = 0.
4. The reward is the environment's, EM by default: the paper adds reward={"em": 1, "format": 0.2} or the like.
5. β = 0 by default; the paper's runs: kl_coef=0.001.
6. The estimator `tree_2norm` of the code, a z-score of z-scores, is left out.
7. With aggregation=seq-mean-token-mean a branch's mean runs over its own tokens: shared ones belong to the episode that
   comes first, the chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts.starts import Start

from ..config import option
from ..core.groups import Group, Groups
from ..core.objective import group_advantages
from ..core.rollouts import check_can_branch
from .grpo import GRPO, GRPOSettings

__all__ = ["TreeGRPO", "TreeGRPOSettings", "tree_advantages"]


@dataclass(frozen=True)
class TreeGRPOSettings(GRPOSettings):
    """Settings of `TreeGRPO`; those of GRPO first."""

    group_size: int = option(6, "M (L N + 1): episodes per question, the branches included", low=1)
    nodes: int = option(2, "N: nodes of each tree that are expanded in a round of expansion", low=1)
    expansions: int = option(1, "L: rounds of expansion; 0: chains only", low=0)
    estimator: Literal["tree", "tree-inner", "group"] = option(
        "tree", "advantage: inside the tree plus inside the group (tree), or one of the two"
    )


class TreeGRPO(GRPO):
    """GRPO on trees of episodes; see the head of this file."""

    settings_class = TreeGRPOSettings
    settings: TreeGRPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        s = self.settings
        size = s.expansions * s.nodes + 1
        if s.group_size % size:
            raise ConfigError(
                f"group_size is {s.group_size}, but a tree has {size} episodes (expansions x nodes + 1): give a multiple "
                f"of {size}"
            )
        self.trees = s.group_size // size

    def check_policy(self, policy: Policy) -> None:
        check_can_branch(policy)

    def play(self, policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str]) -> list[Group]:
        play, rng = self.context.play, self.context.rng
        groups = play(policy, envs, task_ids, self.trees, rng)
        forest = [[[episode] for episode in group] for group in groups]
        for _ in range(self.settings.expansions):
            trees = list(chain.from_iterable(forest))
            starts = list(chain.from_iterable(draw_nodes(tree, self.settings.nodes, rng) for tree in trees))
            branches = play.branch(policy, envs, starts, rng)
            for i, tree in enumerate(trees):
                tree += branches[i * self.settings.nodes : (i + 1) * self.settings.nodes]
        return [list(chain.from_iterable(trees)) for trees in forest]

    def advantages(self, groups: Groups) -> list[NDArray[np.float64]]:
        estimator = self.settings.estimator
        if estimator == "group":
            return super().advantages(groups)
        inner = [tree_advantages(r_G, group) for r_G, group in zip(groups.rewards, groups, strict=True)]
        if estimator == "tree-inner":
            return inner
        return [a_G + b_G for a_G, b_G in zip(super().advantages(groups), inner, strict=True)]


def draw_nodes(tree: Sequence[Episode], count: int, rng: np.random.Generator) -> list[Start]:
    """Where the branches of a tree begin: `count` random nodes, each once while there are others.

    Args:
        tree: its episodes.
        count: number of branches.
        rng: draws them.
    """
    nodes = {
        round_.uid: Start(episode.task_id, prefix=episode, fork_round=index)
        for episode in reversed(tree)  # a shared round is taken from the episode that played it
        for index, round_ in enumerate(episode.rounds[:-1], 1)
    }
    choices = list(nodes.values()) or [Start(tree[0].task_id, prefix=tree[0])]
    orders = [rng.permutation(len(choices)) for _ in range(-(-count // len(choices)))]
    return [choices[i] for i in np.concatenate(orders)[:count]]


def tree_advantages(rewards_G: NDArray[np.float64], group: Group) -> NDArray[np.float64]:
    """A^tree: the z-score of each episode's reward inside its tree; 0 for an episode alone in its tree.

    Args:
        rewards_G: the rewards.
        group: the episodes.
    """
    advantages_G = np.zeros(len(group))
    trees = [episode.tree_id for episode in group]
    for tree in dict.fromkeys(trees):
        members = [i for i, name in enumerate(trees) if name == tree]
        if len(members) > 1:
            advantages_G[members] = group_advantages(rewards_G[members])
    return advantages_G
