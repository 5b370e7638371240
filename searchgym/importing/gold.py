"""Gold for recorded rollouts: which question of a corpus a rollout played, and which hits are its gold passages.

The passages of a recorded rollout come from another dump of the encyclopedia than the corpus, cut elsewhere. Hence:

- a question matches by its words, case and punctuation aside; two questions of the corpus with the same words
  match nothing.
- a hit is a gold passage of its question if their titles agree in the same sense ("Creed" and "Creed (band)" do
  not), so every piece of a gold article counts as it, as in CW-GRPO, whose judge takes documents of one title for
  one source; or if more than half of the word trigrams of the shorter text are in the longer one, at least ten of
  them. The text decides where a page was asked for under an older name, and for snippets, which have no title.

A hit that matches takes the id of the gold passage, so that judges see it as that passage.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

from ..question import Corpus, Passage, Question, find_passage

__all__ = ["GoldPassages"]

_WORD = re.compile(r"\w+")
_LEAST_TRIGRAMS = 10
_SHARED = 0.5


class GoldPassages:
    """The questions of a corpus by their words, and their gold passages; see the module docstring."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self._questions: dict[str, Question | None] = {}
        for split in corpus.splits:
            for question in corpus.questions(split):
                key = _key(question.text)
                self._questions[key] = None if key in self._questions else question

    def question(self, text: str) -> Question | None:
        """The question with these words; None if there is none, or more than one."""
        return self._questions.get(_key(text))

    def mark(self, question: Question, hits: list[dict[str, Any]]) -> int:
        """Give the hits that are gold passages of the question the ids of these; returns how many."""
        passages = [find_passage(self.corpus, i) for i in question.supporting_ids]
        marked = 0
        for hit in hits:
            gold = next((p for p in passages if _same(hit, p)), None)
            if gold is not None:
                hit["id"] = gold.id
                marked += 1
        return marked


def _same(hit: dict[str, Any], passage: Passage) -> bool:
    if hit["title"] and _key(hit["title"]) == _key(passage.title):
        return True
    ours, theirs = _trigrams(passage.text), _trigrams(hit["text"])
    least = min(len(ours), len(theirs))
    return least >= _LEAST_TRIGRAMS and len(ours & theirs) > _SHARED * least


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", html.unescape(text)).casefold())


def _key(text: str) -> str:
    return " ".join(_words(text))


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return set(zip(words, words[1:], words[2:], strict=False))
