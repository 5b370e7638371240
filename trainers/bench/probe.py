"""Where a trainer's credit goes according to the oracle's verdicts, measured on what it learns from in every iteration.

A search round contributed if the oracle gives it u · v = 1: it was the first of the episode to retrieve a gold passage,
with a query that follows from what had been read. With A the mean credit of a round's tokens:

    credit on contributing rounds = Σ max(A, 0) over contributing search rounds / Σ max(A, 0) over search rounds
    blame on contributing rounds  = the same with max(−A, 0)

Answer rounds are left out. The trainer never sees these verdicts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from searchgym.judges.oracle import OracleJudge
from searchgym.judges.protocol import traces_of

from ..core.credit import Credit
from ..core.groups import Groups

__all__ = ["PROBED", "credit_per_round", "measure_credit"]

PROBED = ("credit", "credit_contributing", "blame", "blame_contributing")
_ORACLE = OracleJudge()


def credit_per_round(groups: Groups, credit: Credit) -> NDArray[np.float64]:
    """The mean credit of each round's tokens, [R]; 0 for rounds without a token.

    Args:
        groups: what is learned from.
        credit: its credit.
    """
    total = int(groups.round_counts_E.sum())
    place_N, values_N = groups.round_of_token_N, credit.to_tokens(groups)
    if credit.loss_mask_N is not None:
        values_N = np.where(credit.loss_mask_N, values_N, 0.0)
    counts_R = np.bincount(place_N, minlength=total)
    sums_R = np.bincount(place_N, values_N, minlength=total)
    mean_R: NDArray[np.float64] = sums_R / np.maximum(counts_R, 1)
    return mean_R


def measure_credit(groups: Groups, credit: Credit) -> dict[str, float]:
    """The four sums of an iteration, `probe_<name>` for each of `PROBED`."""
    starts_E = np.cumsum(groups.round_counts_E) - groups.round_counts_E
    mean_R = credit_per_round(groups, credit)
    total = len(mean_R)
    search_R, contributing_R = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    for start, episode in zip(starts_E.tolist(), groups.episodes, strict=True):
        if not mean_R[start : start + len(episode.rounds)].any():
            continue
        searched = [r.action.kind == "search" for r in episode.rounds]
        judged = [trace for trace, is_search in zip(traces_of(episode), searched, strict=True) if is_search]
        verdicts = iter(_ORACLE.judge(judged))
        for offset, is_search in enumerate(searched):
            verdict = next(verdicts) if is_search else None
            if verdict is None or verdict.status != "ok":
                continue
            search_R[start + offset] = True
            contributing_R[start + offset] = bool(verdict.utility and verdict.reasoning)
    credit_R, blame_R = np.maximum(mean_R, 0.0), np.maximum(-mean_R, 0.0)
    sums = (
        credit_R[search_R].sum(),
        credit_R[contributing_R].sum(),
        blame_R[search_R].sum(),
        blame_R[contributing_R].sum(),
    )
    return {f"probe_{name}": float(value) for name, value in zip(PROBED, sums, strict=True)}
