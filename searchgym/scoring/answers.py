"""Scoring of answers: exact match, token F1, substring match, and recall of gold passages.

Normalisation is SQuAD's (lower-case, drop punctuation, drop articles, squeeze white space), which Search-R1,
FlashRAG and the papers reproduced here use. Two departures, both because the original rewards empty answers:

1. A gold answer that normalises to the empty string ("A", "The", "!") is compared by its stripped,
   case-folded text instead, so that an empty answer never matches.
2. An empty answer scores 0 on every metric.

F1 and substring match compare words. In scripts that do not separate words by spaces (Chinese, Japanese, Thai, Lao, Khmer,
Burmese, Tibetan), each character with its vowel signs is a word, as in MLQA's and DRCD's scores; see `SEGMENTATIONS`.

Comparison with Search-R1's scorer (`qa_em.py`, measured in tests/core/test_scoring.py): its extractor needs
two `<answer>` pairs because its input still holds the prompt's example, and it reads the whole transcript, so
an `<answer>` inside a retrieved document can be credited. Here only the agent's own final act is scored.
On one well-formed answer the two agree.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from .scripts import IDEOGRAPHS, KATAKANA, SOUTH_EAST_ASIAN, TIBETAN

__all__ = [
    "DEFAULT_SEGMENTATION",
    "SEGMENTATIONS",
    "AnswerScores",
    "contains_answer",
    "exact_match",
    "f1",
    "normalize_answer",
    "recall",
    "score_answer",
    "sub_exact_match",
]

SEGMENTATIONS = ("characters", "spaces")
"""What F1 and substring match count as a word. "characters": what is between spaces, but each character of a script
without spaces, where punctuation does not count. "spaces": always what is between spaces, as in SQuAD's own script; then
both metrics are nearly EM in such scripts."""
DEFAULT_SEGMENTATION = "characters"

_CACHED_CHARS = 512
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_is_unseparated = re.compile(f"[{IDEOGRAPHS}{KATAKANA}{SOUTH_EAST_ASIAN}{TIBETAN}]").search
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


@lru_cache(maxsize=65_536)
def _normalize_cached(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def normalize_answer(text: str) -> str:
    """Lower-case, remove ASCII punctuation and the articles a/an/the, squeeze white space (SQuAD)."""
    return _normalize_cached(text) if len(text) <= _CACHED_CHARS else _normalize_cached.__wrapped__(text)


def _key(text: str) -> str:
    """What is compared: the normal form, or the bare text if the normal form is empty (departure 1)."""
    return normalize_answer(text) or text.strip().casefold()


class AnswerScores(NamedTuple):
    """The three scores of an answer, each in [0, 1].

    Attributes:
        em: see `exact_match`.
        f1: see `f1`.
        sub_em: see `sub_exact_match`.
    """

    em: float
    f1: float
    sub_em: float


def score_answer(answer: str, golds: Iterable[str], segmentation: str = DEFAULT_SEGMENTATION) -> AnswerScores:
    """All scores of an answer. Those of short answers are kept: the episodes of one question often end alike.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
        segmentation: what words are; see `SEGMENTATIONS`.
    """
    score = _score_cached if len(answer) <= _CACHED_CHARS else _score_cached.__wrapped__
    return score(answer, tuple(golds), segmentation)


@lru_cache(maxsize=16_384)
def _score_cached(answer: str, golds: tuple[str, ...], segmentation: str) -> AnswerScores:
    return AnswerScores(
        exact_match(answer, golds),
        f1(answer, golds, segmentation),
        sub_exact_match(answer, golds, segmentation),
    )


def exact_match(answer: str, golds: Iterable[str]) -> float:
    """1.0 if the answer equals any gold answer after normalisation, otherwise 0.0.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
    """
    key = _key(answer)
    return float(bool(key) and any(key == _key(gold) for gold in golds))


def sub_exact_match(answer: str, golds: Iterable[str], segmentation: str = DEFAULT_SEGMENTATION) -> float:
    """1.0 if the answer contains any gold answer as a run of whole words, otherwise 0.0.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
        segmentation: what words are; see `SEGMENTATIONS`.
    """
    answer_key = _key(answer)
    padded = f" {_segmented(answer_key, segmentation)} "
    if not padded.strip():
        return 0.0
    keys = (_segmented(_key(gold), segmentation, answer_key) for gold in golds)
    return float(any(f" {key} " in padded for key in keys if key))


def f1(answer: str, golds: Iterable[str], segmentation: str = DEFAULT_SEGMENTATION) -> float:
    """Best token-level F1 over the gold answers, in [0, 1].

    "yes", "no" and "noanswer" must match exactly (the HotpotQA rule): a shared word means nothing there.

    Args:
        answer: the agent's answer.
        golds: accepted answers.
        segmentation: what words are; see `SEGMENTATIONS`.
    """
    answer_key = _key(answer)
    best = 0.0
    for gold in golds:
        gold_key = _key(gold)
        if answer_key != gold_key and {answer_key, gold_key} & {"yes", "no", "noanswer"}:
            continue
        answer_tokens = _segmented(answer_key, segmentation, gold_key).split()
        gold_tokens = _segmented(gold_key, segmentation, answer_key).split()
        if set(answer_tokens).isdisjoint(
            gold_tokens
        ):  # counting is slow, and most wrong answers share nothing
            continue
        same = sum((Counter(answer_tokens) & Counter(gold_tokens)).values())
        precision, coverage = same / len(answer_tokens), same / len(gold_tokens)
        best = max(best, 2 * precision * coverage / (precision + coverage))
    return best


def contains_answer(text: str, answer: str, segmentation: str = DEFAULT_SEGMENTATION) -> bool:
    """Whether a text contains an answer as a run of whole words; False if the answer normalises to nothing.

    Args:
        text: any text.
        answer: an accepted answer.
        segmentation: what words are; see `SEGMENTATIONS`.
    """
    text_key = normalize_answer(text)
    key = _segmented(normalize_answer(answer), segmentation, text_key)
    return bool(key) and f" {key} " in f" {_segmented(text_key, segmentation)} "


def _segmented(key: str, segmentation: str, other: str = "") -> str:
    """The words of normalised text, with a space between any two.

    Args:
        key: the text.
        segmentation: see `SEGMENTATIONS`.
        other: what it is compared with: if its words are segmented, these are as well, or "o’brien" would differ from itself.
    """
    if key.isascii() or segmentation == "spaces" or not (_is_unseparated(key) or _is_unseparated(other)):
        return key
    return _segment(key) or key  # nothing but punctuation stays what it is


@lru_cache(maxsize=4_096)
def _segment(key: str) -> str:
    spaced: list[str] = []
    after = False  # whether the last character is of a script without spaces
    for char in key:
        category = unicodedata.category(char)
        if category.startswith("M"):  # a vowel sign or an accent belongs to the character before it
            spaced.append(char)
        elif category.startswith("P"):
            spaced.append(" ")
        else:
            unseparated = _is_unseparated(char) is not None
            spaced.append(f" {char}" if unseparated or after else char)
            after = unseparated
    return " ".join("".join(spaced).split())


def recall(found_ids: Iterable[str], gold_ids: Sequence[str]) -> float:
    """Share of the gold passages that were retrieved, in [0, 1]; 0.0 without gold passages.

    Args:
        found_ids: ids of the retrieved passages.
        gold_ids: ids of the gold passages.
    """
    gold = set(gold_ids)
    return len(gold.intersection(found_ids)) / len(gold) if gold else 0.0
