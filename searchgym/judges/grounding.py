"""Whether a query or an answer is grounded: it repeats nothing, and what it names has been read.

Judges pay for grounded acts, so each of these checks is what an agent would try to cheat:

- A query repeats an earlier one if it has the same words in any order, ignoring case, punctuation and articles.
- An answer is supported if retrieved text contains it *as a name*: with a capital letter or a digit, or in a script without
  capital letters. "is" and "city" are in almost every text and answer nothing. An accepted answer of the question
  may be in lower case.
- A word of a query in lower case is a name if it is not an ordinary word of queries and the corpus never writes it in lower
  case: an invented name does not become a common word by writing it small.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..episode import RoundRecord
from ..question import Corpus, Passage
from ..retriever import Hit
from ..scoring import normalize_answer
from .words import FUNCTION_WORDS, OPENERS, QUERY_WORDS

__all__ = [
    "CommonWords",
    "contains_words",
    "holds_name",
    "names_in",
    "repeats",
    "sample_passages",
    "support",
    "text_of",
]

_SAMPLE = 20_000
_ENTITY = re.compile(r"\b(?:[A-Z][\w'’-]*|\d(?:[\w.,]*\w)?)")
_LETTERS = re.compile(r"[^\W\d_]{3,}")
_ENDING = re.compile(r"(?<=...)(?:ings?|ed|e?rs?|es?|s|ly)\Z")
_ORDINARY = FUNCTION_WORDS | QUERY_WORDS
_SENTENCE_END = (".", "!", "?", ":", ";", '."', '!"', '?"', ".”", "!”", "?”")


def sample_passages(corpus: Corpus) -> list[Passage]:
    """At most 20,000 evenly spaced passages: enough for statistics of words."""
    passages = corpus.passages
    step = max(1, len(passages) // _SAMPLE)
    return [passages[i] for i in range(0, len(passages), step)]


def text_of(hits: Iterable[Hit]) -> str:
    """Titles and texts of hits as one text."""
    return "\n".join(f"{hit.title}\n{hit.text}" for hit in hits)


def repeats(queries: Iterable[str], earlier: Iterable[RoundRecord]) -> bool:
    """Whether a query has the same words as one of an earlier round."""
    before = {_bag(query) for round_ in earlier for query in round_.action.queries}
    return bool(before) and any(_bag(query) in before for query in queries)


def names_in(query: str) -> list[str]:
    """The capitalised words and the numbers of a query, without words that only open it."""
    return [name for name in _ENTITY.findall(query) if name.lower() not in OPENERS]


class CommonWords:
    """The words that a corpus writes in lower case, read at the first question about one.

    Args:
        corpus: where to look; None if there is only the text at hand.
    """

    def __init__(self, corpus: Corpus | None) -> None:
        self._corpus = corpus
        self._stems: frozenset[str] | None = None

    def unknown(self, query: str, known: Iterable[str], at_hand: Iterable[Hit]) -> list[str]:
        """The words of a query in lower case that are neither known nor common: names, invented or guessed.

        Args:
            query: the query.
            known: case-folded texts that the agent may take words from.
            at_hand: hits whose words in lower case are common words if there is no corpus.
        """
        words = [w for w in _LETTERS.findall(query) if w.islower() and w not in _ORDINARY]
        for text in known:
            words = [word for word in words if not contains_words(text, word)]
        if not words:
            return []
        if self._corpus is None:
            common = _lower_stems(hit.text for hit in at_hand)
        elif self._stems is None:
            common = self._stems = _lower_stems(p.text for p in sample_passages(self._corpus))
        else:
            common = self._stems
        return [word for word in words if _stem(word) not in common]


def contains_words(text: str, words: str) -> bool:
    """Whether a case-folded text contains this, in any case, as whole words."""
    folded = words.casefold()
    start = text.find(folded)
    while start >= 0:
        end = start + len(folded)
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            return True
        start = text.find(folded, start + 1)
    return False


def support(answer: str, accepted: Sequence[str], hits: Sequence[Hit]) -> bool:
    """Whether the hits contain an answer as a name, or as an accepted answer.

    Args:
        answer: the agent's answer.
        accepted: answers of the question, which may be common words.
        hits: everything retrieved.
    """
    key = normalize_answer(answer)
    if not key:
        return False
    padded = f" {key} "
    holding = [h for h in hits if padded in f" {normalize_answer(h.title)} {normalize_answer(h.text)} "]
    if not holding or key in {normalize_answer(gold) for gold in accepted}:
        return bool(holding)
    return any(holds_name(hit.title, key, heading=True) or holds_name(hit.text, key) for hit in holding)


def holds_name(text: str, key: str, heading: bool = False) -> bool:
    """Whether a text contains words of which at least one is written as a name.

    A capital letter at the beginning of a sentence proves nothing if the text also has the word in lower case.

    Args:
        text: where to look.
        key: normalised words.
        heading: the text is a title or a query, where an initial capital letter is part of a name.
    """
    wanted = key.split()
    words = [(token, word) for word in text.split() for token in normalize_answer(word).split()]
    lower = {token for token, word in words if word.islower()}
    opens = [True, *(word.endswith(_SENTENCE_END) for _, word in words)]
    for start in range(len(words) - len(wanted) + 1):
        if all(words[start + i][0] == token for i, token in enumerate(wanted)) and any(
            not words[i][1].islower()
            and words[i][0] not in FUNCTION_WORDS
            and (heading or not opens[i] or words[i][0] not in lower)
            for i in range(start, start + len(wanted))
        ):
            return True
    return False


def _bag(query: str) -> tuple[str, ...]:
    return tuple(sorted(normalize_answer(query).split()))


def _lower_stems(texts: Iterable[str]) -> frozenset[str]:
    words = {word for text in texts for word in _LETTERS.findall(text) if word.islower()}
    return frozenset(map(_stem, words))


def _stem(word: str) -> str:
    """A word without its English ending: "employers" and "employed" are as common as "employer"."""
    return _ENDING.sub("", word)
