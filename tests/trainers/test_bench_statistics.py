"""What a benchmark says of scores, against hand-worked numbers, slow plain versions and known tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from searchgym.trainers.bench.statistics import (
    bootstrap,
    compare,
    holm,
    iqm,
    mean_difference,
    probability_of_improvement,
    seeds_needed,
    t_cdf,
    t_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (19, 2.0930), (120, 1.9799)],
)
def test_students_t_agrees_with_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)
    assert t_cdf(quantile, degrees) == pytest.approx(0.975, abs=1e-5)
    assert t_cdf(-quantile, degrees) == pytest.approx(0.025, abs=1e-5)
    assert t_cdf(0.0, degrees) == 0.5


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    scores = np.array([[0.0, 0.9], [0.2, 0.4], [0.3, 1.0], [0.1, 0.5]])  # sorted: 0 .1 | .2 .3 .4 .5 | .9 1
    assert iqm(scores[None])[0] == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)
    assert iqm(np.array([[[0.0], [0.3], [0.9]]]))[0] == pytest.approx(0.4)


def test_probability_of_improvement_counts_pairs_and_half_of_ties() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, size=(6, 2)) / 4, rng.integers(0, 4, size=(5, 2)) / 4
    plain = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(x[:, e], y[:, e])])
        for e in range(2)
    ]
    assert probability_of_improvement(x[None], y[None])[0] == pytest.approx(np.mean(plain))


def test_the_bootstrap_is_stratified_by_environment() -> None:
    between = np.array([[0.0, 1.0]] * 6)  # environments differ, seeds do not: no uncertainty
    found = bootstrap([between])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(40, 3))
    found = bootstrap([scores])
    error = math.sqrt(sum(scores[:, e].var() / 40 for e in range(3))) / 3
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_pairing_takes_out_what_seeds_have_in_common() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(size=(20, 1))
    x, y = common + 0.1 + 0.01 * rng.normal(size=(20, 1)), common
    paired = bootstrap([x, y], mean_difference, paired=True)
    assert paired.low > 0.08
    assert paired.high < 0.12
    apart = bootstrap([x, y], mean_difference)
    assert apart.low < 0.0 < apart.high


def test_five_seeds_are_too_few_for_a_percentile_interval_and_not_for_students() -> None:
    rng = np.random.default_rng(3)
    covered = {"bootstrap": 0, "t": 0}
    worlds = 600
    for _ in range(worlds):
        d_R = rng.normal(size=5)
        means = d_R[rng.integers(5, size=(500, 5))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        covered["bootstrap"] += bool(low <= 0.0 <= high)
        half = t_quantile(0.975, 4) * d_R.std(ddof=1) / math.sqrt(5)
        covered["t"] += bool(abs(d_R.mean()) <= half)
    assert covered["bootstrap"] / worlds < 0.88  # about 0.83
    assert 0.925 < covered["t"] / worlds < 0.975


def test_holm_is_the_step_down_procedure() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_a_verdict_in_words() -> None:
    x, y = column(0.62, 0.70, 0.66, 0.71, 0.64), column(0.50, 0.55, 0.57, 0.58, 0.49)
    better = compare(x, y)
    assert better.verdict() == "better"
    assert better.in_words("a", "b").startswith("a is better than b: difference in test EM +0.128")
    assert compare(y, x).in_words("b", "a").startswith("b is worse than a: difference in test EM -0.128")
    assert better.verdict(p=0.2) == "undecided"  # after the correction for many rows


def test_an_undecided_verdict_says_how_many_more_seeds() -> None:
    x, y = column(0.6, 0.5, 0.7, 0.4, 0.6), column(0.5, 0.55, 0.5, 0.5, 0.6)
    found = compare(x, y)
    assert found.verdict() == "undecided"
    more = found.more_seeds()
    assert more is not None
    needed = 5 + more
    d_R = (x - y)[:, 0]
    half = [t_quantile(0.975, n - 1) * d_R.std(ddof=1) / math.sqrt(n) for n in (needed - 1, needed)]
    assert half[0] >= abs(d_R.mean()) > half[1]
    assert f"{more} more seeds would decide" in found.in_words("a", "b")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (column(0.5), "one seed says nothing"),
        (column(0.5, 0.6, 0.7), "differed by +0.000 in every one of 3 seeds"),
        (column(0.6, 0.5, 0.7), "too small for any number of seeds"),
    ],
)
def test_there_is_no_verdict_without_a_difference(x: np.ndarray, words: str) -> None:
    found = compare(x, column(0.5, 0.6, 0.7)[: len(x)])
    assert found.verdict() == "undecided"
    assert words in found.in_words("a", "b")


def test_seeds_needed_at_the_edges() -> None:
    assert seeds_needed(0.0, 0.1) is None
    assert seeds_needed(1e-9, 0.1) is None
    assert seeds_needed(0.1, 0.0) == 2
    assert seeds_needed(10.0, 0.1) == 2


def test_the_interval_over_questions_is_wider_where_questions_decide() -> None:
    rng = np.random.default_rng(4)
    question_Q = rng.normal(size=30)
    x_RQ = np.tile(question_Q, (8, 1)) + 0.01 * rng.normal(size=(8, 30))
    found = compare(x_RQ.mean(axis=1, keepdims=True), np.zeros((8, 1)), (x_RQ, np.zeros((8, 30))))
    assert found.over_questions is not None
    wide = found.over_questions.high - found.over_questions.low
    assert wide == pytest.approx(2 * 1.96 * question_Q.std() / math.sqrt(30), rel=0.15)
    assert wide > 10 * (found.difference.high - found.difference.low)
