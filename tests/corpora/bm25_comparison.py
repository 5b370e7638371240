"""Compares the two searches of BM25 over random corpora; for a test and for `tests/campaigns/bm25_exact.py`."""

from __future__ import annotations

import random
from unittest import mock

import numpy as np
from list_corpus import ListCorpus

from searchgym.corpora.bm25 import layout
from searchgym.corpora.bm25.index import BM25


def compare(seed: int, largest: int = 40_000) -> int:
    """Compare the two searches over one random corpus.

    Args:
        seed: determines everything.
        largest: the most passages.

    Returns:
        How many results were compared; those without hits are not counted.

    Raises:
        AssertionError: two results differ.
    """
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    count = int(largest ** rng.uniform(0, 1))
    vocabulary = rng.choice((2, 10, 100, 3000))
    chances = np.arange(1, vocabulary + 1) ** -rng.uniform(0.3, 1.3)
    sizes = draw.choice((1, 2, 5, 12), count) * (1 + (draw.random(count) < 0.01) * 30)
    words = draw.choice(vocabulary, int(sizes.sum()), p=chances / chances.sum())
    parts = np.split(words, np.cumsum(sizes)[:-1])
    texts = [" ".join(f"w{number}" for number in part.tolist()) for part in parts]
    step = rng.choice((2, 7, 100))
    texts[::step] = [texts[0]] * len(texts[::step])  # ties
    packed = mock.patch.object(layout, "_PLAIN_UP_TO", 0 if rng.random() < 0.5 else 1 << 16)
    compared = 0
    with packed:
        index = BM25.build(
            ListCorpus(texts), k1=rng.choice((0.0, 0.9, 1.2, 1000.0)), b=rng.choice((0.0, 0.4, 1.0))
        )
        for _ in range(8):
            query = " ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.choice((1, 2, 4, 12, 40))))
            terms, k = index._query_terms(query), min(int(1000 ** rng.uniform(0, 1)), count)
            if terms:
                one, other = (next(iter(best([terms], k))) for best in (index._best, index._best_compiled))
                assert one == other, (seed, query, k)
                compared += 1
    return compared
