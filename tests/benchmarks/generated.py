"""A corpus of any size that is nowhere stored: every passage is computed from its number when it is asked for.

Words follow Zipf's law as it is found in large corpora: the rank r has a probability proportional to 1/r up to
rank 10,000 and to 1/r^1.8 from there to 2^21. The 33 most frequent are Lucene's stop words, a third of the text.
Passages have 100 words, as in wiki-18, but no topics and no grammar, which is hard on engines that skip: scores
are flat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from searchgym.corpora.bm25.analyzer import STOP_WORDS
from searchgym.errors import UnknownIdError
from searchgym.records.question import Passage, Question

_LENGTH = 100  # words
_RANKS = 2**21
_BEND, _STEEP = np.log(10_000), 0.8  # from here on the log of a rank falls off exponentially, at this rate
_TAIL = 1 - np.exp(-_STEEP * (np.log(_RANKS) - _BEND))
_HEAD = _BEND / (_BEND + _TAIL / _STEEP)  # the share of words up to the bend
_AT_ONCE = 1024  # passages computed together when reading in order
_SYLLABLES = [
    consonant + vowel
    for vowel in ("a", "o", "u", "i", "au", "ou", "ao", "oa")
    for consonant in "bdfgklmnprtvzjwc"
]


def _spell(rank: int) -> str:
    """Rank as a word: 1 to 3 syllables, the more frequent the shorter."""
    word = ""
    while rank >= 0:
        rank, digit = divmod(rank, len(_SYLLABLES))
        word += _SYLLABLES[digit]
        rank -= 1
    return word


def _words() -> NDArray[np.bytes_]:
    frequent = sorted(STOP_WORDS)
    return np.array([*frequent, *(_spell(rank) for rank in range(_RANKS - len(frequent)))], "S12")


def _random(numbers: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each whole number: the finaliser of SplitMix64."""
    numbers = numbers * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((numbers ^ (numbers >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


class Passages(Sequence[Passage]):
    """Passages `start` to `stop` of the corpus."""

    def __init__(self, start: int, stop: int, words: NDArray[np.bytes_]) -> None:
        self._range = range(start, stop)
        self._words = words

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, position: int) -> Passage: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Passage]: ...
    def __getitem__(self, position: int | slice) -> Passage | Sequence[Passage]:
        if isinstance(position, slice):
            part = self._range[position]
            return Passages(part.start, part.stop, self._words)
        number = self._range[position]
        return self._some(number, number + 1)[0]

    def __iter__(self) -> Iterator[Passage]:
        for first in range(self._range.start, self._range.stop, _AT_ONCE):
            yield from self._some(first, min(first + _AT_ONCE, self._range.stop))

    def _some(self, start: int, stop: int) -> list[Passage]:
        places = np.arange(start * _LENGTH, stop * _LENGTH, dtype=np.uint64)
        share = _random(places)
        beyond = np.maximum(share - _HEAD, 0) / (1 - _HEAD)
        logs = np.minimum(share / _HEAD, 1) * _BEND - np.log1p(-beyond * _TAIL) / _STEEP
        ranks = np.exp(logs).astype(np.int64) - 1
        texts = self._words[ranks].reshape(-1, _LENGTH).tolist()
        return [
            Passage(f"{number:08}", b" ".join(text[:2]).decode(), b" ".join(text[2:]).decode())
            for number, text in enumerate(texts, start)
        ]


class GeneratedCorpus:
    """Implements `searchgym.Corpus`; has no questions."""

    splits = ()

    def __init__(self, size: int) -> None:
        self.name = f"generated-{size}"
        self.hash = f"{self.name}-1"
        self.passages: Sequence[Passage] = Passages(0, size, _words())

    def questions(self, split: str) -> Sequence[Question]:
        raise UnknownIdError("split", split, ())

    def question(self, task_id: str) -> Question:
        raise UnknownIdError("task", task_id, ())

    def queries(self, count: int) -> list[str]:
        """Queries with something to find: 12 words of a passage each, drawn with the help of a fixed seed."""
        draw = np.random.RandomState(0)
        queries = []
        for number in draw.randint(len(self.passages), size=count):
            words = self.passages[int(number)].text.split()
            queries.append(" ".join(words[i] for i in draw.choice(len(words), 12, replace=False)))
        return queries
