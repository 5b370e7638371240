"""Sequences that begin alike, laid out so that what they share stands there once.

The rollouts of one question share the question, those that did the same first search also its result, and so on: a
tree. In lexicographic order every path of it shares the most with the path before, so the tree is a list of
sequences and, for each, how many of its first tokens the one before has too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["PrefixTree", "common_beginning", "cut"]


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Paths as one row of T tokens.

    Attributes:
        ids_T: the row: of each path the tokens that it does not share with the one before.
        depths_T: position of each in its paths.
        columns: for each path, where its tokens lie in the row.
        shared: for each path, how many of its tokens the path before brought into the row.
    """

    ids_T: NDArray[np.int64]
    depths_T: NDArray[np.int64]
    columns: list[NDArray[np.int64]]
    shared: list[int]

    @classmethod
    def grow(cls, paths: Sequence[tuple[int, ...]]) -> PrefixTree:
        """The tree of one path or more, in lexicographic order."""
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


def cut(paths: Sequence[tuple[int, ...]], budget: int) -> list[list[int]]:
    """Positions in lexicographic order of their paths, in parts whose trees have at most `budget` tokens.

    A path longer than the budget is a part of its own; a part that starts in the middle of a group computes what
    the group shares again.
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
    """How many tokens two sequences begin with in common."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
