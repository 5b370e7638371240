"""The episodes an algorithm learns from in one iteration.

Axis suffixes: _G episodes of one group; _E episodes of all groups, in order; _R rounds of one episode or, in flat
arrays, of all episodes in order; _N sampled tokens, flattened over the samples of all groups in order (group by group,
episode by episode, segment by segment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from searchgym.agents.policy import Sample
from searchgym.errors import TrainingError
from searchgym.records.episode import Episode, segments_before

__all__ = [
    "Group",
    "Groups",
    "Tokens",
    "drop_invalid",
    "is_lookahead",
    "new_searches",
    "new_tokens",
    "sampled_tokens",
]

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

    Args:
        groups: lists of episodes.
        rewards: one array per group, the reward of each episode; by default `episode.reward`.

    Attributes:
        rewards: one float64 array per group. Read this rather than `episode.reward`: it includes an algorithm's own
            reward terms and the permuted control.
        episodes: all episodes in order.
        columns: named per-token values that `Algorithm.prepare` adds, each of shape [N].

    Raises:
        TrainingError: rewards that are not one finite number per episode.
    """

    def __init__(self, groups: Sequence[Group], rewards: Sequence[ArrayLike] | None = None) -> None:
        self._groups = [list(group) for group in groups]
        if rewards is None:
            rewards = [[episode.reward for episode in group] for group in self._groups]
        self.rewards = [_checked_rewards(r, group) for r, group in zip(rewards, self._groups, strict=True)]
        self.episodes: list[Episode] = list(chain.from_iterable(self._groups))
        self.columns: dict[str, Tensor] = {}

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    @cached_property
    def samples(self) -> list[Sample]:
        """The segments of the episodes that hold sampled tokens, in order."""
        return [
            Sample(episode, segment)
            for episode in self.episodes
            for segment in episode.segments
            if 1 in segment.mask
        ]

    @cached_property
    def tokens(self) -> Tokens:
        """Where each of the N sampled tokens belongs.

        Raises:
            TrainingError: a token of a round that its episode does not have.
        """
        number = {id(episode): i for i, episode in enumerate(self.episodes)}
        segments = [sample.segment for sample in self.samples]
        lengths = np.array([len(s.tokens) for s in segments], dtype=np.int64)
        sampled = np.array(list(chain.from_iterable(s.mask for s in segments)), dtype=bool)
        rounds = np.array(list(chain.from_iterable(s.rounds for s in segments)), dtype=np.int64)
        logprobs = np.array(list(chain.from_iterable(s.logprobs for s in segments)), dtype=np.float32)
        owner = np.array([number[id(sample.episode)] for sample in self.samples], dtype=np.int64)
        sample_N = np.repeat(np.arange(len(segments), dtype=np.int64), lengths)[sampled]
        episode_N, round_N = owner[sample_N], rounds[sampled]
        outside_N = round_N >= self.round_counts_E[episode_N]
        if outside_N.any():
            episode = self.episodes[episode_N[outside_N][0]]
            raise TrainingError(
                f"episode {episode.episode_id!r} has tokens of a round it does not have (it has "
                f"{len(episode.rounds)}): segment.rounds must index episode.rounds"
            )
        return Tokens(sample_N, episode_N, round_N, logprobs[sampled])

    @cached_property
    def round_counts_E(self) -> NDArray[np.int64]:
        """Number of rounds of each episode."""
        return np.array([len(episode.rounds) for episode in self.episodes], dtype=np.int64)

    @property
    def episode_R(self) -> NDArray[np.int64]:
        """The episode of each round, all rounds of `episodes` in order."""
        return np.repeat(np.arange(len(self.episodes)), self.round_counts_E)

    @property
    def group_R(self) -> NDArray[np.int64]:
        """The group of each round, all rounds of `episodes` in order."""
        group_E = np.repeat(np.arange(len(self)), [len(group) for group in self])
        number_R: NDArray[np.int64] = group_E[self.episode_R]
        return number_R

    @property
    def round_of_token_N(self) -> NDArray[np.int64]:
        """The round of each sampled token, counted over all episodes in order."""
        first_E = np.cumsum(self.round_counts_E) - self.round_counts_E
        place_N: NDArray[np.int64] = first_E[self.tokens.episode_N] + self.tokens.round_N
        return place_N

    def round_rewards(self, at_end: bool = False) -> NDArray[np.float64]:
        """The reward of each round, all rounds of `episodes` in order; an episode's add up to its entry in `rewards`.

        The last round gets what `rewards` holds beyond the rounds' own (an algorithm's terms, the permuted control).

        Args:
            at_end: the last round gets everything. The permuted control needs this: the rewards of single rounds
                would still tell the episodes apart.
        """
        paid_R = np.array([r.reward for episode in self.episodes for r in episode.rounds], dtype=np.float64)
        if at_end:
            paid_R = np.zeros_like(paid_R)
        own_E = np.bincount(self.episode_R, paid_R, len(self.episodes))
        wanted_E = np.array(list(chain.from_iterable(self.rewards)), dtype=np.float64)
        played_E = self.round_counts_E > 0
        paid_R[(np.cumsum(self.round_counts_E) - 1)[played_E]] += (wanted_E - own_E)[played_E]
        return paid_R

    def token_rewards(self, at_end: bool = False) -> NDArray[np.float64]:
        """The reward of each round at its last sampled token, [N], for methods whose time steps are tokens.

        Args:
            at_end: see `round_rewards`.
        """
        return self.at_last_tokens(self.round_rewards(at_end))

    def at_last_tokens(self, values_R: NDArray[np.float64]) -> NDArray[np.float64]:
        """A value of each round at its last sampled token, [N]; 0 at other tokens.

        That of a round without sampled tokens is added at the last token before it, or, where there is none, at the
        episode's first token. Values of episodes without any sampled token are left out.

        Args:
            values_R: one per round, all rounds of `episodes` in order.
        """
        tokens_E = np.bincount(self.tokens.episode_N, minlength=len(self.episodes))
        first_E = np.cumsum(tokens_E) - tokens_E
        # Tokens are in order of their rounds, so a round's last token stands before the first of the next round.
        last_R = np.searchsorted(self.round_of_token_N, np.arange(len(self.episode_R)), "right") - 1
        place_R = np.maximum(last_R, first_E[self.episode_R])
        acted_R = tokens_E[self.episode_R] > 0
        values_N = np.zeros(len(self.tokens.episode_N))
        np.add.at(values_N, place_R[acted_R], values_R[acted_R])
        return values_N


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
            "be finite; check the reward term or the trainer's rewards() that computed it"
        )
    return r_G


def sampled_tokens(episode: Episode) -> int:
    """Number of sampled tokens in an episode, those of rounds that it shares with its parent included."""
    return sum(sum(segment.mask) for segment in episode.segments)


def new_tokens(episode: Episode) -> int:
    """Number of tokens sampled for this episode: without the rounds that a branch shares with its parent.

    Summed over the episodes of a tree, every sampled token counts once.
    """
    sampled = sampled_tokens(episode)
    if not episode.fork_round:
        return sampled
    shared = segments_before(episode.segments, episode.fork_round)
    return sampled - sum(sum(segment.mask) for segment in shared)


def new_searches(episode: Episode) -> int:
    """Number of queries searched for this episode: without the rounds that a branch shares with its parent."""
    rounds = episode.rounds[episode.fork_round or 0 :]
    return sum(len(round_.action.queries) for round_ in rounds if round_.action.kind == "search")


def is_lookahead(episode: Episode) -> bool:
    """Whether an episode only looks ahead, so that it counts in no mean of outcomes.

    An algorithm that learns from acts that were tried and not continued marks their episodes: `episode.extra["lookahead"] = True`.
    """
    return bool(episode.extra.get("lookahead", False))


def drop_invalid(groups: Sequence[Group]) -> tuple[list[Group], dict[str, int]]:
    """Drop what carries no information about the policy.

    Episodes with `valid_for_training` False are dropped. So is a group that they leave with one of several episodes
    (there is nothing to compare it with), and a group that they leave empty.

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
