"""ARPO: agentic reinforced policy optimization. Episodes branch where the policy became unsure after a search result.

Source: Dong et al., arXiv 2507.19849, and its code, dongguanting/ARPO at e257337. For each question M of G episodes are played from
the question. H_t is the entropy of the policy at the beginning of round t, over the first tokens after the result; after every result

    ΔH_t = H_t − H_1                                                    H normalized to [0, 1]
    branch at round t    iff    clip(u − w ΔH_t, 0, 1) ≤ p,   u ~ U(0, 1)

beam − 1 further continuations are then played from there, so that a rise of the entropy makes branching more likely. Branches are
examined for branches of their own, until the group has G episodes; what is missing then begins with the question. The credit is
GRPO's over the whole group, and the clipped surrogate is its loss.

The defaults are those of the released script: half of the group from the question, beam 2, p = 0.5, w = 0.2.

Departures from the paper and its code:
1. [OURS] H is divided by the largest entropy of the wave (departure 3). The code divides by log(vocabulary) and sees the ten most likely
   tokens only; the act of the candidate policy is one token, and its vocabulary changes from state to state.
2. [OURS] H is the mean over the first `first_tokens` tokens of the round; the code's number is not known to us. It is computed in
   a forward pass, because episodes record log-probabilities only.
3. [OURS] The code decides while it samples. Here episodes are played to their end first, in waves, and a branch begins at the
   recorded state: the distribution is the same. Within a wave, rounds are examined in order of the episodes; the first ones that
   branch are taken.
4. [OURS] A round that several episodes share enters the loss once, with the mean of their advantages (`batch.pack`), which is
   what the paper calls the hard estimate; how its code shares them was not checked.
5. The standard deviation is the unbiased one (n − 1), as in grpo.py.
6. The reward is the environment's; β = 0 as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts.starts import Start

from ...config import option
from ...core.algorithm import each_token
from ...core.groups import Group, Groups
from ...core.rollouts import check_can_branch
from ..grpo import GRPO, GRPOSettings

__all__ = ["ARPO", "ARPOSettings", "branches", "first_entropies"]


@dataclass(frozen=True)
class ARPOSettings(GRPOSettings):
    """Settings of `ARPO`; those of GRPO first."""

    initial: int = option(0, "M: episodes from the question; 0: half of group_size", low=0)
    beam: int = option(2, "continuations of a round that branches, the first one included", low=2)
    probability: float = option(
        0.5, "p: share of rounds that branch while the entropy stays", low=0.0, high=1.0
    )
    entropy_weight: float = option(0.2, "w: how much a rise of the entropy adds to it", low=0.0)
    first_tokens: int = option(10, "tokens of a round over which the entropy is taken", low=1)


class ARPO(GRPO):
    """GRPO on episodes that branch where the entropy rises; see the head of this file."""

    settings_class = ARPOSettings
    settings: ARPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        size = self.settings.group_size
        self.initial = self.settings.initial or max(size // 2, 1)
        if self.initial > size:
            raise ConfigError(
                f"initial is {self.initial}, and group_size, which includes the branches, is {size}: give a smaller number"
            )

    def check_policy(self, policy: Policy) -> None:
        check_can_branch(policy)

    def play(self, policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str]) -> list[Group]:
        play, rng, size = self.context.play, self.context.rng, self.settings.group_size
        groups = play(policy, envs, task_ids, self.initial, rng)
        wave = [list(group) for group in groups]  # episodes not examined yet
        while any(len(group) < size for group in groups):
            entropies = self._entropies(policy, wave) if any(wave) else [[] for _ in wave]
            starts: list[list[Start]] = []
            for group, episodes, found in zip(groups, wave, entropies, strict=True):
                free = size - len(group)
                chosen = [
                    Start(episode.task_id, prefix=episode, fork_round=t)
                    for episode, entropy_R in zip(episodes, found, strict=True)
                    for t in self._branching_rounds(entropy_R, episode)
                    for _ in range(self.settings.beam - 1)
                ][:free]
                # Nothing branches any more: the rest begins with the question.
                rest = [] if chosen else [Start(group[0].task_id, prefix=group[0])] * free
                starts.append(chosen + rest)
            played = iter(play.branch(policy, envs, list(chain.from_iterable(starts)), rng))
            wave = [[next(played) for _ in begun] for begun in starts]
            for group, more in zip(groups, wave, strict=True):
                group += more
        return groups

    def _entropies(self, policy: Policy, wave: Sequence[Group]) -> list[list[NDArray[np.float64]]]:
        groups = Groups(wave)
        entropy_N = each_token(
            policy, groups.samples, self.context.token_budget, lambda outputs: outputs.entropy_N
        ).numpy()
        found = iter(first_entropies(groups, entropy_N, self.settings.first_tokens))
        return [[next(found) for _ in group] for group in groups]

    def _branching_rounds(self, entropy_R: NDArray[np.float64], episode: Episode) -> list[int]:
        u_R = self.context.rng.random(len(entropy_R))
        wanted_R = branches(entropy_R, u_R, self.settings.probability, self.settings.entropy_weight)
        wanted_R[: (episode.fork_round or 0) + 1] = False  # the question, and states examined before
        return np.flatnonzero(wanted_R).tolist()


def branches(
    entropy_R: NDArray[np.float64], u_R: NDArray[np.float64], probability: float, weight: float
) -> NDArray[np.bool_]:
    """Which rounds of an episode branch.

    Args:
        entropy_R: H of each round, normalized.
        u_R: uniform random numbers.
        probability: p.
        weight: w.
    """
    rise_R = entropy_R - entropy_R[:1]
    wanted: NDArray[np.bool_] = np.clip(u_R - weight * rise_R, 0.0, 1.0) <= probability
    return wanted


def first_entropies(
    groups: Groups, entropy_N: NDArray[np.float32], first_tokens: int
) -> list[NDArray[np.float64]]:
    """H of each round, one array per episode: the mean over its first sampled tokens, divided by the largest of all tokens.

    Args:
        groups: the episodes.
        entropy_N: of the distribution each sampled token was drawn from.
        first_tokens: tokens of a round that count.
    """
    place_N = groups.round_of_token_N
    rank_N = np.arange(len(place_N)) - np.searchsorted(place_N, place_N)
    counted_N = rank_N < first_tokens
    rounds = int(groups.round_counts_E.sum())
    sums_R = np.bincount(place_N, np.where(counted_N, entropy_N, 0.0), rounds)
    counts_R = np.bincount(place_N, counted_N, rounds)
    largest = float(entropy_N.max()) if len(entropy_N) and entropy_N.max() > 0.0 else 1.0
    return np.split(sums_R / np.maximum(counts_R, 1) / largest, np.cumsum(groups.round_counts_E)[:-1])
