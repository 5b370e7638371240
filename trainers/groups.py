"""What one iteration collected, and the credit it was given.

Axis suffixes: _G episodes of one group; _R rounds of one episode; _N sampled tokens, flattened over the
samples of all groups in order (group by group, episode by episode, segment by segment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from searchgym.agents.policy import Sample
from searchgym.episode import Episode
from searchgym.errors import TrainingError

__all__ = ["Group", "Groups", "Tokens", "drop_invalid", "sampled_tokens"]

Group = list[Episode]
"""Episodes of one question, collected together."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Where every sampled token of some groups belongs.

    Attributes:
        sample_N: index into `Groups.samples`; non-decreasing.
        episode_N: index of the episode, counted over all groups in order.
        round_N: index of the round inside its episode.
        logprobs_N: log-probability recorded when the token was sampled.
    """

    sample_N: NDArray[np.int64]
    episode_N: NDArray[np.int64]
    round_N: NDArray[np.int64]
    logprobs_N: NDArray[np.float32]


class Groups(Sequence[Group]):
    """The groups an algorithm learns from in one iteration: a sequence of lists of episodes.

    Raises:
        TrainingError: rewards that are not one finite number per episode, or tokens of a round that is not there.

    Attributes:
        rewards: one float64 array per group, the reward of each episode. Read this rather than
            `episode.reward`: it includes an algorithm's own reward terms and the permuted control.
        episodes: all episodes in order.
        samples: their segments that hold sampled tokens, in order.
        columns: named per-token values that `Algorithm.prepare` adds, each of shape [N].
        tokens: where each of the N tokens belongs.
    """

    def __init__(self, groups: Sequence[Group], rewards: Sequence[ArrayLike] | None = None) -> None:
        self._groups = [list(group) for group in groups]
        if rewards is None:
            rewards = [[episode.reward for episode in group] for group in self._groups]
        self.rewards = [_checked_rewards(r, group) for r, group in zip(rewards, self._groups, strict=True)]
        self.episodes: list[Episode] = list(chain.from_iterable(self._groups))
        self.samples = [
            Sample(episode, segment)
            for episode in self.episodes
            for segment in episode.segments
            if 1 in segment.mask
        ]
        self.columns: dict[str, Tensor] = {}
        self.tokens = self._locate()

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    def round_rewards(self, at_end: bool = False) -> NDArray[np.float64]:
        """What each round paid, all rounds of `episodes` in order: an episode's add up to its entry in `rewards`.

        The last round pays what `rewards` says beyond the rounds' own (an algorithm's terms, the permuted control).

        Args:
            at_end: the last round pays everything. The permuted control needs it: what the rounds were paid would
                still tell the episodes apart.
        """
        counts_E = np.array([len(episode.rounds) for episode in self.episodes], dtype=np.int64)
        paid_R = np.array([r.reward for episode in self.episodes for r in episode.rounds], dtype=np.float64)
        if at_end:
            paid_R = np.zeros_like(paid_R)
        owner_R = np.repeat(np.arange(len(counts_E)), counts_E)
        own_E = np.bincount(owner_R, paid_R, len(counts_E))
        wanted_E = np.array(list(chain.from_iterable(self.rewards)), dtype=np.float64)
        played_E = counts_E > 0
        paid_R[(np.cumsum(counts_E) - 1)[played_E]] += (wanted_E - own_E)[played_E]
        return paid_R

    def _locate(self) -> Tokens:
        number = {id(episode): i for i, episode in enumerate(self.episodes)}
        segments = [sample.segment for sample in self.samples]
        lengths = np.array([len(s.tokens) for s in segments], dtype=np.int64)
        sampled = np.array(list(chain.from_iterable(s.mask for s in segments)), dtype=bool)
        rounds = np.array(list(chain.from_iterable(s.rounds for s in segments)), dtype=np.int64)
        logprobs = np.array(list(chain.from_iterable(s.logprobs for s in segments)), dtype=np.float32)
        owner = np.array([number[id(sample.episode)] for sample in self.samples], dtype=np.int64)
        rounds_E = np.array([len(episode.rounds) for episode in self.episodes], dtype=np.int64)
        sample_N = np.repeat(np.arange(len(segments), dtype=np.int64), lengths)[sampled]
        episode_N, round_N = owner[sample_N], rounds[sampled]
        if (round_N >= rounds_E[episode_N]).any():
            episode = self.episodes[episode_N[round_N >= rounds_E[episode_N]][0]]
            raise TrainingError(
                f"episode {episode.episode_id!r} has tokens of a round it does not have (it has "
                f"{len(episode.rounds)}): segment.rounds must index episode.rounds"
            )
        return Tokens(sample_N, episode_N, round_N, logprobs[sampled])


def _checked_rewards(rewards: ArrayLike, group: Group) -> NDArray[np.float64]:
    r_G = np.asarray(rewards, dtype=np.float64)
    if r_G.shape != (len(group),):
        raise TrainingError(
            f"rewards of a group of {len(group)} episodes have shape {r_G.shape}: give one finite number per episode"
        )
    if not np.isfinite(r_G).all():
        at = int(np.flatnonzero(~np.isfinite(r_G))[0])
        raise TrainingError(
            f"the reward of episode {group[at].episode_id!r} (task {group[at].task_id!r}) is {r_G[at]}: rewards must "
            "be finite; look at the reward term or the trainer's rewards() that made it"
        )
    return r_G


def sampled_tokens(episode: Episode) -> int:
    """Number of tokens the policy sampled in an episode."""
    return sum(sum(segment.mask) for segment in episode.segments)


def drop_invalid(groups: Sequence[Group]) -> tuple[list[Group], dict[str, int]]:
    """Leave out what says nothing about the policy.

    Episodes with `valid_for_training` False go; a group of several that is left with one goes too (there is
    nothing to compare it with); so does a group left with none.

    Returns:
        The groups kept, and counts: "invalid_episodes", "singleton_groups", "empty_groups".
    """
    kept: list[Group] = []
    counts = {"invalid_episodes": 0, "singleton_groups": 0, "empty_groups": 0}
    for group in groups:
        valid = [episode for episode in group if episode.valid_for_training]
        counts["invalid_episodes"] += len(group) - len(valid)
        if len(valid) == 1 and len(group) > 1:
            counts["singleton_groups"] += 1
        elif not valid:
            counts["empty_groups"] += 1
        else:
            kept.append(valid)
    return kept, counts
