"""From text to index terms: one function for passages and queries, so that both always agree.

The chain is Lucene's English one, slightly simplified: compatibility normalisation (NFKC), case folding,
words, possessive 's dropped, Lucene's 33 stop words dropped, Porter's stemmer.

A word is a run of Unicode letters, digits and underscores, at most 255 of them (Lucene's limit). Ideographs
and hiragana are words of one character, as in Lucene's standard tokenizer: no space separates their words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import Stemmer

__all__ = ["STOP_WORDS", "TOKENIZER", "stem", "words"]

TOKENIZER = "nfkc-casefold-max255-lucene33-porter/1"
"""Names everything below; part of every index hash. Change it with any change of the terms a text gets."""

# fmt: off
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to",
    "was", "will", "with",
})
# fmt: on

_SINGLE = r"\u3005-\u3007\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_find_words = re.compile(rf"([{_SINGLE}]|[^\W{_SINGLE}]{{1,255}})(?:['’]s\b)?").findall
# The stemmer's own cache is off: callers look every distinct word up once and keep the result.
_stemmer = Stemmer.Stemmer("porter", 0)


def words(text: str) -> list[str]:
    """The words of a text in order, folded but neither stopped nor stemmed. Any string will do."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    found: list[str] = _find_words(text.casefold())
    return found


def stem(distinct: Iterable[str]) -> dict[str, str]:
    """The index term of each word; stop words have none and are left out."""
    kept = [word for word in distinct if word not in STOP_WORDS]
    terms = _stemmer.stemWords(kept)
    # Snowball's Porter leaves nothing of "s": such a word is its own term.
    return {word: term or word for word, term in zip(kept, terms, strict=True)}
