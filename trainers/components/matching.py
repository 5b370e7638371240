"""Assignments between the rows and the columns of a small score matrix."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_assignment", "greedy_assignment", "transport_plan"]


def best_assignment(scores: NDArray[np.float64]) -> list[int | None]:
    """The assignment with the largest sum of scores (Kuhn-Munkres, by shortest augmenting paths; O(n^3)).

    Each row gets at most one column and each column at most one row; of P rows and G columns min(P, G) are matched.

    Args:
        scores: [P, G], finite.

    Returns:
        The column of each row, or None.
    """
    rows, columns = scores.shape
    if rows > columns:
        owner = best_assignment(scores.T)
        return [owner.index(row) if row in owner else None for row in range(rows)]
    # Potentials u, v keep every reduced cost -score - u - v at 0 or above; matched pairs have 0. Column 0 is the root, and
    # plain lists are faster than arrays for the few rows and columns of an episode.
    costs = (-scores).tolist()
    u, v, row_of = [0.0] * (rows + 1), [0.0] * (columns + 1), [0] * (columns + 1)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        shortest, came_from = [math.inf] * (columns + 1), [0] * (columns + 1)
        done: list[int] = []
        left = list(range(1, columns + 1))
        while row_of[column]:
            done.append(column)
            at = row_of[column]
            for other in left:
                reduced = costs[at - 1][other - 1] - u[at] - v[other]
                if reduced < shortest[other]:
                    shortest[other], came_from[other] = reduced, column
            column = min(left, key=shortest.__getitem__)
            step = shortest[column]
            for other in done:
                u[row_of[other]] += step
                v[other] -= step
            for other in left:
                shortest[other] -= step
            left.remove(column)
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    columns_of: list[int | None] = [None] * rows
    for column in range(1, columns + 1):
        if row_of[column]:
            columns_of[row_of[column] - 1] = column - 1
    return columns_of


def greedy_assignment(scores: NDArray[np.float64]) -> list[int | None]:
    """Pairs in order of falling score, each row and column once; equal scores in order of row, then column.

    Args:
        scores: [P, G].

    Returns:
        The column of each row, or None.
    """
    rows, columns = scores.shape
    chosen: list[int | None] = [None] * rows
    for place in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(place, columns)
        if chosen[row] is None and column not in chosen:
            chosen[row] = column
    return chosen


def transport_plan(scores: NDArray[np.float64], reg: float, iterations: int = 1000) -> NDArray[np.float64]:
    """Entropic optimal transport by Sinkhorn's iteration: cost −score, uniform marginals.

    Args:
        scores: [P, G], finite.
        reg: weight of the entropy; at least a 500th of the range of the scores, below which exp underflows.
        iterations: at most; it stops once the marginals hold to 1e-6.

    Returns:
        T, [P, G]: columns sum to 1 / G, rows to 1 / P.
    """
    rows, columns = scores.shape
    kernel = np.exp((scores - scores.max()) / reg)
    v = np.full(columns, 1.0 / columns)
    spread = kernel @ v
    for _ in range(iterations):
        u = 1.0 / (rows * spread)
        v = 1.0 / (columns * (u @ kernel))
        spread = kernel @ v
        if np.abs(u * spread * rows - 1.0).max() < 1e-6:
            break
    return np.asarray(u[:, None] * kernel * v, dtype=np.float64)
