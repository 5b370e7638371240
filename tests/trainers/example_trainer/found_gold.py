"""GRPO whose rounds earn more where they retrieve a passage the question needs.

    A_i^t = A_i (1 + b n_i^t) for A_i > 0, else A_i        n_i^t: gold passages that round t of episode i is first to find

A student's rule: a third-party trainer in one file, found through its entry point.
"""

from dataclasses import dataclass

import numpy as np

from searchgym.trainers.algorithms.grpo import GRPO, GRPOSettings
from searchgym.trainers.config import option
from searchgym.trainers.core.credit import Credit


@dataclass(frozen=True)
class FoundGoldSettings(GRPOSettings):
    bonus: float = option(1.0, "b: what each newly found gold passage adds to a round's share", low=0.0)


class FoundGold(GRPO):
    settings_class = FoundGoldSettings
    settings: FoundGoldSettings

    def credit(self, groups):
        values = []
        for a_G, group in zip(self.advantages(groups), groups, strict=True):
            values.append([a * self._weights_R(a, episode) for a, episode in zip(a_G, group, strict=True)])
        return Credit.per_round(values)

    def _weights_R(self, a, episode):
        missing, found_R = set(episode.gold["supporting_ids"]), []
        for round_ in episode.rounds:
            new = missing & {hit.id for hit in round_.hits}
            found_R.append(len(new))
            missing -= new
        return 1.0 + self.settings.bonus * np.array(found_R) if a > 0 else np.ones(len(found_R))
