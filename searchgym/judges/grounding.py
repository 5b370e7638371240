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

from ..records.episode import RoundRecord
from ..records.question import Corpus, Hop, Passage
from ..records.retriever import Hit
from ..scoring import contains_answer, normalize_answer
from .protocol import Trace
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
        corpus: where to look; None if there are only the texts of a trace.
    """

    def __init__(self, corpus: Corpus | None) -> None:
        self._corpus = corpus
        self._stems: frozenset[str] | None = None

    def ungrounded(self, trace: Trace, chain: Sequence[Hop] = ()) -> str:
        """The first name in the queries of the last round that has not been read, or "".

        Names are capitalised words, numbers, bridges of the derivation, and words in lower case that no text uses as
        common words: names, invented or guessed.

        Args:
            trace: its last round is a search; the question and the results of earlier rounds have been read.
            chain: the gold derivation, whose queries and relations need not be read, and whose bridges must be.
        """
        *earlier, last = trace.rounds
        query, asked = " ".join(last.action.queries), trace.question.text.casefold()
        names = names_in(query) + [h.bridge for h in chain if h.bridge.casefold() in query.casefold()]
        names = [name for name in names if not contains_words(asked, name)]
        words = [w for w in _LETTERS.findall(query) if w.islower() and w not in _ORDINARY]
        words = [word for word in words if not contains_words(asked, word)]
        if names or words:
            read = text_of(hit for round_ in earlier for hit in round_.hits).casefold()
            names = [name for name in names if not contains_words(read, name)]
            words = [word for word in words if not contains_words(read, word)]
        if words and not names:
            derivation = "\n".join(f"{hop.query}\n{hop.relation}" for hop in chain).casefold()
            words = [word for word in words if not contains_words(derivation, word)]
            common = self._common(hit for round_ in trace.rounds for hit in round_.hits) if words else ()
            names = [word for word in words if _stem(word) not in common]
        return names[0] if names else ""

    def _common(self, at_hand: Iterable[Hit]) -> frozenset[str]:
        """The stems of words in lower case of the corpus, or of the texts at hand if there is none."""
        if self._corpus is None:
            return _lower_stems(hit.text for hit in at_hand)
        if self._stems is None:
            self._stems = _lower_stems(passage.text for passage in sample_passages(self._corpus))
        return self._stems


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
    known = any(key == normalize_answer(gold) for gold in accepted)
    return any(
        contains_answer(f"{hit.title} {hit.text}", answer)
        and (known or holds_name(hit.title, key, heading=True) or holds_name(hit.text, key))
        for hit in hits
    )


def holds_name(text: str, key: str, heading: bool = False) -> bool:
    """Whether a text contains words of which at least one is written as a name.

    A capital letter at the beginning of a sentence proves nothing for an ordinary word, or one that the text also has in
    lower case.

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
            and (heading or not opens[i] or not (words[i][0] in lower or words[i][0] in _ORDINARY))
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
