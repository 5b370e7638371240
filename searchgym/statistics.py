"""Means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "bootstrap", "percentile_interval", "resamples"]

_RESAMPLES = 2_000
_BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval.

    Attributes:
        value: the figure.
        low: 2.5 % quantile.
        high: 97.5 % quantile.
    """

    value: float
    low: float
    high: float

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> Interval:
        """Rebuild an interval from its JSON form, in which the value of a mean is called "mean".

        Args:
            data: {"mean" or "value", "low", "high"}.
        """
        return cls(data["mean"] if "mean" in data else data["value"], data["low"], data["high"])

    def to_json(self) -> dict[str, float]:
        """The JSON form of a mean."""
        return {"mean": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resamples(size: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """The rows of 2,000 bootstrap resamples, in blocks: all at once take gigabytes for a large split.

    Args:
        size: rows to draw from, and rows per resample.
        seed: of the generator.

    Yields:
        Row indices, [resamples of the block, size], not to be written to.
    """
    if size <= _BLOCK // _RESAMPLES:
        yield _all_resamples(size, seed)
        return
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // size)
    for done in range(0, _RESAMPLES, rows):
        yield generator.integers(size, size=(min(rows, _RESAMPLES - done), size))


@lru_cache(maxsize=8)
def _all_resamples(size: int, seed: int) -> NDArray[np.int64]:
    """All resamples at once, kept because every evaluation of a run draws the same ones."""
    rows = np.random.default_rng(seed).integers(size, size=(_RESAMPLES, size))
    rows.setflags(write=False)
    return rows


def percentile_interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """A figure with the 95 % percentile interval of its resampled values.

    Args:
        value: the figure.
        resampled: its value in each resample.
    """
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of per-question values with its percentile bootstrap interval (2,000 resamples, 95 %).

    Args:
        values: one per question.
        seed: of the resampling.
    """
    array = np.asarray(values, dtype=np.float64)
    means = np.concatenate([array[rows].mean(axis=1) for rows in resamples(len(array), seed)])
    return percentile_interval(float(array.mean()), means)
