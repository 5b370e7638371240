"""MatchTIR: the calls of a rollout are matched with the gold calls, and turns are compared across the group.

Source: arXiv 2601.10712 and its code, quchangle1/MatchTIR at f614ce1. The queries q_1 … q_P of a rollout are matched with the K
gold sub-queries g_1 … g_K of the question by their similarities S_pk:

    hard   reward of q_p = S_p,m(p)               m: the assignment with the largest sum (Kuhn-Munkres); unmatched: 0
    soft   reward of q_p = Σ_k T_pk S_pk          T: optimal transport, cost −S, marginals 1/P and 1/K, entropy 0.1

    r_t   = mean over the queries of round t; in the last round also the episode's reward
    R_t   = Σ_{s≥t} 0.9^{s−t} r_s                                   discounted return of round t
    A_i   = z-score of Σ_t r_t over the group
    A_i,t = ( A_i + z-score of R_t over the rounds t of the group ) / 2

Then GRPO's clipped surrogate. A round whose number no other episode of the group reaches has its return itself as its
z-score, as in the released code (mean 0, standard deviation 1).

Departures from the paper and its code:
1. [OURS] S is the token F1 of the query with the gold sub-query (`similarity=f1`). The paper compares a tool's name, the
   names of its arguments and the number of equal values: (1 + 1 + [query = sub-query]) / 3 for the only tool here
   (`similarity=call`), so that any query is worth two thirds.
2. The released code's hard assignment is greedy, not the optimal one that the paper describes (`assignment=greedy`).
3. The soft reward has the scale of T, whose rows sum to 1/P: the queries of a rollout share a reward of at most 1. So does
   the released code's.
4. The last round's outcome is the environment's reward, EM by default; the paper's is F1 (`reward=f1`).
5. Feedback acts and invalid acts are turns without calls, r_t = 0.
6. The control `permute_rewards` leaves the matching out: it would still tell episodes apart.
7. β = 0 by default; the paper's runs: kl_coef=0.001, group_size=16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.records.episode import Episode
from searchgym.scoring import normalize_answer

from ...components.evidence import query_f1, require_derivation, sub_queries
from ...components.matching import best_assignment, greedy_assignment, transport_plan
from ...components.round_scores import differ_by_set, round_index, standardize
from ...config import option
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.objective import discounted_sums
from ..grpo import GRPO, GRPOSettings

__all__ = ["MatchTIR", "MatchTIRSettings", "match_queries"]

Assignment = Literal["hard", "soft", "greedy"]
Similarity = Literal["f1", "call"]


@dataclass(frozen=True)
class MatchTIRSettings(GRPOSettings):
    """Settings of `MatchTIR`; those of GRPO first."""

    assignment: Assignment = option(
        "hard", "optimal pairs (hard), optimal transport (soft), or the best pair first (greedy)"
    )
    similarity: Similarity = option(
        "f1", "token F1 of the queries, or the paper's comparison of calls (call)"
    )
    transport_reg: float = option(0.1, "assignment=soft: weight of the entropy", low=0.01)
    discount: float = option(0.9, "discount of returns, per round", low=0.0, high=1.0)


class MatchTIR(GRPO):
    """GRPO on matched calls; see the head of this file."""

    settings_class = MatchTIRSettings
    settings: MatchTIRSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()
        # What was matched in this iteration, by the id of the episode, which is kept alive beside it.
        self._paid: dict[int, tuple[Episode, NDArray[np.float64]]] = {}

    @property
    def group_relative(self) -> bool:
        return False  # equal totals may come from different rounds

    @property
    def told(self) -> str:
        return "gold sub-queries"

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        require_derivation(env_config, "match-tir", "matches queries with gold sub-queries")
        return env_config

    def rewards(self, group: Group) -> NDArray[np.float64]:
        total_G: NDArray[np.float64] = super().rewards(group)
        return total_G + np.array([self._matched(episode).sum() for episode in group], dtype=np.float64)

    def select(self, groups: Groups) -> list[bool]:
        if not self.settings.skip_equal or self.settings.permute_rewards:
            return super().select(groups)
        turn_R = self._turn_rewards(groups, self._matched_rounds(groups))
        return [bool(d) for d in differ_by_set(turn_R, groups.group_R, len(groups))]

    def credit(self, groups: Groups) -> Credit:
        matched_R = self._matched_rounds(groups)
        self._paid.clear()
        if not len(groups):
            return Credit.per_round([])
        index_R = round_index(groups.round_counts_E)
        paid_R = self._turn_rewards(groups, matched_R)
        returns_R = discounted_sums(paid_R, groups.episode_R, self.settings.discount)
        turn_R = standardize(returns_R, groups.group_R * (index_R.max() + 1) + index_R, alone="raw")
        rollout_R = np.concatenate(self.advantages(groups))[groups.episode_R]
        matched_E = np.bincount(groups.episode_R, matched_R, len(groups.episodes))
        metrics = {"matched_reward": float(matched_E.mean())}
        return Credit.flat("round", (rollout_R + turn_R) / 2.0, groups, metrics)

    def _turn_rewards(self, groups: Groups, matched_R: NDArray[np.float64]) -> NDArray[np.float64]:
        """r_t of all rounds, in order."""
        if self.settings.permute_rewards:
            return groups.round_rewards(at_end=True)
        paid_R: NDArray[np.float64] = (
            groups.round_rewards()
        )  # the last round holds the whole of what was matched
        last_E = np.cumsum(groups.round_counts_E) - 1
        np.subtract.at(paid_R, last_E, np.bincount(groups.episode_R, matched_R, len(last_E)))
        return paid_R + matched_R

    def _matched_rounds(self, groups: Groups) -> NDArray[np.float64]:
        """What matching pays each round of all episodes, in order."""
        return np.concatenate([np.zeros(0), *map(self._matched, groups.episodes)])

    def _matched(self, episode: Episode) -> NDArray[np.float64]:
        """What matching pays each round; asked for three times in an iteration."""
        if id(episode) not in self._paid:
            s = self.settings
            queries_R = tuple(r.action.queries if r.action.kind == "search" else () for r in episode.rounds)
            paid_R = match_queries(
                queries_R, sub_queries(episode), s.assignment, s.similarity, s.transport_reg
            )
            self._paid[id(episode)] = episode, paid_R
        return self._paid[id(episode)][1]


@lru_cache(maxsize=4096)
def match_queries(
    queries_R: tuple[tuple[str, ...], ...],
    keys: tuple[str, ...],
    assignment: Assignment = "hard",
    similarity: Similarity = "f1",
    reg: float = 0.1,
) -> NDArray[np.float64]:
    """The reward of each round of a rollout: the mean over its queries.

    Args:
        queries_R: the queries of each round.
        keys: the gold sub-queries.
        assignment: see `MatchTIRSettings`.
        similarity: see `MatchTIRSettings`.
        reg: weight of the entropy of the soft assignment.

    Returns:
        Read-only, [R]; 0 for rounds without queries.
    """
    owner = np.repeat(np.arange(len(queries_R)), [len(queries) for queries in queries_R])
    rewards_R = np.zeros(len(queries_R))
    if len(owner) and keys:
        scores = np.array(
            [[_similar(q, k, similarity) for k in keys] for queries in queries_R for q in queries]
        )
        if assignment == "soft":
            paid = (transport_plan(scores, reg) * scores).sum(axis=1)
        else:
            pairs = (best_assignment if assignment == "hard" else greedy_assignment)(scores)
            paid = np.array([0.0 if k is None else scores[p, k] for p, k in enumerate(pairs)])
        np.add.at(rewards_R, owner, paid / np.bincount(owner)[owner])
    rewards_R.setflags(write=False)
    return rewards_R


def _similar(query: str, key: str, similarity: Similarity) -> float:
    if similarity == "f1":
        return query_f1(query, key)
    return (2.0 + (normalize_answer(query) == normalize_answer(key))) / 3.0
