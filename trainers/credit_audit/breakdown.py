"""The scores of each rule on parts of the episodes: by family, hops, success, policy and judge noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .auditing import CreditAudit, RuleScore
from .scores import credit_scores

__all__ = ["BREAKDOWN_SCORES", "BreakdownRow", "break_down"]

BREAKDOWN_SCORES = ("sign", "within", "pearson", "spearman", "idle share", "answer bias")
"""The scores of a breakdown."""


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """One rule on some episodes.

    Attributes:
        rule: its label.
        policy: label of the policy that played; "" where there is one.
        by: what the episodes are chosen by: "all", "family", "hops", "success" or "judge noise".
        value: which of them.
        episodes: number of episodes.
        rounds: number of their rounds.
        em: share of the episodes with a right answer.
        scores: see `scores.SCORES`; nan where a score is not defined.
    """

    rule: str
    policy: str
    by: str
    value: str
    episodes: int
    rounds: int
    em: float
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """A JSON value; scores that are not defined are null."""
        scores = {name: None if math.isnan(value) else value for name, value in self.scores.items()}
        return {
            "rule": self.rule,
            "policy": self.policy,
            "by": self.by,
            "value": self.value,
            "episodes": self.episodes,
            "rounds": self.rounds,
            "em": self.em,
            "scores": scores,
        }


def break_down(audits: Mapping[str, CreditAudit]) -> list[BreakdownRow]:
    """All rows: rule by rule, policy by policy.

    Args:
        audits: label of the policy -> its audit; "" if there is one.
    """
    labels = dict.fromkeys(rule.label for audit in audits.values() for rule in audit.trainers)
    rows: list[BreakdownRow] = []
    for label in labels:
        for policy, audit in audits.items():
            for rule in audit.trainers:
                if rule.label == label:
                    rows += _rows(policy, audit, rule)
    return rows


def _rows(policy: str, audit: CreditAudit, rule: RuleScore) -> Iterator[BreakdownRow]:
    episodes = rule.sampled.episodes
    right_E = np.array([episode.outcome.em == 1.0 for episode in episodes])

    def row(
        by: str, value: str, chosen_E: np.ndarray[Any, Any], scores: dict[str, float] | None = None
    ) -> BreakdownRow:
        rounds, place_R = rule.sampled.rounds.choose(np.flatnonzero(chosen_E))
        found = credit_scores(rounds, rule.credit_R[place_R], BREAKDOWN_SCORES) if scores is None else scores
        kept = {name: found[name] for name in BREAKDOWN_SCORES}
        em = float(right_E[chosen_E].mean())
        return BreakdownRow(rule.label, policy, by, value, int(chosen_E.sum()), len(place_R), em, kept)

    everything_E = np.ones(len(episodes), dtype=bool)
    yield row("all", "", everything_E)
    kinds = [audit.kinds[episode.task_id] for episode in episodes]
    for by, values in (
        ("family", [family for family, _ in kinds]),
        ("hops", [str(hops) for _, hops in kinds]),
        ("success", ["right" if right else "wrong" for right in right_E]),
    ):
        distinct = sorted(set(values))
        for value in distinct if len(distinct) > 1 else ():
            yield row(by, value, np.array([v == value for v in values]))
    for noise in rule.noise:
        yield row("judge noise", f"{noise.rate:g}", everything_E, noise.scores)
