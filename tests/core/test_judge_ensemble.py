"""The ensemble judge: votes, quorum, costs, failures, and members that are judged by name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from searchgym.conformance import check_judge
from searchgym.conformance.traces import PLAIN, ordinary_traces
from searchgym.errors import ConfigError, PluginError, UnknownIdError
from searchgym.judges import Grade, Grader, Trace, Verdict, open_judge
from searchgym.judges.ensemble import Ensemble, GradingEnsemble
from searchgym.records.question import Question


class Says:
    """A judge of one opinion: (u, v), or None for a judgement that fails."""

    def __init__(self, opinion: tuple[float, float] | None, name: str = "says", cost: Any = None) -> None:
        self.name, self.opinion, self.cost = name, opinion, cost

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        return [
            Verdict.ok(*self.opinion, self.name, self.cost)
            if self.opinion
            else Verdict.error("no reply", self.cost)
            for _ in traces
        ]


class Grades(Says):
    """The same with an opinion on answers, its first number."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        return [
            Grade.ok(self.opinion[0], self.name, self.cost)
            if self.opinion
            else Grade.error("no reply", self.cost)
            for _ in answers
        ]


TRACES = ordinary_traces()


def voted(vote: str, *opinions: tuple[float, float] | None, quorum: int | None = None) -> Any:
    (verdict,) = Ensemble([Says(o) for o in opinions], vote, quorum).judge(TRACES[:1])
    return (verdict.utility, verdict.reasoning) if verdict.status == "ok" else verdict.reason


@pytest.mark.parametrize(
    ("vote", "expected"),
    [("mean", (0.5, 0.25)), ("majority", (0.0, 0.0)), ("all", (1.0, 1.0))],
)
def test_each_criterion_is_put_to_the_vote_by_itself(vote: str, expected: tuple[float, float]) -> None:
    # u: two of four say yes, which is not a majority, and not all of them say no. v: one of four says yes.
    assert voted(vote, (1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)) == expected


def test_capos_rule_calls_a_step_wrong_only_if_every_critique_does() -> None:
    assert voted("all", (1.0, 0.0), (0.0, 0.0), (0.0, 0.0)) == (1.0, 0.0)
    assert voted("all", (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)) == (1.0, 1.0)


def test_graded_numbers_are_a_yes_from_one_half_on() -> None:
    assert voted("majority", (0.5, 0.49), (0.9, 0.49), (0.1, 1.0)) == (1.0, 0.0)
    assert voted("all", (0.49, 0.5), (0.0, 0.0)) == (0.0, 1.0)
    assert voted("mean", (0.5, 0.25), (0.25, 0.75)) == (0.375, 0.5)


def test_who_failed_has_no_vote_and_too_many_failures_are_a_failure() -> None:
    assert voted("mean", (1.0, 0.0), None, (0.5, 0.5)) == (0.75, 0.25)
    # Two of three are a majority that answered; one of three is not, and one of two is not either.
    assert voted("all", (0.0, 0.0), None, None) == (
        "1 of 3 answered, 2 needed; 2 says: no reply; 3 says: no reply"
    )
    assert voted("mean", (1.0, 1.0), None) == "1 of 2 answered, 2 needed; 2 says: no reply"
    assert voted("mean", (1.0, 1.0), None, quorum=1) == (1.0, 1.0)
    assert voted("all", (0.0, 0.0), (0.0, 0.0), None, quorum=3).startswith("2 of 3 answered, 3 needed")


def test_the_reason_names_everybody_and_costs_are_summed() -> None:
    members = [
        Says((1.0, 0.5), "first", {"calls": 1, "usd": 0.25}),
        Says(None, "second", {"calls": 3, "input_tokens": 7}),
        Says((0.0, 0.5), "third"),
    ]
    (verdict,) = Ensemble(members, "mean").judge(TRACES[:1])
    assert verdict.reason == "1 first: 1 0.5 (first); 2 second: failed (no reply); 3 third: 0 0.5 (third)"
    assert verdict.cost == {"calls": 4, "usd": 0.25, "input_tokens": 7}
    (failed,) = Ensemble(members, "mean", 3).judge(TRACES[:1])
    assert failed.status == "error"
    assert failed.cost == verdict.cost


def test_members_judge_at_the_same_time_and_keep_their_places() -> None:
    together = threading.Barrier(3, timeout=10)

    class Waits(Says):
        def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
            together.wait()  # breaks unless all three are here at once
            return super().judge(traces)

    ensemble = Ensemble([Waits((1.0, 1.0), name) for name in "abc"])
    for verdict in ensemble.judge(TRACES):
        assert verdict.reason == "1 a: 1 1 (a); 2 b: 1 1 (b); 3 c: 1 1 (c)"


def test_it_grades_if_all_members_do() -> None:
    mixed = open_judge({"name": "ensemble", "judges": ["oracle"]})
    assert not isinstance(mixed, Grader)
    graders = [Grades((1.0, 0.0), "a"), Grades((0.0, 0.0), "b"), Grades((1.0, 0.0), "c", {"calls": 1})]
    (grade,) = GradingEnsemble(graders).grade([PLAIN], ["Tarn"])
    assert (grade.score, grade.cost) == (1.0, {"calls": 1})
    assert grade.reason == "1 a: 1 (a); 2 b: 0 (b); 3 c: 1 (c)"
    (failed,) = GradingEnsemble([Grades(None), *graders[:1]]).grade([PLAIN], ["Tarn"])
    assert (failed.status, failed.score) == ("error", None)
    check_judge(GradingEnsemble(graders, "mean"))


def test_opening_decides_whether_it_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    makes = {"grades": lambda corpus, u=1.0: Grades((u, u)), "judges": lambda corpus: Says((0.0, 0.0))}
    monkeypatch.setattr("searchgym.options.plugins.load", lambda group, name: makes.get(name, _ensemble()))
    both = open_judge({"name": "ensemble", "judges": ["grades", {"name": "grades", "u": 0.0}]})
    assert isinstance(both, Grader)
    assert isinstance(both, Ensemble)
    assert [member.judge(TRACES[:1])[0].utility for member in both.members] == [1.0, 0.0]
    mixed = open_judge({"name": "ensemble", "judges": ["grades", "judges"]})
    assert not isinstance(mixed, Grader)


def _ensemble() -> Any:
    from searchgym.judges.ensemble import open_ensemble

    return open_ensemble


def test_a_members_check_is_run_and_named() -> None:
    class Unready(Says):
        def check(self) -> None:
            raise ConfigError("no key: set OPENAI_API_KEY")

    Ensemble([Says((1.0, 1.0))]).check()
    ensemble = Ensemble([Says((1.0, 1.0), "ready"), Unready((1.0, 1.0), "llm")])
    with pytest.raises(ConfigError, match="ensemble member 2 llm: no key"):
        ensemble.check()
    with pytest.raises(ConfigError, match="member 1 ensemble: ensemble member 2 llm"):
        Ensemble([ensemble]).check()


def test_a_member_that_loses_verdicts_is_a_broken_plug_in() -> None:
    class Loses(Says):
        def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
            return super().judge(traces)[1:]

    with pytest.raises(PluginError, match="member 2 loser gave 9 verdicts for 10"):
        Ensemble([Says((1.0, 1.0)), Loses((1.0, 1.0), "loser")]).judge(TRACES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judges": []}, "no members"),
        ({"judges": "oracle"}, "judges is 'oracle': give a list"),
        ({"judges": ["oracle", "oracle"]}, "'oracle' is in the ensemble twice"),
        ({"judges": [3]}, "judge is 3: give a name"),
        ({"judges": ["oracle", "rules"]}, "'rules' needs a corpus"),
        ({"judges": ["oracle"], "vote": "majorty"}, "vote is 'majorty'. Did you mean 'majority'"),
        ({"judges": ["oracle"], "vote": ["mean"]}, r"vote is \['mean'\]"),
        ({"judges": ["oracle"], "quorum": 2}, "quorum is 2: give a number from 1 to 1"),
        ({"judges": ["oracle"], "quorum": 0}, "quorum is 0"),
        ({"judges": ["oracle"], "quorum": True}, "quorum is True"),
        ({}, "judges"),
    ],
)
def test_what_cannot_vote_is_refused_with_a_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_judge({"name": "ensemble", **options})
    with pytest.raises(UnknownIdError, match="Did you mean 'oracle'"):
        open_judge({"name": "ensemble", "judges": ["orcale"]})
