"""How often episodes fail for which cause, with intervals over questions. One pass, in memory that grows with the questions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..options import check_count
from ..records.episode import Episode
from ..statistics import Interval, percentile_interval, resamples
from .failures import CAUSES, INFRASTRUCTURE, cause_of, named

__all__ = ["CauseStats", "FailureStats", "failure_statistics"]

_SCORED = [cause for cause in CAUSES if cause != INFRASTRUCTURE]
_SUCCESS, _TOTAL = len(_SCORED), len(_SCORED) + 1  # columns of the counts after those of the causes


@dataclass(slots=True)
class CauseStats:
    """The failures of one cause.

    Attributes:
        episodes: how many there are.
        share: their share of the scored episodes; of all episodes for "infrastructure".
        examples: ids of the first of them, each of another question.
    """

    episodes: int = 0
    share: Interval | None = None
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FailureStats:
    """Why the episodes of a file failed.

    Attributes:
        episodes: number of episodes.
        questions: number of distinct questions.
        scored: episodes without those lost to infrastructure.
        successes: episodes with an exact match.
        em: their share of the scored episodes; None if no episode was scored.
        causes: the failures by cause, in the order of `searchgym.tables.CAUSES`.
    """

    episodes: int
    questions: int
    scored: int
    successes: int
    em: Interval | None
    causes: dict[str, CauseStats]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "episodes": self.episodes,
            "questions": self.questions,
            "scored": self.scored,
            "successes": self.successes,
            "em": None if self.em is None else self.em.to_json(),
            "causes": {
                cause: {
                    "episodes": stats.episodes,
                    "share": None if stats.share is None else stats.share.to_json(),
                    "examples": stats.examples,
                }
                for cause, stats in self.causes.items()
            },
        }


def failure_statistics(episodes: Iterable[Episode], examples: int = 3) -> FailureStats:
    """Count the causes of failure, with 95 % bootstrap intervals of their shares over questions.

    Args:
        episodes: read once, one at a time.
        examples: ids to keep for each cause.

    Raises:
        ConfigError: there is no episode, or `examples` is negative.
    """
    check_count("examples", examples, 0)
    causes = {cause: CauseStats() for cause in CAUSES}
    shown: dict[str, set[str]] = {cause: set() for cause in CAUSES}
    counts: dict[str, list[int]] = {}
    lost: dict[str, list[int]] = {}
    total = 0
    for episode in episodes:
        total += 1
        with named(episode):
            cause = cause_of(episode)
        if cause:
            stats = causes[cause]
            stats.episodes += 1
            if len(stats.examples) < examples and episode.task_id not in shown[cause]:
                shown[cause].add(episode.task_id)
                stats.examples.append(episode.episode_id)
        of_all = lost.setdefault(episode.task_id, [0, 0])
        of_all[0] += cause == INFRASTRUCTURE
        of_all[1] += 1
        if cause != INFRASTRUCTURE:
            row = counts.setdefault(episode.task_id, [0] * (_TOTAL + 1))
            row[_TOTAL] += 1
            if cause:
                row[_SCORED.index(cause)] += 1
            else:  # an episode that ended with its query has neither a cause nor an exact match
                row[_SUCCESS] += episode.outcome.em >= 1.0
    if not total:
        raise ConfigError("there is no episode to count: give a file with episodes")
    table = np.array(list(counts.values()), dtype=np.int64).reshape(-1, _TOTAL + 1)
    shares = _shares(table)
    for cause, share in zip(_SCORED, shares, strict=False):
        causes[cause].share = share
    (causes[INFRASTRUCTURE].share,) = _shares(np.array(list(lost.values()), dtype=np.int64))
    scored, successes = int(table[:, _TOTAL].sum()), int(table[:, _SUCCESS].sum())
    return FailureStats(total, len(lost), scored, successes, shares[_SUCCESS] if shares else None, causes)


def _shares(counts: NDArray[np.int64]) -> list[Interval]:
    """The shares of the columns before the last one, which holds the totals; rows are questions, the unit of resampling."""
    size = len(counts)
    if not size:
        return []
    totals = counts.sum(axis=0)
    drawn = [np.bincount(rows, minlength=size) @ counts for block in resamples(size) for rows in block]
    resampled = np.array(drawn, dtype=np.float64)
    return [
        percentile_interval(totals[i] / totals[-1], resampled[:, i] / resampled[:, -1])
        for i in range(len(totals) - 1)
    ]
