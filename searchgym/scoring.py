"""Scoring of answers: exact match, token F1, substring match, and recall of gold passages.

Normalisation is SQuAD's (lower-case, drop punctuation, drop articles, squeeze white space), which Search-R1,
FlashRAG and the papers reproduced here use. Two departures, both because the original rewards empty answers:

1. A gold answer that normalises to the empty string ("A", "The", "!") is compared by its stripped,
   case-folded text instead, so that an empty answer never matches.
2. An empty answer scores 0 on every metric.

Comparison with Search-R1's scorer (`qa_em.py`, measured in tests/core/test_scoring.py): its extractor needs
two `<answer>` pairs because its input still holds the prompt's example, and it reads the whole transcript, so
an `<answer>` inside a retrieved document can be credited. Here only the agent's own final act is scored.
On one well-formed answer the two agree.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

__all__ = ["exact_match", "f1", "normalize_answer", "recall", "sub_exact_match"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


@lru_cache(maxsize=65_536)
def _normalize_cached(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def normalize_answer(text: str) -> str:
    """Lower-case, remove ASCII punctuation and the articles a/an/the, squeeze white space (SQuAD)."""
    return _normalize_cached(text) if len(text) <= 512 else _normalize_cached.__wrapped__(text)


def _key(text: str) -> str:
    """What is compared: the normal form, or the bare text if the normal form is empty (departure 1)."""
    return normalize_answer(text) or text.strip().casefold()


def exact_match(answer: str, golds: Iterable[str]) -> float:
    """1.0 if the answer equals any gold answer after normalisation, otherwise 0.0.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
    """
    key = _key(answer)
    return float(bool(key) and any(key == _key(gold) for gold in golds))


def sub_exact_match(answer: str, golds: Iterable[str]) -> float:
    """1.0 if the answer contains any gold answer as a run of whole words, otherwise 0.0.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
    """
    padded = f" {_key(answer)} "
    return float(padded.strip() != "" and any(f" {_key(gold)} " in padded for gold in golds if _key(gold)))


def f1(answer: str, golds: Iterable[str]) -> float:
    """Best token-level F1 over the gold answers, in [0, 1].

    "yes", "no" and "noanswer" must match exactly (the HotpotQA rule): a shared word means nothing there.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
    """
    answer_key = _key(answer)
    answer_tokens = answer_key.split()
    best = 0.0
    for gold in golds:
        gold_key = _key(gold)
        if answer_key != gold_key and {answer_key, gold_key} & {"yes", "no", "noanswer"}:
            continue
        gold_tokens = gold_key.split()
        same = sum((Counter(answer_tokens) & Counter(gold_tokens)).values())
        if same:
            precision, coverage = same / len(answer_tokens), same / len(gold_tokens)
            best = max(best, 2 * precision * coverage / (precision + coverage))
    return best


def recall(found_ids: Iterable[str], gold_ids: Sequence[str]) -> float:
    """Share of the gold passages that were retrieved, in [0, 1]; 0.0 without gold passages.

    Args:
        found_ids: ids of the retrieved passages.
        gold_ids: ids of the gold passages.
    """
    gold = set(gold_ids)
    return len(gold.intersection(found_ids)) / len(gold) if gold else 0.0
