"""The hidden cases of assignments 1 to 3, drawn from a seed.

A case holds the arguments; what should come back is computed by `expected` after the student's process has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algorithms.cw_grpo import round_weights
from ..algorithms.gigpo import state_advantages
from ..core.objective import discounted_sums, group_advantages

__all__ = ["Case", "draw_cases"]


@dataclass(frozen=True)
class Case:
    """One hidden case.

    Attributes:
        check: what it checks; cases of one check share its points.
        points: of the check.
        function: the student's function.
        arguments: JSON values; infinite numbers are allowed.
        expected: computes what the function should return.
        tolerance: largest difference of a number, relative to numbers above 1.
    """

    check: str
    points: int
    function: str
    arguments: list[Any]
    expected: Callable[[], Any]
    tolerance: float = 1e-4


def draw_cases(number: int, seed: int) -> list[Case]:
    """The hidden cases of an assignment.

    Args:
        number: of the assignment, 1 to 3.
        seed: same seed, same cases.
    """
    rng = np.random.default_rng([seed, number])
    return list((_group_advantage, _contribution_weights, _anchor_credit)[number - 1](rng))


def _group_advantage(rng: np.random.Generator) -> Iterator[Case]:
    def case(check: str, points: int, rewards: Sequence[float], tolerance: float = 1e-4) -> Case:
        def expected() -> list[float]:
            return list(map(float, group_advantages(rewards)))

        return Case(check, points, "group_advantage", [list(rewards)], expected, tolerance)

    for _ in range(5):
        size = int(rng.integers(2, 13))
        right = int(rng.integers(1, size))
        yield case("rewards of 0 and 1", 8, rng.permutation([1.0] * right + [0.0] * (size - right)).tolist())
    for scale in (1.0, 0.1, 5.0, 100.0):
        yield case("other rewards", 6, rng.normal(0.0, scale, int(rng.integers(2, 10))).round(3).tolist())
    for value in (0.0, 1.0):
        yield case("equal rewards", 6, [value] * int(rng.integers(3, 12)), 0.0)
    for low, high in ((0.1, 0.9), (1e6, 1e7)):
        rewards = [0.0]
        while sum(rewards) / len(rewards) == rewards[0]:  # the mean differs in the last digit
            rewards = [float(rng.uniform(low, high))] * int(rng.integers(3, 8))
        yield case("equal rewards", 6, rewards, 0.0)


def _contribution_weights(rng: np.random.Generator) -> Iterator[Case]:
    def weights(contributions: Sequence[float], alpha: float) -> list[float]:
        count = len(contributions)
        searches_R, episode_R = np.ones(count, dtype=bool), np.zeros(count, dtype=np.int64)
        return list(map(float, round_weights(np.array(contributions), searches_R, episode_R, alpha)))

    def case(check: str, points: int, contributions: list[float], alpha: float) -> Case:
        return Case(
            check,
            points,
            "contribution_weights",
            [contributions, alpha],
            lambda: weights(contributions, alpha),
        )

    def draw(low: int = 1) -> list[float]:
        contributions = rng.integers(0, 5, int(rng.integers(low, 8))) / 4
        contributions[int(rng.integers(len(contributions)))] = 0.75  # not all of them are 0
        return [float(p) for p in contributions]

    for alpha in (0.0, float(rng.uniform(0.5, 2.0)), float(rng.uniform(2.0, 6.0)), 1.0):
        yield case("finite alpha", 8, draw(), alpha)
    for alpha in (1000.0, float(rng.integers(2_000, 9_000))):
        yield case("very large alpha", 4, draw(2), alpha)
    for _ in range(3):
        yield case("infinite alpha", 5, draw(), math.inf)
    for count in (1, int(rng.integers(2, 6))):
        yield case("infinite alpha, no contribution", 3, [0.0] * count, math.inf)
    for sign, alpha in ((1, 2.0), (1, math.inf), (-1, 2.0), (-1, math.inf)):
        contributions, advantage = draw(), sign * float(rng.uniform(0.2, 2.0))

        def credit(advantage: float = advantage, p: list[float] = contributions, alpha: float = alpha) -> Any:
            shares = weights(p, alpha) if advantage > 0 else [1.0] * len(p)
            return [advantage * share for share in shares] + [advantage]

        yield Case("credit of an episode", 5, "round_credit", [advantage, contributions, alpha], credit)


def _anchor_credit(rng: np.random.Generator) -> Iterator[Case]:
    def case(
        check: str, points: int, rewards: list[float], states: list[list[str]], gamma: float, omega: float
    ) -> Case:
        def expected() -> list[list[float]]:
            lengths = [len(names) for names in states]
            episode_R = np.repeat(np.arange(len(states)), lengths)
            paid_R = np.zeros(len(episode_R))
            paid_R[np.cumsum(lengths) - 1] = rewards
            numbers = {name: i for i, name in enumerate(dict.fromkeys(n for names in states for n in names))}
            state_R = np.array([numbers[n] for names in states for n in names])
            step_R = state_advantages(discounted_sums(paid_R, episode_R, gamma), state_R, scaled=True)
            credit_R = group_advantages(rewards)[episode_R] + omega * step_R
            return [part.tolist() for part in np.split(credit_R, np.cumsum(lengths)[:-1])]

        return Case(check, points, "anchor_credit", [rewards, states, gamma, omega], expected)

    def play(names: str) -> tuple[list[float], list[list[str]]]:
        size = int(rng.integers(3, 8))
        rewards = rng.permutation([1.0, 0.0, *rng.integers(0, 2, size - 2).astype(float)]).tolist()
        states = [
            ["question", *(str(rng.choice(list(names))) for _ in range(int(rng.integers(0, 5))))]
            for _ in range(size)
        ]
        return rewards, states

    for _ in range(3):
        yield case("omega 0", 6, *play("abc"), 0.9, 0.0)
    for omega in (1.0, 0.5, float(rng.uniform(0.2, 2.0))):
        yield case("shared states", 10, *play("abc"), 1.0, omega)
    for gamma in (0.95, 0.5, float(rng.uniform(0.6, 0.99))):
        yield case("discounting", 5, *play("abcd"), gamma, 1.0)
    alone = [[f"{i}{t}" for t in range(i + 1)] for i in range(3)]
    yield case("nothing to compare", 4, [1.0, 0.0, 1.0], alone, 0.9, 1.0)
    yield case("nothing to compare", 4, [1.0] * 4, [["question", "a"]] * 4, 0.9, 1.0)
