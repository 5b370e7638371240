"""The tokenizer, which passages and queries share."""

from __future__ import annotations

import pytest

from searchgym.corpora.bm25.analyzer import STOP_WORDS, stem, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick-brown FOX, 1,984!", ["the", "quick", "brown", "fox", "1", "984"]),
        ("Mira's and MIRA’S boat", ["mira", "and", "mira", "boat"]),
        ("it's 's s", ["it", "s", "s"]),
        ("Malcolm X", ["malcolm", "x"]),
        ("Cafe\u0301 = Café", ["café", "café"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("ΟΔΟΣ οδός", ["οδοσ", "οδόσ"]),
        ("ﬁne ４２", ["fine", "42"]),
        ("東京都 ひらカタカナ 서울", ["東", "京", "都", "ひ", "ら", "カタカナ", "서울"]),
        ("snake_case", ["snake_case"]),
        ("x" * 300, ["x" * 255, "x" * 45]),
        ("a\ud800b\x00c", ["a", "b", "c"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("İZMİR", ["izmir"]),
        ("ไทย๑๒abc", ["ไทย", "๑๒abc"]),
        ("ソニーPlayStation", ["ソニー", "playstation"]),
        ("m² 5½", ["m", "5"]),
        ("1990–1995, “quoted”", ["1990", "1995", "quoted"]),
        ("👍🏽👨\u200d👩\u200d👧🇩🇪🇫🇷", ["👍🏽", "👨👩👧", "🇩🇪", "🇫🇷"]),
        ("é" * 300, ["é" * 255, "é" * 45]),
        (" \n?!…", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_terms_are_stopped_and_stemmed() -> None:
    assert stem(["rivers", "river", "the", "flooding", "東"]) == {
        "rivers": "river",
        "river": "river",
        "flooding": "flood",
        "東": "東",
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("psychology", "psychological"),
        ("apologies", "apology"),
        ("possibly", "possible"),
        ("incredibly", "incredible"),
        ("assemblies", "assembled"),
        ("wobbly", "wobble"),
    ],
)
def test_lucenes_rules_that_snowballs_stemmer_lacks(one: str, other: str) -> None:
    assert stem([one])[one] == stem([other])[other]


@pytest.mark.parametrize("word", ["s", "us", "ay", "es", "x", "logi", "sibli"])
def test_words_that_are_their_own_term(word: str) -> None:
    """Snowball's Porter turns "s" into nothing; a lookup of nothing once matched every stop word with it."""
    assert stem([word, "the"]) == {word: word}


def test_the_stop_list_is_lucenes_as_bm25s_has_it() -> None:
    from bm25s.stopwords import STOPWORDS_EN

    assert set(STOPWORDS_EN) == STOP_WORDS
