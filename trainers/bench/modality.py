"""Whether the outcomes of runs have one heap or more: Silverman's test (Journal of the Royal Statistical Society B 43, 1981).

A kernel density estimate has fewer modes the wider its Gaussian kernel. The critical width is the smallest with one mode. If
the outcomes have one mode, samples that are drawn from that estimate (rescaled to the variance of the outcomes) mostly need no
greater width; the p value is the share of them that do. The test is known to be conservative.

Where it finds more than one heap, the two heaps are divided at the lowest point between the modes of the widest estimate
with two modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Modality", "find_heaps"]

LEVEL = 0.05
_RESAMPLES = 200
_FEWEST = 8
_GRID = 128


@dataclass(frozen=True)
class Modality:
    """What the test found.

    Attributes:
        p: of one mode; None with fewer than eight outcomes, or if all are equal.
        border: between the two heaps; None unless p is below 0.05.
        low_share: share of the outcomes below the border.
        low_mean: their mean.
        high_mean: the mean of the others.
    """

    p: float | None
    border: float | None = None
    low_share: float | None = None
    low_mean: float | None = None
    high_mean: float | None = None


def find_heaps(outcomes: NDArray[np.float64], seed: int = 0) -> Modality:
    """Test whether outcomes have one mode.

    Args:
        outcomes: one number per run, [R].
        seed: of the resampling.
    """
    x = np.sort(np.asarray(outcomes, dtype=np.float64))
    spread = float(x.std())
    if len(x) < _FEWEST or spread < 1e-9:
        return Modality(None)
    width = _critical_width(x, 1)
    generator = np.random.default_rng(seed)
    rescale = 1 / np.sqrt(1 + width**2 / spread**2)
    wider = 0
    for _ in range(_RESAMPLES):
        drawn = x[generator.integers(len(x), size=len(x))]
        smooth = x.mean() + rescale * (drawn - x.mean() + width * generator.standard_normal(len(x)))
        wider += _modes(np.sort(smooth), width)[0] > 1
    p = wider / _RESAMPLES
    if p >= LEVEL:
        return Modality(p)
    # Just below the critical width of one mode there are two.
    count, grid, density = _modes(x, width * 0.98)
    peaks = _peaks(density)
    if count < 2:
        return Modality(p)
    highest = np.sort(peaks[np.argsort(density[peaks])[-2:]])
    border = float(grid[highest[0] + int(np.argmin(density[highest[0] : highest[1] + 1]))])
    low = x < border
    return Modality(p, border, float(low.mean()), float(x[low].mean()), float(x[~low].mean()))


def _critical_width(x: NDArray[np.float64], modes: int) -> float:
    """The smallest width of the kernel with at most so many modes, by bisection."""
    low, high = 0.0, float(x[-1] - x[0])
    for _ in range(30):
        middle = (low + high) / 2
        if _modes(x, middle)[0] > modes:
            low = middle
        else:
            high = middle
    return high


def _modes(x: NDArray[np.float64], width: float) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Number of modes of the density estimate, with its grid and values."""
    grid = np.linspace(x[0] - 3 * width, x[-1] + 3 * width, _GRID)
    density = np.exp(-0.5 * ((grid[:, None] - x) / width) ** 2).sum(axis=1)
    return len(_peaks(density)), grid, density


def _peaks(density: NDArray[np.float64]) -> NDArray[np.int64]:
    inner = (density[1:-1] > density[:-2]) & (density[1:-1] >= density[2:])
    return np.flatnonzero(inner) + 1
