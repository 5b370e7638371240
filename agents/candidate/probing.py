"""The probability of an answer under the candidate policy: sums over its acts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from searchgym.scoring import exact_match

from .features import CandidateSet

__all__ = ["answer_logprob"]


def answer_logprob(
    candidates: CandidateSet, probs_C: NDArray[np.float64], golds: tuple[str, ...], forced: bool
) -> tuple[float, float]:
    """Log-probability of a right answer, -inf if none is a candidate, and the entropy of what it is drawn from.

    Args:
        candidates: the acts of a state.
        probs_C: their probabilities, possibly followed by padding.
        golds: accepted answers.
        forced: given that the act answers; a phrase that stands in several places is then one answer.
    """
    number_P, right_D = _answers(candidates.phrases, golds)
    count = len(number_P)
    answers_D = np.bincount(number_P, probs_C[count : 2 * count])
    if forced:
        answers_D = answers_D / answers_D.sum()
    drawn = answers_D if forced else probs_C[: len(candidates)]
    positive = drawn[drawn > 0.0]
    right = float(answers_D[right_D].sum())
    return float(np.log(right)) if right > 0.0 else -np.inf, float(-(positive * np.log(positive)).sum())


@lru_cache(maxsize=1 << 14)
def _answers(phrases: tuple[str, ...], golds: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The number of the answer that each phrase is, and whether each answer is right."""
    numbers = {phrase: i for i, phrase in enumerate(dict.fromkeys(phrases))}
    right = np.array([exact_match(phrase, golds) > 0.0 for phrase in numbers], dtype=bool)
    return np.array([numbers[phrase] for phrase in phrases]), right
