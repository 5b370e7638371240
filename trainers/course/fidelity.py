"""Assignment 4: groups of episodes from a world in which the true advantages are known, and what a rule makes of them.

The candidate policy plays questions of the family `trap` of `SearchQA-Forks-v0`; its values are enumerated (`credit_audit.exact`). The reward
is exact match at the end, so the return of one continuation from a state is 1 with probability V and 0 otherwise: a probe draws it
from V and plays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.candidate import CandidateAgent
from searchgym.env.config import EnvConfig
from searchgym.env.vector import make_vec

from ..core.objective import group_advantages
from ..credit_audit.sampling import AuditSettings, Sampled, sample_episodes
from ..credit_audit.scores import credit_scores

__all__ = ["BUDGET", "TARGETS", "HiddenGroups", "Probes"]

BUDGET = 32
"""Probes per group."""

TARGETS = {"agreement": (0.5, 0.8), "order": (0.0, 0.35)}
"""Measure -> the value that earns no point and the value that earns all."""

_QUESTIONS, _GROUP_SIZE = 24, 8


@dataclass
class Probes:
    """The probes of one group.

    Args:
        values: V of the state of each round, by episode.
        rng: draws the outcomes.

    Attributes:
        spent: number of probes that were answered.
        refused: number of calls beyond the budget.
    """

    values: Sequence[NDArray[np.float64]]
    rng: np.random.Generator
    spent: int = 0
    refused: int = 0

    def __call__(self, i: int, t: int) -> float:
        """The reward of one continuation from the state of round t of episode i.

        Raises:
            ValueError: there is no such round, or the budget is spent.
        """
        if not (0 <= i < len(self.values) and 0 <= t < len(self.values[i])):
            raise ValueError(f"probe({i}, {t}): the group has no such round")
        if self.spent == BUDGET:
            self.refused += 1
            raise ValueError(f"probe({i}, {t}): the budget of {BUDGET} probes is spent")
        self.spent += 1
        return float(self.rng.random() < self.values[i][t])


@dataclass
class HiddenGroups:
    """Groups of episodes with their true advantages.

    Args:
        seed: of the questions, the episodes and the probes.
    """

    seed: int
    _sampled: Sampled = field(init=False, repr=False)

    def __post_init__(self) -> None:
        policy = CandidateAgent(memory=False, start="lookup")
        settings = AuditSettings(_QUESTIONS, _GROUP_SIZE, seed=self.seed, num_envs=64)
        self._sampled = sample_episodes(policy, _environment(), settings)
        values = iter(truth.values_R for truth in self._sampled.truth)
        self._values = [[next(values) for _ in group] for group in self._sampled.groups]

    def __len__(self) -> int:
        return len(self._sampled.groups)

    def group(self, number: int) -> list[dict[str, Any]]:
        """What a student's rule gets: nothing that tells what is true."""
        return [
            {
                "reward": episode.reward,
                "rounds": [
                    {
                        "state": record.anchor,
                        "kind": record.action.kind,
                        "text": record.action.answer or " ".join(record.action.queries),
                    }
                    for record in episode.rounds
                ],
            }
            for episode in self._sampled.groups[number]
        ]

    def probes(self, number: int) -> Probes:
        """The probes of a group; the same calls in the same order have the same outcomes."""
        return Probes(self._values[number], np.random.default_rng([self.seed, number, 4]))

    def rounds(self, number: int) -> list[int]:
        """The number of rounds of each episode of a group."""
        return [len(episode.rounds) for episode in self._sampled.groups[number]]

    def measure(self, credit: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
        """How close credit is to the truth.

        Args:
            credit: one number per round, by group and episode.

        Returns:
            "agreement" (correlation over all rounds), "order" (mean rank correlation inside an episode) and "sign" (see
            `credit_audit.scores`). Credit that does not vary agrees with nothing: 0.
        """
        flat = np.array([value for group in credit for episode in group for value in episode], dtype=float)
        flat /= np.abs(flat).max(initial=0.0) or 1.0
        scores = credit_scores(self._sampled.rounds, flat)
        names = {"agreement": "pearson", "order": "within", "sign": "sign"}
        return {name: float(np.nan_to_num(scores[key])) for name, key in names.items()}

    def references(self) -> dict[str, dict[str, float]]:
        """The measures of rules to compare with: GRPO, and one probe for each round until the budget is spent."""

        def grpo(number: int, probe: Probes) -> list[list[float]]:
            advantages = group_advantages([e["reward"] for e in self.group(number)])
            return [[float(a)] * n for a, n in zip(advantages, self.rounds(number), strict=True)]

        def one_each(number: int, probe: Probes) -> list[list[float]]:
            credit = []
            for i, episode in enumerate(self.group(number)):
                values = [probe(i, t) if probe.spent < BUDGET else 0.5 for t in range(len(episode["rounds"]))]
                values.append(episode["reward"])
                credit.append(np.diff(values).tolist())
            return credit

        rules: dict[str, Callable[[int, Probes], list[list[float]]]] = {
            "GRPO (no probe)": grpo,
            "one probe per round": one_each,
        }
        return {
            label: self.measure([rule(g, self.probes(g)) for g in range(len(self))])
            for label, rule in rules.items()
        }


def _environment() -> EnvConfig:
    """Eight rounds are enough for every route and keep the number of states, and so the time of a grade, small."""
    corpus = {"name": "forks", "family": "trap"}
    return make_vec("SearchQA-Forks-v0", 1, corpus=corpus, max_rounds=8, autoreset_mode="Disabled").config
