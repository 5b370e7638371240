"""How close credit is to the truth.

One value of credit c and one true advantage A per round. A round counts as neutral if its act changes next to nothing: |A| is
at most `negligible` or, where values were estimated, at most two standard errors.

    sign            mean of sign(c)·sign(A) over rounds that are not neutral: 1 all agree, −1 all are reversed; c = 0 counts 0
    pearson         correlation of c and A over all rounds
    spearman        rank correlation over all rounds
    within          mean rank correlation inside an episode; an episode whose credit is constant ranks nothing and counts 0
    idle share      Σ|c| on neutral rounds / Σ|c|: credit and blame spent where nothing was decided
    answer bias     mean of c/rms(c) − A/rms(A) over answer rounds: above 0, answers are praised more than they deserve
    slope           of the regression of A on c: the true advantage that one unit of credit stands for
    noise           share of the variance of c that A does not explain: 1 − pearson²

None of them depends on the scale of c, except the slope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchgym.records.episode import Episode
from searchgym.statistics import Interval, percentile_interval

from .truth import TrueCredit

__all__ = [
    "NEGLIGIBLE",
    "SCORES",
    "Rounds",
    "credit_scores",
    "gather_rounds",
    "rank_correlation",
    "score_intervals",
]

NEGLIGIBLE = 0.01
_CONSTANT = 1e-9
_RESAMPLES = 200


@dataclass(frozen=True)
class Rounds:
    """All rounds of some episodes, flat, [R] each.

    Attributes:
        true_R: true advantage.
        neutral_R: whether the act changed nothing.
        answers_R: whether the round answered.
        episode_R: number of the episode.
        group_E: number of the question of each episode, [E].
    """

    true_R: NDArray[np.float64]
    neutral_R: NDArray[np.bool_]
    answers_R: NDArray[np.bool_]
    episode_R: NDArray[np.int64]
    group_E: NDArray[np.int64]

    def choose(self, episodes: NDArray[np.int64]) -> tuple[Rounds, NDArray[np.int64]]:
        """Some episodes, which may repeat, as episodes of their own.

        Returns:
            Their rounds, and the position of each in this object.
        """
        counts_E = np.bincount(self.episode_R, minlength=len(self.group_E))
        first_E = np.cumsum(counts_E) - counts_E
        counts = counts_E[episodes]
        ends = np.cumsum(counts)
        place_R = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
            first_E[episodes] - ends + counts, counts
        )
        chosen = Rounds(
            self.true_R[place_R],
            self.neutral_R[place_R],
            self.answers_R[place_R],
            np.repeat(np.arange(len(episodes)), counts),
            self.group_E[episodes],
        )
        return chosen, place_R


def gather_rounds(
    episodes: Sequence[Episode], truth: Sequence[TrueCredit], negligible: float = NEGLIGIBLE
) -> Rounds:
    """The rounds of episodes with their true credit.

    Args:
        episodes: E episodes.
        truth: the true credit of each.
        negligible: an advantage up to this size, in units of the return, counts as zero.
    """
    true_R = np.concatenate([np.zeros(0), *(t.advantages_R for t in truth)])
    errors_R = np.concatenate([np.zeros(0), *(t.errors_R for t in truth)])
    answers = [record.action.kind == "answer" for episode in episodes for record in episode.rounds]
    tasks = {task: i for i, task in enumerate(dict.fromkeys(episode.task_id for episode in episodes))}
    return Rounds(
        true_R,
        np.abs(true_R) <= np.maximum(negligible, 2 * errors_R),
        np.array(answers, dtype=bool),
        np.repeat(np.arange(len(episodes)), [len(episode.rounds) for episode in episodes]),
        np.array([tasks[episode.task_id] for episode in episodes], dtype=np.int64),
    )


def _sign(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    decided_R = ~rounds.neutral_R
    if not decided_R.any():
        return np.nan
    return float(np.mean(np.sign(credit_R[decided_R]) * np.sign(rounds.true_R[decided_R])))


def _pearson(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    return _correlation(rounds.true_R, credit_R)


def _spearman(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    return rank_correlation(rounds.true_R, credit_R)


def _within(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    return _mean_defined(_within_episodes(rounds, credit_R))


def _within_episodes(rounds: Rounds, credit_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank correlation inside each episode, [E]; nan where no round differs from another."""
    found_E = np.full(len(rounds.group_E), np.nan)
    cuts = np.flatnonzero(np.diff(rounds.episode_R)) + 1
    parts = zip(
        np.split(rounds.episode_R, cuts), np.split(rounds.true_R, cuts), np.split(credit_R, cuts), strict=True
    )
    for episodes, true, credit in parts:
        if len(true) > 1 and np.ptp(true) > _CONSTANT:
            found_E[episodes[0]] = rank_correlation(true, credit)
    return found_E


def _mean_defined(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _idle_share(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    total = np.abs(credit_R).sum()
    return float(np.abs(credit_R[rounds.neutral_R]).sum() / total) if total > 0 else np.nan


def _answer_bias(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    scales = [np.sqrt(np.mean(values**2)) for values in (credit_R, rounds.true_R)]
    if not rounds.answers_R.any() or min(scales) == 0.0:
        return np.nan
    bias_R = credit_R / scales[0] - rounds.true_R / scales[1]
    return float(bias_R[rounds.answers_R].mean())


def _slope(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    variance = float(np.var(credit_R))
    if variance == 0.0:
        return np.nan
    return float(np.mean((credit_R - credit_R.mean()) * (rounds.true_R - rounds.true_R.mean())) / variance)


def _noise(rounds: Rounds, credit_R: NDArray[np.float64]) -> float:
    return 1.0 - _pearson(rounds, credit_R) ** 2


SCORES: dict[str, Callable[[Rounds, NDArray[np.float64]], float]] = {
    "sign": _sign,
    "pearson": _pearson,
    "spearman": _spearman,
    "within": _within,
    "idle share": _idle_share,
    "answer bias": _answer_bias,
    "slope": _slope,
    "noise": _noise,
}
"""Name -> function of the rounds and their credit [R]; nan where a score is not defined."""


def credit_scores(
    rounds: Rounds, credit_R: NDArray[np.float64], names: Iterable[str] = SCORES
) -> dict[str, float]:
    """The scores of some credit.

    Args:
        rounds: the rounds with their true credit.
        credit_R: the credit of each, [R].
        names: which scores.
    """
    with np.errstate(invalid="ignore"):
        return {name: SCORES[name](rounds, credit_R) if len(credit_R) else np.nan for name in names}


def score_intervals(
    rounds: Rounds, credit_R: NDArray[np.float64], names: Iterable[str] = SCORES, seed: int = 0
) -> dict[str, Interval]:
    """The scores with their 95 % intervals: 200 bootstrap resamples of questions, with all episodes of each.

    Args:
        rounds: the rounds with their true credit.
        credit_R: the credit of each, [R].
        names: which scores.
        seed: of the resampling.
    """
    names = list(names)
    value = credit_scores(rounds, credit_R, names)
    groups = int(rounds.group_E.max()) + 1 if len(rounds.group_E) else 0
    members = [np.flatnonzero(rounds.group_E == group) for group in range(groups)]
    generator = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in names}
    # The slowest score is a mean over episodes, so it is not computed again for those that are drawn.
    within_E = _within_episodes(rounds, credit_R) if "within" in names else np.zeros(0)
    others = [name for name in names if name != "within"]
    for _ in range(_RESAMPLES if groups > 1 else 0):
        drawn = np.concatenate([members[group] for group in generator.integers(groups, size=groups)])
        chosen, place_R = rounds.choose(drawn)
        found = credit_scores(chosen, credit_R[place_R], others)
        if "within" in names:
            found["within"] = _mean_defined(within_E[drawn])
        for name, score in found.items():
            if not np.isnan(score):
                resampled[name].append(score)
    return {
        name: percentile_interval(value[name], np.array(resampled[name]))
        if resampled[name]
        else Interval(value[name], np.nan, np.nan)
        for name in names
    }


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's correlation, equal values sharing the mean of their ranks; 0 if one of the two is constant.

    Args:
        x: [n].
        y: [n].
    """
    return _correlation(_ranks(x), _ranks(y))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = ((ends - counts + ends - 1) / 2)[inverse]
    return ranks


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if len(x) == 0:
        return np.nan
    a, b = x - x.mean(), y - y.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-300 else 0.0
