"""The judge suite: the built-in judges pass it, and each broken promise is caught and named."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from helpers import small_world

import searchgym
from searchgym.conformance import check_judge
from searchgym.errors import ConfigError, ConformanceError, SearchGymError
from searchgym.judges import Grade, Trace, Verdict, open_judge, traces_of
from searchgym.records.question import Question
from searchgym.scoring import normalize_answer

WORLD = small_world("country-terse")


class Novelty:
    """A correct judge and grader in a few lines."""

    name = "novelty"

    def judge(self, traces: Sequence[Trace]) -> Any:
        return [self.verdict(trace) for trace in traces]

    def verdict(self, trace: Trace) -> Any:
        *earlier, last = trace.rounds
        if last.action.kind == "invalid":
            return Verdict.error("an invalid act cannot be judged")
        before = {hit.id for round_ in earlier for hit in round_.hits}
        new = [hit for hit in last.hits if hit.id not in before]
        # Half a point for a short trace: constants would hide an exchange of verdicts.
        return Verdict.ok(float(bool(new)), 1 / len(trace.rounds), f"{len(new)} new", {"calls": 1})

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> Any:
        return [self.graded(q, a) for q, a in zip(questions, answers, strict=True)]

    def graded(self, question: Question, answer: str) -> Any:
        said = normalize_answer(answer)
        return Grade.ok(float(said in map(normalize_answer, question.answers)), f"{len(said)} characters")


@pytest.mark.parametrize(
    "spec",
    [
        "oracle",
        "rules",
        {"name": "ensemble", "judges": ["oracle", "rules"], "vote": "mean"},
        {"name": "ensemble", "judges": ["oracle", "rules"]},
        {"name": "ensemble", "judges": ["rules", "oracle"], "vote": "all", "quorum": 1},
    ],
    ids=str,
)
def test_the_built_in_judges_keep_their_promises(spec: Any) -> None:
    corpus = searchgym.open_corpus(WORLD)
    episodes = searchgym.rollout("SearchQA-Terse-v0", "random", 2, corpus=WORLD)
    episodes += searchgym.rollout("SearchQA-Terse-v0", "oracle", 2, corpus=WORLD, hops=[2])
    traces = [trace for episode in episodes for trace in traces_of(episode)]
    judge = open_judge(spec, corpus)
    assert {verdict.status for verdict in judge.judge(traces)} == {"ok"}
    check_judge(judge, traces)


class Ready(Novelty):
    checked = 0

    def check(self) -> None:
        self.checked += 1


def test_a_correct_judge_passes() -> None:
    ready = Ready()
    check_judge(ready)
    assert ready.checked > 0


class Samples(Novelty):
    """As a judge at a temperature above 0: another number each time."""

    calls = 0

    def verdict(self, trace: Trace) -> Any:
        self.calls += 1
        return Verdict.ok(1 / self.calls, 1.0)


class Rounds(Novelty):
    """As arithmetic that depends on the size of the batch."""

    def judge(self, traces: Sequence[Trace]) -> Any:
        shift = 1e-9 * len(traces)
        verdicts = super().judge(traces)
        return [
            v if v.status == "error" else Verdict.ok(v.utility * 0.5 + shift, v.reasoning, f"{shift}")
            for v in verdicts
        ]


def test_sampling_and_rounding_are_allowed_where_they_are_announced() -> None:
    check_judge(Samples(), deterministic=False)
    with pytest.raises(ConformanceError, match="second time"):
        check_judge(Samples())
    check_judge(Rounds(), tolerance=1e-6)
    with pytest.raises(ConformanceError, match="verdicts differ"):
        check_judge(Rounds())
    with pytest.raises(ConformanceError, match="verdicts differ"):
        check_judge(Rounds(), tolerance=1e-12)


class NoName(Novelty):
    name = ""


class NoJudge:
    name = "none"


class NameDrifts(Novelty):
    def judge(self, traces: Sequence[Trace]) -> Any:
        self.name += "x"
        return super().judge(traces)


class CheckFails(Novelty):
    def check(self) -> None:
        raise KeyError("OPENAI_API_KEY")


class CheckIsAFlag(Novelty):
    check = True


class Raises(Novelty):
    def verdict(self, trace: Trace) -> Any:
        raise TimeoutError("no reply")


class RaisesOnInvalid(Novelty):
    def verdict(self, trace: Trace) -> Any:
        if trace.rounds[-1].action.kind == "invalid":
            raise ValueError("an invalid act")
        return super().verdict(trace)


class Encodes(Novelty):
    def verdict(self, trace: Trace) -> Any:
        trace.rounds[-1].text.encode()
        return super().verdict(trace)


class DividesByHits(Novelty):
    def verdict(self, trace: Trace) -> Any:
        last = trace.rounds[-1]
        if last.action.kind == "search":
            return Verdict.ok(1 / len(last.hits), 1.0)
        return super().verdict(trace)


class TwentyRoundsAtMost(Novelty):
    weights = (1.0,) * 20

    def verdict(self, trace: Trace) -> Any:
        return Verdict.ok(1.0, self.weights[len(trace.rounds) - 1])


class Generator(Novelty):
    def judge(self, traces: Sequence[Trace]) -> Iterator[Verdict]:
        return iter(super().judge(traces))


class DropsAVerdict(Novelty):
    def judge(self, traces: Sequence[Trace]) -> Any:
        return super().judge(traces)[:-1] if len(traces) > 1 else super().judge(traces)


class Shuffles(Novelty):
    def judge(self, traces: Sequence[Trace]) -> Any:
        return super().judge(traces)[::-1]


class EmptyBatch(Novelty):
    def judge(self, traces: Sequence[Trace]) -> Any:
        return super().judge(traces) or [Verdict.error("nothing to judge")]


class Tuples(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return (1.0, 1.0)


class Pending(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict("pending", None, None)


class ErrorIsZero(Novelty):
    def verdict(self, trace: Trace) -> Any:
        verdict = super().verdict(trace)
        return Verdict("error", 0.0, 0.0, "no reply") if len(trace.rounds) > 2 else verdict


class SilentError(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict.error("") if len(trace.rounds) > 2 else super().verdict(trace)


class OkWithoutNumber(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict("ok", 1.0, None)


class PercentScale(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict("ok", 85.0, 100.0)


class NanScore(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict("ok", float("nan"), 1.0)


class IntegerScore(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict("ok", 1, 1)


class NoReason(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict("ok", 1.0, 1.0, None)  # type: ignore[arg-type]


class CostInCents(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict.ok(1.0, 1.0, cost={"cents": 1})


class NegativeCost(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict.ok(1.0, 1.0, cost={"usd": -1.0})


class NotJson(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return _Extended("ok", 1.0, 1.0)


class _Extended(Verdict):
    def to_info(self) -> dict[str, Any]:
        return {**super().to_info(), "votes": {1: 0.5}}


class OtherInfo(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return _Renamed("ok", 1.0, 1.0)


class _Renamed(Verdict):
    def to_info(self) -> dict[str, Any]:
        return {"u": self.utility, "v": self.reasoning}


class AlwaysFails(Novelty):
    def verdict(self, trace: Trace) -> Any:
        return Verdict.error("connection refused")


class Mutates(Novelty):
    def verdict(self, trace: Trace) -> Any:
        verdict = super().verdict(trace)
        for result in trace.rounds[-1].results:
            result.clear()
        return verdict


class Moody(Novelty):
    calls = 0

    def judge(self, traces: Sequence[Trace]) -> Any:
        self.calls += 1
        return [dataclasses.replace(v, reason=f"call {self.calls}") for v in super().judge(traces)]


class LooksAhead(Novelty):
    """Judges every round of a question in the light of the longest trace of it in the batch."""

    def judge(self, traces: Sequence[Trace]) -> Any:
        longest = {t.question.id: len(t.rounds) for t in sorted(traces, key=lambda t: len(t.rounds))}
        return [Verdict.ok(1.0, 1 / longest[t.question.id]) for t in traces]


class MixesEpisodes(Novelty):
    """Takes every trace of a question for the same episode, as a batch keyed by question id does."""

    def judge(self, traces: Sequence[Trace]) -> Any:
        by_key = {
            (t.question.id, len(t.rounds)): v for t, v in zip(traces, super().judge(traces), strict=True)
        }
        return [by_key[t.question.id, len(t.rounds)] for t in traces]


class BatchNormalised(Novelty):
    def judge(self, traces: Sequence[Trace]) -> Any:
        return [Verdict.ok(1 / (1 + len(traces)), 1.0) for _ in traces]


class FirstOfBatch(Novelty):
    """Depends on the place in the batch."""

    def judge(self, traces: Sequence[Trace]) -> Any:
        verdicts = super().judge(traces)
        if len(traces) > 12:
            verdicts[-1] = Verdict.ok(0.25, 0.25)
        return verdicts


class OneFailsAll(Novelty):
    """One trace that cannot be judged takes its neighbours with it."""

    def judge(self, traces: Sequence[Trace]) -> Any:
        if any(t.rounds[-1].action.kind == "invalid" for t in traces):
            return [Verdict.error("an invalid act cannot be judged") for _ in traces]
        return super().judge(traces)


class OneThread(Novelty):
    def __init__(self) -> None:
        self.owner = threading.get_ident()

    def verdict(self, trace: Trace) -> Any:
        if threading.get_ident() != self.owner:
            raise RuntimeError("no event loop in this thread")
        return super().verdict(trace)


class GradeRaises(Novelty):
    def graded(self, question: Question, answer: str) -> Any:
        answer.encode()
        return super().graded(question, answer)


class GradesAsBool(Novelty):
    def graded(self, question: Question, answer: str) -> Any:
        return answer in question.answers


class GradeOutOfRange(Novelty):
    def graded(self, question: Question, answer: str) -> Any:
        return Grade("ok", 2.0)


class GradeErrorIsZero(Novelty):
    def graded(self, question: Question, answer: str) -> Any:
        return super().graded(question, answer) if answer else Grade("error", 0.0, "empty")


class DropsAGrade(Novelty):
    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> Any:
        return super().grade(questions, answers)[:1]


class GradesByPlace(Novelty):
    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> Any:
        return [Grade.ok(1 / (i + 1)) for i in range(len(answers))]


class GradesNothing(Novelty):
    def graded(self, question: Question, answer: str) -> Any:
        return Grade.error("spent")


BROKEN: dict[Callable[[], Any], str] = {
    NoName: "name is ''",
    NoJudge: "lacks name or judge",
    NameDrifts: "name changed from 'novelty' to 'noveltyx",
    CheckFails: r"check\(\) raised KeyError",
    CheckIsAFlag: "check is not a method",
    Raises: "an ordinary trace raised TimeoutError: no reply",
    RaisesOnInvalid: "an invalid act raised ValueError",
    Encodes: "half a surrogate pair raised UnicodeEncodeError",
    DividesByHits: "a search that found nothing raised ZeroDivisionError",
    TwentyRoundsAtMost: "sixty rounds raised IndexError",
    Generator: "not a list of verdicts",
    DropsAVerdict: "9 verdicts for 10 traces",
    Shuffles: "verdicts differ: .* alone and in a batch|verdicts differ",
    EmptyBatch: "1 verdicts for 0 traces",
    Tuples: "is a tuple",
    Pending: "status 'pending' for round 1 of question 'plain'",
    ErrorIsZero: r"an error .* has the numbers \(0.0, 0.0\)",
    SilentError: "does not say what went wrong",
    OkWithoutNumber: r"None for .* is not a float in \[0, 1\]",
    PercentScale: r"85.0 for .* is not a float in \[0, 1\]",
    NanScore: "nan for .* is not a float",
    IntegerScore: "1 for .* is not a float",
    NoReason: "the reason .* is None",
    CostInCents: "says 'cents': 1; known are calls",
    NegativeCost: "says 'usd': -1.0",
    NotJson: r"to_info\(\) .* is not plain JSON",
    OtherInfo: r"to_info\(\) .* has the keys \['u', 'v'\]",
    AlwaysFails: "none of 10 ordinary rounds could be judged: connection refused",
    Mutates: "judging changed the traces",
    Moody: "'call 1'.* the same batch judged a second time",
    LooksAhead: "whose episode continued in two ways",
    MixesEpisodes: "apart and in one batch",
    BatchNormalised: "whose episode continued in two ways",
    FirstOfBatch: "in another order and repeated",
    OneFailsAll: "without and with an invalid act in its batch",
    OneThread: "judging in another thread raised RuntimeError",
    GradeRaises: "grading raised UnicodeEncodeError",
    GradesAsBool: "the grade for the answer 'Tarn' is a bool",
    GradeOutOfRange: r"2.0 for the answer .* is not a float in \[0, 1\]",
    GradeErrorIsZero: "an error for the answer '' has the numbers",
    DropsAGrade: "1 grades for 7 answers",
    GradesByPlace: "verdicts differ: .* in a batch and alone",
    GradesNothing: "none of three ordinary answers could be graded: spent",
}


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_every_broken_promise_of_a_judge_is_caught(make: Callable[[], Any]) -> None:
    with pytest.raises(ConformanceError, match=BROKEN[make]) as caught:
        check_judge(make())
    assert isinstance(caught.value, SearchGymError)


class NoKey(Novelty):
    def check(self) -> None:
        raise ConfigError("no key: set OPENAI_API_KEY")


def test_a_judge_that_cannot_work_says_so_and_is_not_called_broken() -> None:
    with pytest.raises(ConfigError, match="no key"):
        check_judge(NoKey())


def test_traces_of_the_caller_are_judged_too() -> None:
    class FearsVelm(Novelty):
        def verdict(self, trace: Trace) -> Any:
            if trace.question.id == "mine":
                raise RuntimeError("not this one")
            return super().verdict(trace)

    (episode,) = searchgym.rollout("SearchQA-Terse-v0", "random", 1, corpus=WORLD)
    mine = dataclasses.replace(traces_of(episode)[0], question=Question("mine", "?", ("x",), "dev"))
    check_judge(FearsVelm())
    with pytest.raises(ConformanceError, match="not this one"):
        check_judge(FearsVelm(), [mine])
