"""MCTS step values: a search tree over acts replaces the group, and every act of its episodes has the value found there.

Source: the labels of ProRAG (arXiv 2601.21912; code lilinwz/ProRAG at c7a6411), GroundedPRM (arXiv 2510.14942; code
JerryPlain/GroundedPRMCode at 76ec81e) and of step reward models in general (arXiv 2412.15904) are values of Monte Carlo tree
search. Here they are the advantages themselves. The tree of a question is grown by `simulations` walks (`trainers/components/search_tree.py`):
UCT or PUCT down to a state from which fewer than `width` acts were drawn, then the policy plays on to the end. With Q(s, a) the
mean discounted return of the simulations through an act and V(s) the mean over the acts of s by visits,

    A(s, a) = Q(s, a) − V(s)                                        for every token of the act, once

Then the clipped surrogate. The group of a question is the simulations that were played; all of them are learned from, so nothing
is spent on looking ahead.

Departures; that the values serve as advantages is ours:
1. [OURS] The sources train a reward model on the values (ProRAG: 200 simulations, width 5, depth 10, c_puct 2.5, discount 0.99,
   terminal value answer F1); GroundedPRM mixes the return with a step verifier. The defaults here are 16 simulations and
   width 4, which suit training; rule=puct exploration=2.5 width=5 discount=0.99 are ProRAG's.
2. [OURS] A simulation's acts all become nodes. The usual tree adds one node per simulation, and forgets the rest of the rollout.
3. V is the mean under the search, not under the policy: walks come back to acts that did well, so V is higher and A lower than the
   policy's own. An act that was drawn alone in its state has A = 0.
4. [OURS] An episode without a tree (of another trainer, or one that failed) keeps GRPO's advantage and is counted (`unvalued`).
5. `group_size` is the number of simulations at most; walks that end at once (in an answered episode) play none.
6. [OURS] A tree whose acts all have A = 0 is skipped and counted (`skip_equal`).
7. The control `permute_rewards` is refused: the search itself follows the returns.
8. β = 0 by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError

from ...components.search_tree import TreeOptions, grow_trees
from ...components.step_values import or_outcome, stored_values
from ...config import option
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.rollouts import check_can_branch
from ..grpo import GRPO, GRPOSettings

__all__ = ["MCTS", "MCTSSettings"]

ADVANTAGES = "mcts_advantages"
"""The key of `Episode.extra` that holds A of each round."""


@dataclass(frozen=True)
class MCTSSettings(GRPOSettings):
    """Settings of `MCTS`; those of GRPO first."""

    group_size: int = option(16, "simulations of each question, and so episodes at most", low=1)
    width: int = option(4, "acts drawn in a state before a walk goes on to one of them", low=1)
    discount: float = option(1.0, "gamma: of returns, per round", low=0.0, high=1.0)
    rule: Literal["uct", "puct"] = option("uct", "how a walk chooses among the acts of a state")
    exploration: float = option(
        1.0, "c: weight of the rule's bonus for acts that were seldom chosen", low=0.0
    )


class MCTS(GRPO):
    """Advantages from a search tree; see the head of this file."""

    settings_class = MCTSSettings
    settings: MCTSSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        s = self.settings
        self._refuse_single_episodes()
        if s.permute_rewards:
            raise ConfigError(
                "mcts has no control permute_rewards: the search itself follows the returns, so permuting them afterwards "
                "would leave what they told; leave it out"
            )
        self.options = TreeOptions(s.group_size, s.width, s.discount, s.rule, s.exploration)

    @property
    def group_relative(self) -> bool:
        return False

    def check_policy(self, policy: Policy) -> None:
        check_can_branch(policy)

    def play(self, policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str]) -> list[Group]:
        groups: list[Group] = []
        for tree in grow_trees(self.context.play, policy, envs, task_ids, self.options, self.context.rng):
            for episode in tree.episodes:
                v_R, q_R = tree.round_values(episode)
                episode.extra[ADVANTAGES] = (q_R - v_R).tolist()
            groups.append(tree.played)
        return groups

    def select(self, groups: Groups) -> list[bool]:
        if not self.settings.skip_equal:
            return [True] * len(groups)
        return [
            kept or any(any(stored_values(episode, ADVANTAGES) or ()) for episode in group)
            for kept, group in zip(super().select(groups), groups, strict=True)
        ]

    def credit(self, groups: Groups) -> Credit:
        found = [stored_values(episode, ADVANTAGES) for episode in groups.episodes]
        values_R, unvalued = or_outcome(found, self.advantages(groups), groups)
        return Credit.flat("round", values_R, groups, {"unvalued": float(unvalued)})
