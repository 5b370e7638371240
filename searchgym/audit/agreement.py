"""Agreement of two judges on yes/no labels: accuracy, Cohen's kappa, confusion, with bootstrap intervals.

With n pairs, of which a are yes/yes, b yes/no, c no/yes and d no/no (judge/reference):

    accuracy = p_o = (a + d) / n
    p_e = ((a + b)(a + c) + (c + d)(b + d)) / n²          agreement by chance, given how often each says yes
    kappa = (p_o − p_e) / (1 − p_e)                       undefined where p_e = 1: both always say the same

Cohen, Educational and Psychological Measurement 20 (1960). Intervals are 95 % percentile bootstrap intervals over
clusters of pairs (the episodes of one question): rounds of an episode are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics import Interval, percentile_interval, resamples

__all__ = ["Agreement", "agreement", "cohen_kappa"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a judge agrees with a reference on one criterion.

    Attributes:
        true_positive, false_positive, false_negative, true_negative: rounds, positive where the judge says yes and
            true where the reference says the same.
        accuracy: None without pairs.
        kappa: None where it is undefined: no pairs, or both always say the same one thing.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    accuracy: Interval | None
    kappa: Interval | None

    @property
    def rounds(self) -> int:
        """Pairs compared."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"rounds": self.rounds, **asdict(self)}


def cohen_kappa(
    true_positive: int, false_positive: int, false_negative: int, true_negative: int
) -> float | None:
    """Cohen's kappa of a confusion matrix; None where it is undefined."""
    counts = np.array([[true_positive, false_positive, false_negative, true_negative]], dtype=np.float64)
    kappa = float(_kappas(counts)[0])
    return None if np.isnan(kappa) else kappa


def agreement(
    judged: Sequence[bool], reference: Sequence[bool], clusters: Sequence[str], seed: int = 0
) -> Agreement:
    """Compare labels pairwise.

    Args:
        judged, reference: the labels, one per round.
        clusters: what each round belongs to; resampling draws whole clusters.
        seed: of the bootstrap.
    """
    _, index = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
    size = int(index.max()) + 1 if len(index) else 0
    counts = np.zeros(
        (size, 4), dtype=np.int64
    )  # true positive, false positive, false negative, true negative
    said, truth = np.asarray(judged, dtype=np.bool_), np.asarray(reference, dtype=np.bool_)
    np.add.at(counts, (index, np.where(said, np.where(truth, 0, 1), np.where(truth, 2, 3))), 1)
    total = counts.sum(axis=0)
    if total.sum() == 0:
        return Agreement(0, 0, 0, 0, None, None)
    drawn = [counts[rows].sum(axis=1) for rows in resamples(size, seed)]
    resampled = np.concatenate(drawn).astype(np.float64)  # confusion matrices, [resamples, 4]
    point = total[None].astype(np.float64)
    true_positive, false_positive, false_negative, true_negative = map(int, total)
    return Agreement(
        true_positive,
        false_positive,
        false_negative,
        true_negative,
        _interval(_accuracies(point), _accuracies(resampled)),
        _interval(_kappas(point), _kappas(resampled)),
    )


def _accuracies(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = (counts[:, 0] + counts[:, 3]) / counts.sum(axis=1)
    return shares


def _kappas(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa per row; NaN where undefined. In whole numbers as long as possible: p_e = 1 must be seen exactly."""
    a, b, c, d = counts.T
    n = a + b + c + d
    chance = (a + b) * (a + c) + (c + d) * (b + d)
    observed = (a + d) * n
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n * n == chance, np.nan, (observed - chance) / (n * n - chance))


def _interval(point: NDArray[np.float64], resampled: NDArray[np.float64]) -> Interval | None:
    """Resamples in which the figure is undefined say nothing and are left out."""
    defined = resampled[~np.isnan(resampled)]
    if np.isnan(point[0]) or not len(defined):
        return None
    return percentile_interval(float(point[0]), defined)
