"""Means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "Interval", "bootstrap"]

_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % percentile bootstrap interval over questions."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of per-question values with its percentile bootstrap interval (2,000 resamples, 95 %)."""
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    # A block of resamples at a time: all at once takes gigabytes for a large split.
    block = max(1, 1_000_000 // len(array))
    sizes = [min(block, _RESAMPLES - done) for done in range(0, _RESAMPLES, block)]
    draws = (array[generator.integers(len(array), size=(rows, len(array)))] for rows in sizes)
    means = np.concatenate([drawn.mean(axis=1) for drawn in draws])
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
