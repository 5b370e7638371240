"""From text to index terms, in the same way for passages and queries.

The steps are those of Lucene's English analyzer: words, lower case, removal of possessive 's and of Lucene's 33 stop words,
Porter's stemmer. Words are divided as in Lucene's standard tokenizer (Unicode Standard Annex 29), slightly simplified:

1. A word is a sequence of Unicode letters, digits and underscores with the marks that belong to them: vowel signs,
   accents, joiners. A longer one is divided after every 255 characters (Lucene's limit).
2. Each ideograph, each hiragana character and each emoji is a word. A sequence of katakana is one, and so is a sequence
   of Thai, Lao, Khmer or Myanmar letters, because these scripts do not separate words.
3. Simplified: apostrophes, full stops, colons and commas always separate words.

Beyond Lucene, words are equal if Unicode regards their characters as equivalent (NFKC_Casefold): composed and decomposed
accents, full-width letters, ligatures, with and without a zero-width joiner, "STRASSE" and "Straße".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache

import Stemmer

from searchgym.scoring import IDEOGRAPHS, KATAKANA, SOUTH_EAST_ASIAN

__all__ = ["MAX_LENGTH", "STOP_WORDS", "TOKENIZER", "stem", "words"]

TOKENIZER = "uax29-nfkc_casefold-max255-lucene33-porter/2"
"""The version of the analysis; part of every index hash. Change it whenever the terms of any text change."""
MAX_LENGTH = 255
"""Characters of a word at most."""

# fmt: off
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to",
    "was", "will", "with",
})
# fmt: on

# Letters to Unicode's annex that Python's \w does not match: modifiers, Armenian and Hebrew marks, circled letters.
_MORE_LETTERS = (
    r"\u02c2-\u02c5\u02d2-\u02d7\u02de\u02df\u02ed\u02ef-\u02ff\u055b\u055c\u055e\u05f3\u066b\u24b6-\u24e9"
    r"\ua720\ua721\ua789\ua78a\uab5b"
)
_SYMBOLS = (
    r"\xa9\xae\u203c\u2049\u2122\u2194-\u2199\u21a9\u21aa\u231a-\u23fa\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe"
    r"\u2600-\u27bf\u2934\u2935\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
# Format characters and variation selectors, which change how a word looks and not what it is.
_drop_invisible = re.compile(
    r"[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
).sub
# Words of ASCII text. Beyond ASCII, what lies between ASCII punctuation: `_divide` finds the words in it.
_find_parts: Callable[[str], list[str]] = re.compile(r"([0-9a-z_\x80-\U0010ffff]+)(?:'s\b)?").findall
# A vowel before a consonant: the condition m > 0 of Porter's rules.
_has_measure = re.compile(r"(?:[aeiou]|(?<=[^aeiou])y)[^aeiou]").search
# The stemmer's own cache is off: callers stem every distinct word once and keep the result.
_stemmer = Stemmer.Stemmer("porter", 0)


def words(text: str) -> list[str]:
    """The words of a text in order, case-folded, with stop words and not stemmed. Any string is accepted."""
    if text.isascii():
        found = _find_parts(text.lower())
    else:
        # Lower case as Java has it, for the one letter that Unicode folds to a letter and a mark.
        text = unicodedata.normalize("NFC", text).replace("\u0130", "i").casefold()
        found = []
        for part in _find_parts(text):
            if part.isascii():
                found.append(part)
            else:
                found += _divide(part)
    if len(text) > MAX_LENGTH and max(map(len, found), default=0) > MAX_LENGTH:
        return [word[i : i + MAX_LENGTH] for word in found for i in range(0, len(word), MAX_LENGTH)]
    return found


@lru_cache(maxsize=100_000)
def _divide(part: str) -> tuple[str, ...]:
    """The words in case-folded text without ASCII punctuation, each as all of its spellings are indexed."""
    return tuple(word if word.isascii() else _fold(word) for word in _word_finder()(part))


def _fold(word: str) -> str:
    """Unicode's NFKC_Casefold."""
    word = unicodedata.normalize("NFKC", word).casefold()
    word = unicodedata.normalize("NFKC", _drop_invisible("", word))
    return "".join(word.split())  # a ligature of several words remains one


@cache
def _word_finder() -> Callable[[str], list[str]]:
    """`findall` of the pattern of words in case-folded text of any script; made when first needed, in about 0.1 s."""
    unseparated = re.compile(f"[{IDEOGRAPHS}{KATAKANA}{SOUTH_EAST_ASIAN}{_SYMBOLS}]").match
    letters, marks = [*b"_abcdefghijklmnopqrstuvwxyz0123456789"], []
    for code in range(0x80, 0x1FBFF):  # beyond it there are ideographs, and the tags and selectors below
        char = chr(code)
        category = unicodedata.category(char)
        if category in ("Mn", "Mc", "Me", "Cf") and char != "\u200b":  # the zero-width space is a space
            marks.append(code)
        elif char.isalnum() and category != "No" and not unseparated(char):
            letters.append(code)
    word, mark = _ranges(letters) + _MORE_LETTERS, _ranges(marks) + r"\U000e0001-\U000e01ef"
    kinds = (
        rf"[{word}][{word}{mark}]*",
        rf"[{IDEOGRAPHS}][{mark}]*",
        rf"[{SOUTH_EAST_ASIAN}][{SOUTH_EAST_ASIAN}{mark}]*",
        rf"[{KATAKANA}][{KATAKANA}{mark}]*",
        r"[\U0001f1e6-\U0001f1ff]{2}",  # a flag
        rf"[{_SYMBOLS}](?:[{mark}\U0001f3fb-\U0001f3ff]|(?<=\u200d)[{_SYMBOLS}])*",
    )
    return re.compile(rf"({'|'.join(kinds)})(?:[’＇]s\b)?").findall


def _ranges(codes: list[int]) -> str:
    """Ascending character codes, for a character class of a pattern."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in spans)


def stem(distinct: Iterable[str]) -> dict[str, str]:
    """The index term of each word; stop words are omitted."""
    kept = [word for word in distinct if word not in STOP_WORDS]
    terms = _stemmer.stemWords(kept)
    # Lucene's stemmer leaves words of one and two letters as they are, and has two rules that Snowball's lacks, which
    # Porter added to his own program: "psychology" has the term of "psychological", and "possibly" that of "possible".
    for number, (word, term) in enumerate(zip(kept, terms, strict=True)):
        if len(word) < 3:
            terms[number] = word
        elif term.endswith("logi") and _has_measure(term[:-4]):
            terms[number] = term[:-1]
        elif term.endswith("bli") and _has_measure(term[:-3]):
            terms[number] = _stemmer.stemWord(f"{term[:-1]}e")
    return dict(zip(kept, terms, strict=True))
