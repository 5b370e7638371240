"""Gold for recorded rollouts: which question of a corpus a rollout played, and which hits are its gold passages.

The passages of a recorded rollout come from another dump of the encyclopedia than the corpus and are cut at other
places. Hence:

- A question matches by its words, ignoring case and punctuation. If two questions of the corpus have the same words,
  neither matches.
- A hit is a gold passage of its question if their titles match in the same way ("Creed" and "Creed (band)" do
  not), so every part of a gold article counts, as in CW-GRPO, whose judge treats documents of one title as
  one source; or if more than half of the word trigrams of the shorter text, and at least ten, are in the longer
  one. The text decides for pages that were requested under an older name, and for snippets, which have no title.

A hit that matches takes the id of the gold passage, so that judges see it as that passage.
"""

from __future__ import annotations

import html
import re
import unicodedata

from ..records.question import Corpus, Passage, Question, find_passage
from ..records.retriever import Hit

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
        """The question with these words; None if no question has them, or several do."""
        return self._questions.get(_key(text))

    def mark(self, question: Question, hits: list[Hit]) -> list[Hit]:
        """The hits, in which gold passages of the question have the ids of these passages.

        Args:
            question: a question of the corpus.
            hits: of a recorded search.
        """
        passages = [find_passage(self.corpus, i) for i in question.supporting_ids]
        marked = []
        for hit in hits:
            gold = next((p for p in passages if _same(hit, p)), None)
            marked.append(hit if gold is None else hit._replace(id=gold.id))
        return marked


def _same(hit: Hit, passage: Passage) -> bool:
    if hit.title and _key(hit.title) == _key(passage.title):
        return True
    ours, theirs = _trigrams(passage.text), _trigrams(hit.text)
    least = min(len(ours), len(theirs))
    return least >= _LEAST_TRIGRAMS and len(ours & theirs) > _SHARED * least


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", html.unescape(text)).casefold())


def _key(text: str) -> str:
    return " ".join(_words(text))


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return set(zip(words, words[1:], words[2:], strict=False))
