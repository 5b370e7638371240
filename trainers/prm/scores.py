"""The one number that a verdict gives a round, and how well such numbers tell good acts from bad ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from searchgym.records.episode import RoundRecord
from searchgym.records.verdict import Verdict
from searchgym.statistics import Interval, percentile_interval, resamples

__all__ = ["auc", "auc_interval", "round_score"]

_RESAMPLES = 500


def round_score(record: RoundRecord, verdict: Verdict | None = None) -> float:
    """The score of a round in [0, 1]: v of an answer, which retrieves nothing, u · v of any other act; NaN without a verdict.

    Args:
        record: the round.
        verdict: of the round; None: the one that is recorded in it.
    """
    verdict = verdict or record.judge
    score = verdict.reasoning if record.action.kind == "answer" else verdict.contribution
    return math.nan if score is None else score


def auc(scores_N: NDArray[np.float64], positive_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the probability that a positive scores higher than a negative; ties count a half.

    Args:
        scores_N: the scores.
        positive_N: which are positive.

    Returns:
        NaN if there are no positives or no negatives.
    """
    _, rank_N, count_V = np.unique(scores_N, return_inverse=True, return_counts=True)
    positives_V = np.bincount(rank_N, positive_N, len(count_V))
    negatives_V = count_V - positives_V
    pairs = positives_V.sum() * negatives_V.sum()
    if not pairs:
        return math.nan
    below_V = np.cumsum(negatives_V) - negatives_V
    return float((positives_V * (below_V + 0.5 * negatives_V)).sum() / pairs)


def auc_interval(
    scores_N: NDArray[np.float64], positive_N: NDArray[np.bool_], cluster_N: NDArray[np.int64], seed: int = 0
) -> Interval:
    """AUC with its 95 % bootstrap interval over clusters (questions), because rounds of a question resemble each other.

    Args:
        scores_N: the scores.
        positive_N: which are positive.
        cluster_N: the cluster of each; numbers from 0 without gaps.
        seed: of the resampling.
    """
    order = np.argsort(cluster_N, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cluster_N))[:-1])
    drawn: list[float] = []
    for rows in resamples(len(members), seed):
        for row in rows[: _RESAMPLES - len(drawn)]:
            chosen = np.concatenate([members[i] for i in row])
            drawn.append(auc(scores_N[chosen], positive_N[chosen]))
    defined = np.array(drawn)[~np.isnan(drawn)]
    value = auc(scores_N, positive_N)
    return percentile_interval(value, defined) if len(defined) else Interval(value, math.nan, math.nan)
