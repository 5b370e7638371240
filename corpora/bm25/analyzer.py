"""From text to index terms, in the same way for passages and queries.

The steps are those of Lucene's English analyzer, slightly simplified: compatibility normalisation (NFKC), case folding,
words, removal of possessive 's and of Lucene's 33 stop words, Porter's stemmer.

A word is a sequence of Unicode letters, digits and underscores, at most 255 of them (Lucene's limit). As in Lucene's
standard tokenizer, each ideograph and each hiragana character is a word, because these scripts do not separate words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import Stemmer

__all__ = ["STOP_WORDS", "TOKENIZER", "stem", "words"]

TOKENIZER = "nfkc-casefold-max255-lucene33-porter/1"
"""The version of the analysis; part of every index hash. Change it whenever the terms of any text change."""

# fmt: off
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to",
    "was", "will", "with",
})
# fmt: on

_SINGLE = r"\u3005-\u3007\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_find_words = re.compile(rf"([{_SINGLE}]|[^\W{_SINGLE}]{{1,255}})(?:['’]s\b)?").findall
# The stemmer's own cache is off: callers stem every distinct word once and keep the result.
_stemmer = Stemmer.Stemmer("porter", 0)


def words(text: str) -> list[str]:
    """The words of a text in order, case-folded, with stop words and not stemmed. Any string is accepted."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    found: list[str] = _find_words(text.casefold())
    return found


def stem(distinct: Iterable[str]) -> dict[str, str]:
    """The index term of each word; stop words are omitted."""
    kept = [word for word in distinct if word not in STOP_WORDS]
    terms = _stemmer.stemWords(kept)
    # Snowball's Porter stemmer reduces "s" to an empty string: such a word is its own term.
    return {word: term or word for word, term in zip(kept, terms, strict=True)}
