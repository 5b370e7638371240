"""Scores of ranked lists."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

__all__ = ["ndcg"]


def ndcg(ranked_ids: Sequence[str], relevant_ids: Collection[str], ideal: int) -> float:
    """Normalised discounted cumulative gain with binary relevance, in [0, 1].

        NDCG = Σ_i [ranked_i relevant] / log2(i + 1)  /  Σ_(i = 1 … ideal) 1 / log2(i + 1),   i from 1

    Args:
        ranked_ids: ids of the passages, the best first, each once.
        relevant_ids: ids of the relevant passages.
        ideal: relevant passages in the best possible list, which is the number of relevant passages or the length of the
            list, whichever is smaller; at least 1.
    """
    best = sum(1 / math.log2(i + 2) for i in range(ideal))
    return sum(1 / math.log2(i + 2) for i, id_ in enumerate(ranked_ids) if id_ in relevant_ids) / best
