"""Texts that are nearly equal, grouped: the states of GiGPO and the clusters of SLEA-RL."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clusters", "cluster_texts"]


class Clusters:
    """Groups of similar texts, each with its first text as the representative.

    Args:
        similarity: smallest difflib ratio of a text and its representative.

    Attributes:
        leaders: the representatives, in the order in which they came.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self.leaders: list[str] = []
        self._length_L: NDArray[np.int64] = np.zeros(0, np.int64)
        self._letters_LB: NDArray[np.int64] = np.zeros((0, 128), np.int64)
        self._matcher = SequenceMatcher(autojunk=False)

    def find(self, text: str) -> str | None:
        """The first representative that is similar enough; None if there is none.

        Args:
            text: any text.
        """
        # The ratio is 2 · matching letters / both lengths, and a letter cannot match more often than it occurs in both
        # texts: a cheap bound that avoids most calls of the quadratic ratio().
        most_L = np.minimum(self._letters_LB[: len(self.leaders)], _letters(text)).sum(axis=1)
        possible_L = 2.0 * most_L >= self._similarity * (self._length_L[: len(self.leaders)] + len(text))
        self._matcher.set_seq2(text)  # difflib indexes this side once
        for leader in np.flatnonzero(possible_L).tolist():
            self._matcher.set_seq1(self.leaders[leader])
            if self._matcher.ratio() >= self._similarity:
                return self.leaders[leader]
        return None

    def add(self, text: str) -> str:
        """The representative of a text, which is the text itself if none is similar enough.

        Args:
            text: any text.
        """
        found = self.find(text)
        if found is not None:
            return found
        count = len(self.leaders)
        if count == len(self._length_L):  # twice as much room, so that adding n texts copies O(n) rows
            room = max(16, count)
            self._length_L = np.concatenate([self._length_L, np.zeros(room, np.int64)])
            self._letters_LB = np.concatenate([self._letters_LB, np.zeros((room, 128), np.int64)])
        self._length_L[count], self._letters_LB[count] = len(text), _letters(text)
        self.leaders.append(text)
        return text


def cluster_texts(texts: Iterable[str], similarity: float) -> dict[str, str]:
    """The representative of each text: in sorted order, the first that is similar enough, or the text itself.

    Args:
        texts: the texts; duplicates count once.
        similarity: smallest difflib ratio inside a cluster.
    """
    clusters = Clusters(similarity)
    return {text: clusters.add(text) for text in sorted(set(texts))}


def _letters(text: str) -> NDArray[np.int64]:
    """How often each letter occurs, [128]; letters that share a place can only raise the bound on similarity."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return np.bincount(codes % 128, minlength=128)
