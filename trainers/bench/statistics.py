"""What can be said of scores over seeds. Scores are arrays [R, E]: R seeds, E environments.

Conventions of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv
2108.13264, the library rliable): percentile bootstrap, stratified by environment; interquartile mean; probability of
improvement = mean over environments of P(X > Y), ties counting half.

Ours: differences are paired by seed (a seed has the same questions in the same order for every trainer), and a verdict
rests on Student's t over these differences rather than on the bootstrap: with 5 seeds the percentile interval covers
the truth in only about five of six cases instead of 95 % (tests/trainers/test_bench_statistics.py measures it). Several
comparisons with one baseline are corrected after Holm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchgym.statistics import Interval

__all__ = [
    "Comparison",
    "Interval",
    "bootstrap",
    "compare",
    "holm",
    "iqm",
    "mean",
    "mean_difference",
    "probability_of_improvement",
    "seeds_needed",
    "t_cdf",
    "t_quantile",
]

Scores = NDArray[np.float64]
_RESAMPLES = 2_000
_MOST_SEEDS = 10_000


def mean(scores_BRE: Scores) -> Scores:
    """Mean over runs and environments, [B]."""
    found: Scores = scores_BRE.mean(axis=(1, 2))
    return found


def iqm(scores_BRE: Scores) -> Scores:
    """Interquartile mean over all runs, [B]: without the lowest and the highest quarter (rounded down)."""
    ordered = np.sort(scores_BRE.reshape(len(scores_BRE), -1), axis=1)
    cut = ordered.shape[1] // 4
    found: Scores = ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)
    return found


def mean_difference(x_BRE: Scores, y_BRE: Scores) -> Scores:
    """Mean of x - y, [B]."""
    return mean(x_BRE - y_BRE)


def probability_of_improvement(x_BRE: Scores, y_BRE: Scores) -> Scores:
    """Chance that a run of X beats a run of Y in a random environment, [B]; ties count half."""
    wins = np.sign(x_BRE[:, :, None, :] - y_BRE[:, None, :, :])
    found: Scores = 0.5 + 0.5 * wins.mean(axis=(1, 2, 3))
    return found


def bootstrap(
    scores: Sequence[Scores], statistic: Callable[..., Scores] = mean, paired: bool = False, seed: int = 0
) -> Interval:
    """Percentile bootstrap, stratified: runs are drawn anew within each environment.

    Args:
        scores: one or more arrays [R, E].
        statistic: of as many stacks of arrays, [B, R, E]; gives [B].
        paired: draw the same seeds from all arrays.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    drawn: list[Scores] = []
    rows_BRE = np.zeros(0, dtype=np.int64)
    for i, x_RE in enumerate(scores):
        if i == 0 or not paired:
            rows_BRE = generator.integers(len(x_RE), size=(_RESAMPLES, *x_RE.shape))
        drawn.append(x_RE[rows_BRE, np.arange(x_RE.shape[1])])
    low, high = np.quantile(statistic(*drawn), [0.025, 0.975])
    value = statistic(*(x_RE[None] for x_RE in scores))
    return Interval(float(value[0]), float(low), float(high))


# -- Student's t (no scipy among the dependencies) -------------------------------------------------------------


def t_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for a whole number of degrees of freedom; Abramowitz and Stegun 26.7.3-4."""
    theta = math.atan2(abs(t), math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    term = total = cosine if degrees % 2 else 1.0
    for k in range(3 if degrees % 2 else 2, degrees, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if degrees == 1:
        total = 0.0
    inside = 2 / math.pi * (theta + sine * total) if degrees % 2 else sine * total
    return 0.5 + math.copysign(inside / 2, t)


def t_quantile(probability: float, degrees: int) -> float:
    """The t that `t_cdf` gives a probability >= 0.5 for, by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def seeds_needed(difference: float, spread: float) -> int | None:
    """Fewest paired seeds whose 95 % t interval leaves out 0, if difference and spread stay as they are.

    None if that is more than ten thousand.
    """
    if difference == 0.0:
        return None
    if spread == 0.0:
        return 2

    def enough(count: int) -> bool:
        return t_quantile(0.975, count - 1) * spread / math.sqrt(count) < abs(difference)

    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if high > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm's step-down)."""
    order = np.argsort(p_values)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """One trainer against another on the same seeds.

    Attributes:
        difference: mean paired difference, with its stratified bootstrap interval over seeds.
        t_interval: the same mean with Student's interval; the verdict's.
        over_questions: the same mean, seeds and test questions both drawn anew.
        improvement: probability of improvement, with its interval.
        p: two-sided, of the paired t test. None with fewer than two seeds.
        spread: standard deviation of the paired differences.
        seeds: how many pairs.
    """

    difference: Interval
    t_interval: Interval
    over_questions: Interval | None
    improvement: Interval
    p: float | None
    spread: float
    seeds: int

    def verdict(self, p: float | None = None) -> str:
        """ "better", "worse" or "undecided" at 5 %; with `p`, an adjusted one."""
        p = self.p if p is None else p
        if p is None or p >= 0.05:
            return "undecided"
        return "better" if self.difference.value > 0 else "worse"

    def more_seeds(self) -> int | None:
        """How many more seeds would decide, if all stays as measured; None: more than ten thousand, or unknown."""
        needed = seeds_needed(self.difference.value, self.spread) if self.seeds > 1 else None
        return None if needed is None else max(1, needed - self.seeds)

    def in_words(self, label: str, other: str) -> str:
        """The verdict as a sentence."""
        verdict, d = self.verdict(), self.t_interval
        if self.p is None:
            return f"{label} against {other}: undecided; one seed says nothing about another. Run at least 3."
        measured = (
            f"difference in test EM {d.value:+.3f}, 95 % interval [{d.low:+.3f}, {d.high:+.3f}] over {self.seeds} seeds "
            f"(paired t, p = {self.p:.3g})"
        )
        if verdict != "undecided":
            return f"{label} is {verdict} than {other}: {measured}."
        if self.spread == 0.0:
            return f"{label} against {other}: undecided; test EM differed by {d.value:+.3f} in every one of {self.seeds} seeds."
        more = self.more_seeds()
        if more is None:
            advice = (
                "The difference, if there is one, is too small for any number of seeds that one could run."
            )
        else:
            advice = (
                f"If difference and spread (standard deviation {self.spread:.3f}) stay as measured, {more} more "
                f"seed{'s' if more > 1 else ''} would decide; there may also be no difference."
            )
        return f"{label} against {other}: undecided; {measured}. {advice}"


def compare(x_RE: Scores, y_RE: Scores, right: tuple[Scores, Scores] | None = None) -> Comparison:
    """Compare scores of the same seeds in the same environments.

    Args:
        x_RE, y_RE: the scores; row r of both is the same seed.
        right: both as [R, Q], one number per test question, for the interval over questions.
    """
    count = len(x_RE)
    d_R = (x_RE - y_RE).mean(axis=1)
    average = float(d_R.mean())
    spread = float(d_R.std(ddof=1)) if count > 1 else 0.0
    error = spread / math.sqrt(count)
    if count < 2:
        p, half = None, math.inf
    elif error == 0.0:
        p, half = (1.0 if average == 0.0 else 0.0), 0.0
    else:
        p = 2 * (1 - t_cdf(abs(average) / error, count - 1))
        half = t_quantile(0.975, count - 1) * error
    return Comparison(
        difference=bootstrap([x_RE, y_RE], mean_difference, paired=True),
        t_interval=Interval(average, average - half, average + half),
        over_questions=_crossed(right[0] - right[1]) if right is not None else None,
        improvement=bootstrap([x_RE, y_RE], probability_of_improvement),
        p=p,
        spread=spread,
        seeds=count,
    )


def _crossed(d_RQ: Scores, seed: int = 0) -> Interval:
    """Mean with a percentile interval, seeds and questions both drawn anew (independently)."""
    generator = np.random.default_rng(seed)
    rows, columns = d_RQ.shape
    weights_BR = generator.multinomial(rows, np.full(rows, 1 / rows), size=_RESAMPLES) / rows
    weights_BQ = generator.multinomial(columns, np.full(columns, 1 / columns), size=_RESAMPLES) / columns
    low, high = np.quantile(((weights_BR @ d_RQ) * weights_BQ).sum(axis=1), [0.025, 0.975])
    return Interval(float(d_RQ.mean()), float(low), float(high))
