"""GRPO with a score for every round: the base of methods that differ in how they score rounds.

    A_i,t = A_i^O + β · z_t          z_t: z-score of the score of round t over the scored rounds of its group

A round without a score (NaN) has z = 0. Under the control `permute_rewards` scores are left out, because they would still
tell episodes apart. Groups are skipped (`skip_equal`) if neither rewards nor scores differ.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.records.episode import Episode

from ..components.round_scores import differ_by_set, standardize
from ..config import option
from ..core.credit import Credit
from ..core.groups import Groups
from .grpo import GRPO, GRPOSettings

__all__ = ["ScoredRounds", "ScoredRoundsSettings"]


@dataclass(frozen=True)
class ScoredRoundsSettings(GRPOSettings):
    """Settings of `ScoredRounds`; those of GRPO first."""

    beta: float = option(0.5, "weight of the rounds' scores beside the outcome; 0: GRPO", low=0.0)


class ScoredRounds(GRPO):
    """See the head of this file; subclasses define `scores`."""

    settings_class = ScoredRoundsSettings
    settings: ScoredRoundsSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()
        self._selected: list[tuple[Episode, NDArray[np.float64]]] = []

    @property
    def group_relative(self) -> bool:
        return not self._scored

    @property
    def _scored(self) -> bool:
        return self.settings.beta > 0.0 and not self.settings.permute_rewards

    @abstractmethod
    def scores(self, groups: Groups) -> NDArray[np.float64]:
        """The score of each round, all rounds in order; NaN for rounds that have none."""

    def standardized(self, scores_R: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
        """z of each round; by default over the scored rounds of its group."""
        return standardize(scores_R, groups.group_R)

    def select(self, groups: Groups) -> list[bool]:
        wanted = super().select(groups)
        if not self.settings.skip_equal or not self._scored:
            return wanted
        scores_R = self.scores(groups)
        parts = np.split(scores_R, np.cumsum(groups.round_counts_E)[:-1])
        self._selected = list(zip(groups.episodes, parts, strict=True)) if groups.episodes else []
        differ = differ_by_set(scores_R, groups.group_R, len(groups)).tolist()
        return [outcome or score for outcome, score in zip(wanted, differ, strict=True)]

    def _scores_of(self, groups: Groups) -> NDArray[np.float64]:
        """The scores, from `select` where that has just computed them for these episodes."""
        known = {
            id(episode): part_R for episode, part_R in self._selected
        }  # the list keeps the episodes alive
        parts = [known.get(id(episode)) for episode in groups.episodes]
        self._selected = []
        if any(part is None for part in parts):
            return self.scores(groups)
        return np.concatenate([part for part in parts if part is not None])

    def credit(self, groups: Groups) -> Credit:
        if not self._scored or not len(groups):
            return super().credit(groups)
        scores_R = self._scores_of(groups)
        known_R = ~np.isnan(scores_R)
        outcome_R = np.concatenate(self.advantages(groups))[groups.episode_R]
        added_R = self.settings.beta * self.standardized(scores_R, groups)
        metrics = {"scored_rounds": float(known_R.mean()) if len(known_R) else 0.0}
        if known_R.any():
            metrics["score_mean"] = float(scores_R[known_R].mean())
        return Credit.flat("round", outcome_R + added_R, groups, metrics)
