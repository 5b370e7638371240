"""An episode as text and as HTML: what happened is there, and text from outside stays text."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from searchgym.records.episode import Episode, StopReason
from searchgym.records.rendering import ENDINGS, thought_of
from searchgym.records.verdict import Verdict
from searchgym.rollouts.collection import rollout

HOSTILE = "<script>alert(1)</script> \x1b[31mred \u202egnp.exe \ud800 &amp;"


@pytest.fixture
def episode(toy: str) -> Episode:
    (found,) = rollout("SearchQA-v0", "oracle", corpus=toy, split="train", episodes=1, judge="oracle")
    return found


class Tags(HTMLParser):
    """The tags and the text of a fragment; every tag must be closed."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(fragment)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "br":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_round_is_shown_with_its_hits_and_the_result(episode: Episode) -> None:
    for shown in (" ".join(episode.render().split()), " ".join(Tags(episode._repr_html_()).text.split())):
        assert episode.question in shown
        for record in episode.rounds:
            assert all(query in shown for query in record.action.queries)
            assert all(hit.title in shown for hit in record.hits)
        assert f"gold {episode.gold['answers'][0]!r}" in shown
        assert ENDINGS[StopReason.ANSWERED] in shown
        assert "✓" in shown


def test_gold_passages_are_marked_and_those_found_before_differently(episode: Episode) -> None:
    first = episode.rounds[0]
    gold = [hit for hit in first.hits if hit.id in episode.gold["supporting_ids"]]
    assert gold
    again = replace(episode, rounds=[first, first])
    text = again.render()
    assert text.count("★") == text.count("☆") == len(gold)
    assert len([line for line in text.splitlines() if line.strip().startswith(f"★ {gold[0].title}")]) == 1


def test_failures_are_told(episode: Episode) -> None:
    record = episode.rounds[0]
    record.judge = Verdict.error("server down")
    record.results = [[]]
    invalid = replace(
        record, action=record.action._replace(kind="invalid", error="no_act", queries=()), text="hm"
    )
    outcome = replace(episode.outcome, stop_reason=StopReason.ROUND_BUDGET, em=0.0, answer="")
    shown = replace(episode, rounds=[record, invalid], outcome=outcome).render()
    for part in (
        "the judge failed: server down",
        "nothing was found",
        "no_act: hm",
        "without an answer",
        "✗ answer 'none'",
    ):
        assert part in shown


def test_thoughts_are_what_stands_before_the_act(episode: Episode) -> None:
    record = episode.rounds[0]
    for text, thought in (
        ("<think> a\nb </think><search>x</search>", "a\nb"),
        ("<Reasoning>hm</Reasoning><search>x</search>", "hm"),
        ("I look it up. <search>x</search>", "I look it up."),
        ("<search>x</search>", ""),
        ('Well. <tool_call>{"name": "search"}</tool_call>', "Well."),
    ):
        assert thought_of(replace(record, text=text)) == thought


def test_text_from_outside_is_neither_markup_nor_control(episode: Episode) -> None:
    record = episode.rounds[0]
    record.text = f"<think>{HOSTILE}</think><search>{HOSTILE}</search>"
    record.action = record.action._replace(queries=(HOSTILE,))
    record.results = [[hit._replace(title=HOSTILE, text=HOSTILE) for hit in hits] for hits in record.results]
    record.judge = Verdict.ok(1.0, 1.0, HOSTILE)
    outcome = replace(episode.outcome, answer=HOSTILE)
    odd = replace(episode, question=HOSTILE, task_id=HOSTILE, agent=HOSTILE, outcome=outcome)
    for shown in (odd.render(), odd._repr_html_()):
        assert not set(shown) & set("\x1b\u202e\ud800")
    page = Tags(odd._repr_html_())
    assert page.tags <= {"div", "b", "br", "small", "details", "summary", "code", "i"}
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_lines_are_as_wide_as_asked(episode: Episode) -> None:
    assert max(map(len, episode.render(width=60).splitlines())) <= 60
