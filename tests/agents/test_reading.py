"""Reading observations: passages as they were shown, names with their qualifiers."""

from __future__ import annotations

import pytest

from searchgym.agents.passages import NUMBER, SPAN, YEAR, contains_phrase, read_passages
from searchgym.dialects import DIALECTS, Dialect, get_dialect
from searchgym.records.retriever import Hit


@pytest.mark.parametrize("dialect", map(get_dialect, DIALECTS), ids=lambda d: d.name)
def test_what_a_dialect_renders_is_read_back(dialect: Dialect) -> None:
    hits = [
        Hit("1", "Oslo", "Capital of Norway.", 2.0),
        Hit("2", "A list", "Items:\n[1] not a passage\n[7] nor this", 1.0),
        Hit("3", "Bergen (ship)", "", 0.5),
    ]
    assert [tuple(p) for p in read_passages(dialect.render_hits(hits, 1_000))] == [
        (h.title, h.text) for h in hits
    ]
    assert read_passages(dialect.render_hits([], 1_000)) == []
    assert read_passages(dialect.render_invalid("no_act", feedback=True)) == []
    assert read_passages(dialect.render_feedback("The draft is wrong.")) == []


def test_a_cut_result_keeps_what_was_shown() -> None:
    cut = get_dialect("tags").render_hits([Hit("1", "Oslo", "Capital of Norway.", 1.0)], 14)
    assert [tuple(p) for p in read_passages(cut)] == [("Oslo", "Capit")]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Mira Vogack is painter ; mentor Jan Kerberg (poet)", ["Mira Vogack", "Jan Kerberg (poet)"]),
        (
            "The River Oldmoor of the North and Copper Lantern",
            ["River Oldmoor of the North", "Copper Lantern"],
        ),
        ("Åse Østby met J. R. O'Neil-Smith.", ["Åse Østby", "J. R. O'Neil-Smith"]),
        ("In Oldmoor (town) since 1931. Its mayor", ["Oldmoor (town)"]),
        ("Of Violet Island and Distant Letter, which is older?", ["Violet Island", "Distant Letter"]),
        ("Vitamin C. It is", ["Vitamin C"]),
        ("nothing here", []),
    ],
)
def test_spans(text: str, spans: list[str]) -> None:
    assert SPAN.findall(text) == spans


def test_numbers_and_years() -> None:
    assert NUMBER.findall("12,345 people, 3.5 km, since 1931") == ["12,345", "3.5", "1931"]
    assert YEAR.findall("in 1931, 2099 and 12345 or 300") == ["1931", "2099"]


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("born in Oldmoor.", "oldmoor", True),
        ("born in Oldmoorland", "Oldmoor", False),
        ("mentor Jan Kerberg (poet) ; born", "Jan Kerberg (poet)", True),
        ("area 1095", "109", False),
        ("anything", " ", False),
    ],
)
def test_phrases_are_whole_words(text: str, phrase: str, found: bool) -> None:
    assert contains_phrase(text, phrase) is found
