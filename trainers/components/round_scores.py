"""Arithmetic of numbers that belong to single rounds: comparisons inside sets of rounds, of many sets at once."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["differ_by_set", "round_index", "standardize"]


def standardize(
    values_R: NDArray[np.float64],
    set_R: NDArray[np.int64],
    alone: Literal["zero", "raw"] = "zero",
    eps: float = 1e-6,
    weights_R: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """(x − mean) / (std + eps) of each value inside its set, with the unbiased standard deviation.

    Sets whose values are all equal get exact zeros. NaN is no value: it enters neither mean nor standard deviation, and its
    own result is 0.

    Args:
        values_R: x.
        set_R: the set of each value, any integers.
        alone: what the only value of a set gets: 0 ("zero"), or itself as with mean 0 and standard deviation 1 ("raw",
            as in verl).
        eps: added to the standard deviation.
        weights_R: how many times each value counts, 1 by default.
    """
    result_R = np.zeros(len(values_R))
    at = np.flatnonzero(~np.isnan(values_R))
    if not len(at):
        return result_R
    x, (_, set_x, size_S) = values_R[at], np.unique(set_R[at], return_inverse=True, return_counts=True)
    w = np.ones(len(x)) if weights_R is None else weights_R[at]
    low_S, high_S = np.full(len(size_S), np.inf), np.full(len(size_S), -np.inf)
    np.minimum.at(low_S, set_x, x)
    np.maximum.at(high_S, set_x, x)
    count_S = np.bincount(set_x, w)
    mean_S = np.bincount(set_x, w * x) / np.maximum(count_S, 1e-300)
    centred = x - mean_S[set_x]
    std_S = np.sqrt(np.bincount(set_x, w * centred**2) / np.maximum(count_S - 1.0, 1e-300))
    z = np.where((low_S < high_S)[set_x], centred / (np.where(low_S < high_S, std_S, 0.0) + eps)[set_x], 0.0)
    if alone == "raw":
        z = np.where(size_S[set_x] == 1, x / (1.0 + eps), z)
    result_R[at] = z
    return result_R


def differ_by_set(values_R: NDArray[np.float64], set_R: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Whether a set holds two unequal values, [count]; NaN is no value.

    Args:
        values_R: the values.
        set_R: the set of each, numbers from 0.
        count: number of sets.
    """
    low_S, high_S = np.full(count, np.inf), np.full(count, -np.inf)
    known = ~np.isnan(values_R)
    np.minimum.at(low_S, set_R[known], values_R[known])
    np.maximum.at(high_S, set_R[known], values_R[known])
    return low_S < high_S


def round_index(counts_E: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each round in its episode, from 0, all rounds in order.

    Args:
        counts_E: rounds of each episode.
    """
    index_R: NDArray[np.int64] = np.arange(int(counts_E.sum())) - np.repeat(
        np.cumsum(counts_E) - counts_E, counts_E
    )
    return index_R
