"""Scores of answers, and the scripts of writing that they tell apart."""

from .answers import (
    DEFAULT_SEGMENTATION,
    SEGMENTATIONS,
    AnswerScores,
    contains_answer,
    exact_match,
    f1,
    normalize_answer,
    recall,
    score_answer,
    sub_exact_match,
)
from .ranking import ndcg
from .scripts import IDEOGRAPHS, KATAKANA, SOUTH_EAST_ASIAN, TIBETAN

__all__ = [
    "DEFAULT_SEGMENTATION",
    "IDEOGRAPHS",
    "KATAKANA",
    "SEGMENTATIONS",
    "SOUTH_EAST_ASIAN",
    "TIBETAN",
    "AnswerScores",
    "contains_answer",
    "exact_match",
    "f1",
    "ndcg",
    "normalize_answer",
    "recall",
    "score_answer",
    "sub_exact_match",
]
