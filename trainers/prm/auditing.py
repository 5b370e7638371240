"""How well judges, a step reward model among them, tell acts that help from acts that harm: AUC against true advantages.

A round counts as positive if its true advantage is above 0, as negative if it is below; rounds whose advantage is at most
`NEGLIGIBLE`, or within two standard errors of 0, decide nothing and are left out. A round whose verdict failed is left out and
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchgym.errors import ConfigError
from searchgym.judges import Judge
from searchgym.statistics import Interval

from ..credit_audit.scores import gather_rounds, rank_correlation
from ..credit_audit.truth import TrueCredit
from .labels import StepLabels
from .scores import auc_interval

__all__ = ["JudgeAUC", "audit_judges"]


@dataclass(frozen=True, slots=True)
class JudgeAUC:
    """How one judge does.

    Attributes:
        judge: its name.
        auc: against the sign of the true advantage, with an interval over questions.
        spearman: rank correlation of score and true advantage over the same rounds.
        rounds: number of rounds that are compared.
        positive: share of them whose advantage is above 0.
        errors: verdicts that failed.
    """

    judge: str
    auc: Interval
    spearman: float
    rounds: int
    positive: float
    errors: int

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        interval = {"value": self.auc.value, "low": self.auc.low, "high": self.auc.high}
        return {
            "judge": self.judge,
            "auc": interval,
            "spearman": self.spearman,
            "rounds": self.rounds,
            "positive": self.positive,
            "errors": self.errors,
        }


def audit_judges(
    labels: StepLabels,
    judges: Mapping[str, Judge],
    on_judge: Callable[[str], None] = lambda name: None,
) -> list[JudgeAUC]:
    """Score judges against the true advantages of labelled rounds.

    Args:
        labels: from true values.
        judges: name -> judge.
        on_judge: called with the name of the judge whose turn it is.

    Raises:
        ConfigError: the labels hold no true values, or no round that decides anything.
    """
    if not labels.advantages:
        source = labels.made_with.get("method", labels.kind)
        raise ConfigError(
            f"labels from {source} hold no true advantages: label with --method exact or monte-carlo"
        )
    truth = [
        TrueCredit(e.episode_id, row[:-1], a_R, errors_R, np.stack([a_R, a_R]))
        for e, row, a_R, errors_R in zip(
            labels.episodes, labels.labels, labels.advantages, labels.errors, strict=True
        )
    ]
    rounds = gather_rounds(labels.episodes, truth)
    decided_R = ~rounds.neutral_R
    positive_R = rounds.true_R > 0.0
    if not positive_R[decided_R].any() or positive_R[decided_R].all():
        raise ConfigError(
            f"of {len(decided_R)} rounds, {int(decided_R.sum())} have an advantage that is not within its error of 0, and they "
            "all have the same sign: label more questions, or with a smaller --error"
        )
    question_R = rounds.group_E[rounds.episode_R]
    found = []
    for name, judge in judges.items():
        on_judge(name)
        score_R = np.concatenate(StepLabels.from_verdicts(labels.episodes, judge, {}).labels)
        used_R = decided_R & np.isfinite(score_R)
        if positive_R[used_R].all() or not positive_R[used_R].any():
            raise ConfigError(
                f"judge {name!r} gave {int(np.isnan(score_R).sum())} errors, and no verdicts to compare"
            )
        _, cluster_N = np.unique(question_R[used_R], return_inverse=True)
        found.append(
            JudgeAUC(
                name,
                auc_interval(score_R[used_R], positive_R[used_R], cluster_N),
                rank_correlation(rounds.true_R[used_R], score_R[used_R]),
                int(used_R.sum()),
                float(positive_R[used_R].mean()),
                int(np.isnan(score_R).sum()),
            )
        )
    return found
