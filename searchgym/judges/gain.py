"""Information gain of a search over gold passages, and how much of it was seen before (StepSearch).

arXiv 2505.15107, `qa_step.py`:

    gain       = 1/n Σ_i max(c_i − M_i, 0)     c_i: best TF-IDF cosine of this call's passages to gold passage i
                                               M_i: the best of all earlier calls; n gold passages
    redundancy = share of this call's passages that an earlier call had already returned

    found      = max_i max(c_i − M_i, 0) / (1 − M_i)     the share of what was missing of the gold passage that this call
                                                       came closest to; c_i = 1 for the gold passage itself

`found` is this project's own, for gold passages without an order: `gain` divides by n, so that one of two gold passages
is a half at most, and one of four a quarter.

Departure: the document frequencies come from at most 20,000 evenly spaced passages.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from ..records.question import Corpus, find_passage
from ..records.retriever import Hit
from .grounding import sample_passages

__all__ = ["InformationGain", "redundancy"]

_WORD = re.compile(r"\w+")


class InformationGain:
    """TF-IDF over a corpus; read at the first call of `gain`.

    Args:
        corpus: where the gold passages' texts and the document frequencies come from.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._idf: dict[str, float] | None = None
        self._vector = lru_cache(maxsize=8_192)(self._weigh)

    def gain(
        self,
        gold_ids: Sequence[str],
        new_hits: Collection[Hit],
        old_hits: Collection[Hit],
    ) -> float:
        """How much closer the new passages came to the gold passages than the old ones, in [0, 1].

        Args:
            gold_ids: gold passages.
            new_hits: of this call.
            old_hits: of all earlier calls.
        """
        pairs = self._similarities(gold_ids, new_hits, old_hits)
        return sum(max(new - old, 0.0) for new, old in pairs) / len(pairs) if pairs else 0.0

    def found(self, gold_ids: Sequence[str], new_hits: Collection[Hit], old_hits: Collection[Hit]) -> float:
        """How much of the missing content of one gold passage the new passages brought, in [0, 1].

        A hit with the id of a gold passage is that passage, whatever its text: records and servers cut texts elsewhere.

        Args:
            gold_ids: gold passages, in any order.
            new_hits: of this call.
            old_hits: of all earlier calls.
        """
        before = {hit.id for hit in old_hits}
        if {hit.id for hit in new_hits}.intersection(gold_ids) - before:
            return 1.0
        missing = [gold_id for gold_id in gold_ids if gold_id not in before]
        pairs = self._similarities(missing, new_hits, old_hits)
        return max((max(new - old, 0.0) / (1.0 - old) for new, old in pairs if old < 1.0), default=0.0)

    def _similarities(
        self, gold_ids: Sequence[str], new_hits: Collection[Hit], old_hits: Collection[Hit]
    ) -> list[tuple[float, float]]:
        """Per gold passage the best cosine of the new passages, and of the old ones."""
        new = [self._vector(f"{h.title}\n{h.text}") for h in new_hits]
        old = [self._vector(f"{h.title}\n{h.text}") for h in old_hits]
        pairs = []
        for gold_id in gold_ids:
            passage = find_passage(self._corpus, gold_id)
            gold = self._vector(f"{passage.title}\n{passage.text}")
            pairs.append(
                (
                    max((_cosine(gold, v) for v in new), default=0.0),
                    max((_cosine(gold, v) for v in old), default=0.0),
                )
            )
        return pairs

    def _weigh(self, text: str) -> Mapping[str, float]:
        """Unit-length TF-IDF vector of a text."""
        if self._idf is None:
            sample = sample_passages(self._corpus)
            frequency = Counter(w for p in sample for w in set(_words(f"{p.title}\n{p.text}")))
            self._unseen_idf = math.log(1 + len(sample)) + 1.0
            self._idf = {w: math.log((1 + len(sample)) / (1 + n)) + 1.0 for w, n in frequency.items()}
        weights = {w: n * self._idf.get(w, self._unseen_idf) for w, n in Counter(_words(text)).items()}
        norm = math.sqrt(sum(x * x for x in weights.values())) or 1.0
        return {w: x / norm for w, x in weights.items()}


def redundancy(new_hits: Collection[Hit], old_hits: Iterable[Hit]) -> float:
    """Share of the new hits that are among the old ones, in [0, 1]; 0 without hits.

    Args:
        new_hits: of this call.
        old_hits: of all earlier calls.
    """
    before = {hit.id for hit in old_hits}
    return sum(hit.id in before for hit in new_hits) / len(new_hits) if new_hits else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    return sum(x * large.get(w, 0.0) for w, x in small.items())
