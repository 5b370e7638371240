"""Sequences with common beginnings, laid out so that shared tokens appear once.

The rollouts of one question share the question, those with the same first search also its result, and so on: they form a
tree. In lexicographic order each path shares most with the path before it, so the tree is a list of sequences and, for
each, the number of its first tokens that the one before has too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["PrefixTree", "common_beginning", "split_by_budget"]


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Paths as one row of T tokens.

    Attributes:
        ids_T: the row: the tokens of each path that it does not share with the path before it.
        depths_T: position of each token in its path.
        columns: for each path, the positions of its tokens in the row.
        shared: for each path, the number of first tokens that the path before it has in the row already.
    """

    ids_T: NDArray[np.int64]
    depths_T: NDArray[np.int64]
    columns: list[NDArray[np.int64]]
    shared: list[int]

    @classmethod
    def grow(cls, paths: Sequence[tuple[int, ...]]) -> PrefixTree:
        """The tree of at least one path; `paths` are in lexicographic order."""
        shared = [0, *(common_beginning(*pair) for pair in pairwise(paths))]
        columns: list[NDArray[np.int64]] = []
        total = 0
        for path, common in zip(paths, shared, strict=True):
            new = len(path) - common
            before = columns[-1][:common] if common else np.zeros(0, dtype=np.int64)
            columns.append(np.concatenate([before, np.arange(total, total + new)]))
            total += new
        return cls(
            np.concatenate([np.array(p[n:], dtype=np.int64) for p, n in zip(paths, shared, strict=True)]),
            np.concatenate([np.arange(n, len(p)) for p, n in zip(paths, shared, strict=True)]),
            columns,
            shared,
        )


def split_by_budget(paths: Sequence[tuple[int, ...]], budget: int) -> list[list[int]]:
    """Split paths into parts whose trees have at most `budget` tokens each.

    A path longer than the budget is a part of its own. A part that starts in the middle of a group computes the group's
    shared tokens again.

    Returns:
        Positions in `paths`, in lexicographic order of the paths, each in one part.
    """
    order = sorted(range(len(paths)), key=lambda i: paths[i])
    parts: list[list[int]] = []
    spent = 0
    for i in order:
        new = len(paths[i]) - (common_beginning(paths[parts[-1][-1]], paths[i]) if parts else 0)
        if not parts or spent + new > budget:
            parts.append([])
            spent, new = 0, len(paths[i])
        parts[-1].append(i)
        spent += new
    return parts


def common_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that two sequences have in common at their beginning."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
