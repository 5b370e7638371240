"""Assignments between the rows and the columns of a small score matrix."""

from __future__ import annotations

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
    # Potentials u, v keep every reduced cost cost - u - v at 0 or above; matched pairs have 0. Column 0 is the root.
    cost = -scores
    u, v = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=np.int64)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        shortest, came_from = np.full(columns + 1, np.inf), np.zeros(columns + 1, dtype=np.int64)
        done = np.zeros(columns + 1, dtype=bool)
        while row_of[column]:
            done[column] = True
            at = row_of[column]
            reduced = cost[at - 1] - u[at] - v[1:]
            closer = np.flatnonzero(~done[1:] & (reduced < shortest[1:])) + 1
            shortest[closer], came_from[closer] = reduced[closer - 1], column
            column = int(np.where(done, np.inf, shortest).argmin())
            step = shortest[column]
            u[row_of[done]] += step
            v[done] -= step
            shortest[~done] -= step
        while column:
            row_of[column] = row_of[came_from[column]]
            column = int(came_from[column])
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
    """Entropic optimal transport by Sinkhorn's iteration, in logarithms: cost −score, uniform marginals.

    Args:
        scores: [P, G], finite.
        reg: weight of the entropy, above 0.
        iterations: at most; it stops once the marginals hold to 1e-9.

    Returns:
        T, [P, G]: rows sum to 1 / P, columns to 1 / G.
    """
    rows, columns = scores.shape
    kernel = scores / reg
    f, g = np.zeros((rows, 1)), np.zeros((1, columns))
    for _ in range(iterations):
        f = -np.log(rows) - np.logaddexp.reduce(kernel + g, axis=1, keepdims=True)
        g = -np.log(columns) - np.logaddexp.reduce(kernel + f, axis=0, keepdims=True)
        plan = np.exp(kernel + f + g)
        if np.abs(plan.sum(axis=1) - 1.0 / rows).max() < 1e-9:
            break
    return np.asarray(plan, dtype=np.float64)
