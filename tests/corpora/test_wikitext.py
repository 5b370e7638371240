"""Wikitext to plain text: what stays, what goes, and what markup that is not closed leaves behind."""

from __future__ import annotations

import pytest

pytest.importorskip("mwparserfromhell", reason="the parser of wikitext comes with the extra 'dump'")

from searchgym.corpora.datasets.wikitext import chunk_words, is_disambiguation, plain_text

CASES = [
    ("'''Aln''' is a ''river''.", "Aln is a river."),
    ("A [[river]] in [[Bor (land)|Bor]] and [[:Category:Rivers|others]].", "A river in Bor and others."),
    ("[[File:Aln.jpg|thumb|The [[Aln]] in spring]]The Aln.", "The Aln."),
    ("Text.\n[[Category:Rivers]]\n[[de:Aln]]\n[[zh-min-nan:Aln]]", "Text."),
    ("A{{Infobox river|name={{lang|fr|Aln}}|length={{convert|5|km}}}} river.", "A river."),
    ("{{Infobox\n| a = [[b|c]]\n| d = {{e|{{f|{{g}}}}}}\n}}\nText.", "Text."),
    ("{{a|" * 30 + "x" + "}}" * 30 + " Text.", "Text."),
    ("The Aln ({{lang-fr|Alne}}) is {{convert|5|km|mi}} long.", "The Aln (Alne) is 5 km long."),
    (
        "From {{convert|5|to|10|km|mi}}; {{circa|1200}}, {{formatnum:1000}}.",
        "From 5 to 10 km; c. 1200, 1000.",
    ),
    ("{{blockquote|text=To be.|author=W.}} {{nowrap|[[a|b]] c}}", "To be. b c"),
    ("The Aln ({{IPAc-en|a|l|n}}; {{audio|x.ogg}}) flows ( , here).", "The Aln flows (here)."),
    ("One<ref name=a>{{cite|x}} note</ref> two<ref name=a/> three.", "One two three."),
    ("Before <!-- a [[b]] {{c}} --> after.", "Before after."),
    ('{| class="wikitable"\n! A\n|-\n| 1 || 2\n|}\nAfter.', "After."),
    ("{|\n| {|\n| inner\n|}\n|}\nAfter.", "After."),
    ("<nowiki>[[not a link]]</nowiki> &amp; &Sigma;&nbsp;&#x3a3; &mdash;", "not a link & Σ Σ —"),
    ("E is <math>mc^2</math>, <b>bold</b><br/>next<gallery>\nA.jpg|x\n</gallery>", "E is, bold\nnext"),
    ("* one\n* two\n# three\n:: four", "one\ntwo\nthree\nfour"),
    ("See [http://example.org the page] and [http://example.org].", "See the page and."),
    ("Lead.\n\n== History ==\nOld.\n=== Early ===\nFirst.", "Lead.\nOld.\nFirst."),
    (
        "Lead.\n== References ==\n{{reflist}}\n* x\n=== Notes ===\ny\n== Legacy ==\nz\n== See also ==\n* a",
        "Lead.\nz",
    ),
    ("東京 は [[日本]] の首都。 Zoë — naïve.", "東京 は 日本 の首都。 Zoë — naïve."),
    ("__NOTOC__Text {{{1|default}}}.", "Text."),
    ("'''{{Nihongo|Kyoto|京都市}}''' is a city (; , {{x}}).", "Kyoto is a city."),
    ("", ""),
    ("{{only|a template}}", ""),
    # Not closed.
    ("Text.\n{{Infobox river\n| name = Aln\nMore.", "Text.\nMore."),
    ("Text [[Aln|the river and more.", "Text the river and more."),
    ("Text.\n{| class=x\n| cell\nMore.", "Text.\nMore."),
    ("Text <ref>note and more.", "Text note and more."),
    ("Text <!-- comment to the end", "Text"),
    ("'''bold and ''more", "bold and more"),
]


@pytest.mark.parametrize(("source", "text"), CASES, ids=range(len(CASES)))
def test_plain_text(source: str, text: str) -> None:
    assert plain_text(source) == text


def test_namespaces_of_other_wikis_are_left_out_when_told() -> None:
    source = "[[Datei:x.jpg|mini|Bild]]Text.[[Kategorie:Fluss]]"
    assert plain_text(source, {"datei", "kategorie"}) == "Text."
    assert "Bild" in plain_text(source)


@pytest.mark.parametrize(
    "source",
    [
        "[[" * 5_000,
        "{|\n" * 500,
        "<ref>" * 500,
        "'" * 20_000,
        "{{a|" * 300,
        "<!--" * 20_000,  # 24 s in the parser, were comments to reach it
        "*" * 50_000,  # 111 s, as a list of that depth
        "Text (" + " " * 100_000 + "x",
        "{{a|" * 5_000 + "}}" * 5_000,
        "&#x110000; &#xd800; &bogus;" * 1_000,
    ],
    ids=range(10),
)
def test_it_is_quick_where_markup_is_hostile(source: str) -> None:
    assert len(plain_text(source)) <= len(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{" * 5_000,
        "{{a|" * 3_000 + "}}",
        "{|\n" * 5_000,
        "[http://a.b " * 5_000,
        "<b>" * 5_000,
        "<ref name=x>" * 5_000 + "</ref>",
        "<nowiki>" * 5_000,
    ],
    ids=range(7),
)
def test_what_would_take_the_parser_hours_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"\d+ pieces of markup are not closed"):
        plain_text(source)


def test_what_closes_itself_is_not_taken_for_unclosed() -> None:
    source = "A<br>b<br/>c<ref name=x/>d[[e]] [http://f g]<li>h <hr>{{j}}<ref>k</ref>\n{|\n|}\n" * 600
    assert plain_text(source).count("A") == 600


def test_a_long_article() -> None:
    long = plain_text("The [[Aln]] is a river.<ref>x</ref> " * 1_000)
    assert len(long.split()) == 5_000


def test_passages_hold_all_words_in_order() -> None:
    for count in (1, 99, 100, 101, 119, 120, 121, 250):
        words = [str(n) for n in range(count)]
        passages = chunk_words(" ".join(words))
        assert " ".join(passages).split() == words
        assert all(len(passage.split()) == 100 for passage in passages[:-1])
        assert len(passages[-1].split()) >= (20 if count >= 20 else 1)
        assert len(passages[-1].split()) < 120
    assert chunk_words("") == []
    assert [len(passage.split()) for passage in chunk_words("a " * 23, 10)] == [10, 10, 3]


@pytest.mark.parametrize(
    ("title", "source", "found"),
    [
        ("Bor (disambiguation)", "", True),
        ("Bor", "'''Bor''' is:\n* x\n{{disambig}}", True),
        ("Bor", "{{Disambiguation|geo}}", True),
        ("Bor", "{{ human_name disambiguation }}", True),
        ("Bor", "{{hndis|Voss, Mira}}", True),
        ("Bor", "__DISAMBIG__", True),
        ("Bor", "A [[town]]{{disambiguation needed|date=May 2020}}.", False),
        ("Bor", "{{about|the town|others|Bor (disambiguation)}} Bor is a town.", False),
        ("Bor", "{{Begriffsklärung}}", False),
    ],
)
def test_disambiguation_pages(title: str, source: str, found: bool) -> None:
    assert is_disambiguation(title, source) is found
    assert is_disambiguation("Bor", "{{Begriffsklärung}}", {"begriffsklärung"})
