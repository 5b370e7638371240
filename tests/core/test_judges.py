"""The judge protocol, the oracle and the rules judge, on traces small enough to judge by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers import small_world

import searchgym
from searchgym.dialects import Act
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.judges import RoundRecord, Trace, Verdict, open_judge, traces_of
from searchgym.judges.oracle import OracleJudge
from searchgym.judges.rules import RulesJudge
from searchgym.records.question import Hop, Passage, Question
from searchgym.records.retriever import Hit


class _Corpus:
    name, hash, splits = "judged", "0", ("dev",)
    passages = (
        Passage("a", "Mira Voss", "Mira Voss works at Tarn Mills."),
        Passage("b", "Tarn Mills", "Tarn Mills was founded in Oldmoor."),
        Passage("c", "Deep Lake", "Deep Lake holds perch and pike."),
    )

    def questions(self, split: str) -> list[Question]:
        return [QUESTION]

    def question(self, task_id: str) -> Question:
        return QUESTION


QUESTION = Question(
    "q",
    "Where was the employer of Mira Voss founded?",
    ("Oldmoor",),
    "dev",
    supporting_ids=("a", "b"),
    chain=(
        Hop("Mira Voss", "employer", ("a",), "Tarn Mills"),
        Hop("Tarn Mills", "founded", ("b",), "Oldmoor"),
    ),
)
TEXTS = {p.id: p for p in _Corpus.passages}


def search(query: str, *ids: str) -> RoundRecord:
    hits = [Hit(i, TEXTS[i].title, TEXTS[i].text, 1.0) for i in ids]
    return RoundRecord("", Act("search", (query,)), [hits])


def answer(text: str) -> RoundRecord:
    return RoundRecord("", Act("answer", answer=text))


def judged(judge: Any, *rounds: RoundRecord) -> list[tuple[float | None, float | None]]:
    traces = [Trace(QUESTION, rounds[: i + 1]) for i in range(len(rounds))]
    verdicts = judge.judge(traces)
    assert all(v.status == "ok" for v in verdicts)
    return [(v.utility, v.reasoning) for v in verdicts]


def test_oracle_pays_for_new_gold_once_and_for_grounded_queries() -> None:
    found = judged(
        OracleJudge(),
        search("Mira Voss employer", "a", "c"),
        search("Mira Voss", "a"),  # gold again: nothing new
        search("Tarn Mills", "b"),  # the bridge was read in round 1
        answer("Oldmoor"),
    )
    assert found == [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize("query", ["Tarn Mills", "tarn mills", "Founder of Tarn Mills in 1804"])
def test_oracle_refuses_a_guess_even_when_it_is_right(query: str) -> None:
    assert judged(OracleJudge(), search(query, "b")) == [(1.0, 0.0)]


def test_oracle_wants_the_answer_to_have_been_read() -> None:
    assert judged(OracleJudge(), answer("Oldmoor")) == [(0.0, 0.0)]
    assert judged(OracleJudge(), search("Mira Voss", "a"), answer("Mira Voss"))[1] == (0.0, 0.0)
    everything = (search("Mira Voss", "a"), search("Tarn Mills", "b"))
    assert judged(OracleJudge(), *everything, answer("Mira Voss"))[2] == (0.0, 1.0)


def test_oracle_agrees_with_the_oracle_agent_on_the_generated_world() -> None:
    world = small_world("country-terse")
    episodes = searchgym.rollout("SearchQA-Terse-v0", "oracle", 50, corpus=world)
    verdicts = OracleJudge().judge([t for e in episodes for t in traces_of(e)])
    kinds = [r.action.kind for e in episodes for r in e.rounds]
    assert all(v.reasoning == 1.0 for v in verdicts)
    useful = [v.utility for v, kind in zip(verdicts, kinds, strict=True) if kind == "search"]
    assert sum(u or 0.0 for u in useful) / len(useful) > 0.95


def test_rules_measure_gain_minus_redundancy() -> None:
    judge = RulesJudge(_Corpus())
    both = judged(judge, search("x", "a"), search("y", "a"), search("z", "b", "a"))
    # The first call finds half of the gold and a little of the other passage (they share words).
    assert both[0][0] == pytest.approx(0.5, abs=0.25)
    assert both[0][0] is not None
    assert both[0][0] > 0.5
    assert both[1] == (0.0, 1.0)  # nothing new and all of it repeated
    assert both[2][0] == 0.0  # gain below 1/2, redundancy 1/2
    assert judged(judge, search("x", "a"), search("X!", "b"))[1][1] == 0.0  # the query repeats the first
    assert judged(judge, search("x", "b"), answer("oldmoor"))[1] == (0.0, 1.0)


def unordered(*rounds: RoundRecord) -> list[float | None]:
    """u of the rules judge where the gold passages are known but not their order."""
    question = replace(QUESTION, chain=())
    traces = [Trace(question, rounds[: i + 1]) for i in range(len(rounds))]
    return [verdict.utility for verdict in RulesJudge(_Corpus()).judge(traces)]


@pytest.mark.parametrize(
    ("rounds", "useful"),
    [
        ((search("x", "a"), search("y", "b")), [1, 1]),  # one of two gold passages is enough
        ((search("x", "b"), search("y", "a")), [1, 1]),  # in any order
        ((search("x", "a", "c"), search("y", "a", "c", "b")), [1, 1]),  # whatever else comes with it
        ((search("x", "a", "b"), search("y", "b", "a")), [1, 0]),
        ((search("x", "c"), search("y", "c")), [0, 0]),
        ((search("x"), search("y", "a")), [0, 1]),
    ],
)
def test_rules_find_gold_that_has_no_order(rounds: tuple[RoundRecord, ...], useful: list[int]) -> None:
    assert [float(u or 0) >= 0.5 for u in unordered(*rounds)] == [bool(u) for u in useful]


def test_rules_know_a_gold_passage_by_its_id_and_by_its_text() -> None:
    other = RoundRecord("", Act("search", ("x",)), [[Hit("a", "Voss", "Cut elsewhere.", 1.0)]])
    assert unordered(other) == [1.0]
    copy = RoundRecord("", Act("search", ("x",)), [[Hit("?", TEXTS["a"].title, TEXTS["a"].text, 1.0)]])
    assert unordered(copy) == [pytest.approx(1.0)]
    assert unordered(copy, search("y", "a"))[1] == 1.0  # the oracle pays it too: no hit had this id


def test_rules_keep_the_step_reward_where_gold_has_an_order() -> None:
    rounds = (search("x", "a"), search("y", "b"))
    ordered = [u for u, _ in judged(RulesJudge(_Corpus()), *rounds)]
    assert all(0 < (u or 0) < 1 for u in ordered)


def test_rules_without_gold_passages_look_for_the_answer() -> None:
    question = Question("q", "Where?", ("Oldmoor",), "dev")
    rounds = (search("x", "c"), search("y", "b"), search("z", "b"))
    traces = [Trace(question, rounds[: i + 1]) for i in range(3)]
    assert [v.utility for v in RulesJudge(_Corpus()).judge(traces)] == [0.0, 1.0, 0.0]


def test_a_verdict_lies_in_range_and_a_failure_has_no_number() -> None:
    for u, v in ((1.5, 0.0), (0.0, -0.1), (float("nan"), 0.0)):
        with pytest.raises(ConfigError, match=r"\[0, 1\]"):
            Verdict.ok(u, v)
    failed = Verdict.error("no reply")
    assert failed.to_info() == {"status": "error", "utility": None, "reasoning": None, "reason": "no reply"}


def test_judges_open_by_name() -> None:
    assert isinstance(open_judge("oracle"), OracleJudge)
    assert isinstance(open_judge("rules", _Corpus()), RulesJudge)
    with pytest.raises(ConfigError, match="needs a corpus"):
        open_judge("rules")
    with pytest.raises(UnknownIdError, match="oracle"):
        open_judge("orcale")
