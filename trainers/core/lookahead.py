"""What an iteration samples and searches in addition to the episodes it learns from: the cost of looking ahead.

Continuations that only estimate a value, or candidates that are not kept, cost as much as episodes do. The loop adds them to
the metrics (`lookahead_tokens`, `lookahead_searches`) and to what `max_tokens` counts. Everything that is played through
`TrainContext.play` is metered; an algorithm reports what it samples in another way:

    self.context.meter.add(tokens=12)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.records.episode import Episode
from searchgym.rollouts.starts import Start

from .groups import Group, new_searches, new_tokens
from .rollouts import Play

__all__ = ["Meter", "MeteredPlay", "Spent"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What was sampled and searched.

    Attributes:
        tokens: sampled tokens.
        searches: queries.
    """

    tokens: int = 0
    searches: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.searches + other.searches)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.tokens - other.tokens, self.searches - other.searches)

    @classmethod
    def on(cls, groups: Sequence[Group]) -> Spent:
        """What was spent on the episodes of some groups; rounds that branches share count once."""
        episodes = list(chain.from_iterable(groups))
        return cls(sum(map(new_tokens, episodes)), sum(map(new_searches, episodes)))

    def to_metrics(self) -> dict[str, int]:
        """The entries of an iteration's row; {} if nothing was spent."""
        found = {"lookahead_tokens": self.tokens, "lookahead_searches": self.searches}
        return found if any(found.values()) else {}


_NOTHING = Spent()


def _sum(parts: Iterable[Spent]) -> Spent:
    listed = list(parts)
    return Spent(sum(part.tokens for part in listed), sum(part.searches for part in listed))


class Meter(threading.local):
    """Counts what is sampled and searched, for each thread on its own: episodes may be collected ahead in another one.

    Attributes:
        total: since the last `restart` of this thread.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to count again."""
        self.total = Spent()
        self._played: dict[str, Spent] = {}

    def beyond(self, groups: Sequence[Group]) -> Spent:
        """What was spent on anything but the episodes of some groups. Episodes that were not played here cost nothing.

        Args:
            groups: what an algorithm returned.
        """
        returned = chain.from_iterable(groups)
        return self.total - _sum(self._played.get(episode.episode_id, _NOTHING) for episode in returned)

    def count(self, groups: Sequence[Group]) -> None:
        """Count episodes that were played."""
        # As they are now: an algorithm may say later that an episode continues another one.
        costs = {
            episode.episode_id: Spent(new_tokens(episode), new_searches(episode))
            for episode in chain.from_iterable(groups)
        }
        self._played |= costs
        self.total += _sum(costs.values())

    def add(self, tokens: int = 0, searches: int = 0) -> None:
        """Count what an algorithm sampled or searched without `TrainContext.play`.

        Args:
            tokens: sampled tokens.
            searches: queries.
        """
        self.total += Spent(tokens, searches)


class MeteredPlay:
    """A `Play` that counts what it plays.

    Args:
        play: plays.
        meter: counts.
    """

    def __init__(self, play: Play, meter: Meter) -> None:
        self._play, self._meter = play, meter

    def __call__(
        self,
        policy: Policy,
        envs: SearchVectorEnv,
        task_ids: Sequence[str],
        group_size: int,
        rng: np.random.Generator,
        rounds: int | None = None,
    ) -> list[Group]:
        groups = self._play(policy, envs, task_ids, group_size, rng, rounds)
        self._meter.count(groups)
        return groups

    def branch(
        self, policy: Policy, envs: SearchVectorEnv, starts: Sequence[Start], rng: np.random.Generator
    ) -> list[Episode]:
        """See `Play`."""
        episodes = self._play.branch(policy, envs, starts, rng)
        self._meter.count([episodes])
        return episodes
