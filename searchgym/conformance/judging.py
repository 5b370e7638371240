"""Checks of judges and graders."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, ConformanceError
from ..judges import Grade, Verdict
from ..judges.protocol import Grader, Judge, Trace
from ..records.question import Question
from .promise import require
from .traces import GOLD, HALF, HUGE, PLAIN, continuations, odd_traces, ordinary_traces, prefixes

__all__ = ["check_judge"]

_COSTS = ("calls", "input_tokens", "output_tokens", "usd")


def check_judge(
    judge: Judge, traces: Sequence[Trace] = (), *, deterministic: bool = True, tolerance: float = 0.0
) -> None:
    """Check a judge against `searchgym.judges.Judge`, and against `Grader` if it has a method `grade`.

    The judge is given built-in traces, which need no corpus: a question without gold passages, one with gold passages, and
    odd rounds (invalid acts, empty results, a quarter of a megabyte, half a surrogate pair). It may fail on any of
    them with `Verdict.error`; it must not raise, and must judge at least one round.

    Args:
        judge: the judge. Give a judge that caches or pays for its judgements an empty cache and a stub: the check
            makes a few hundred judgements.
        traces: further traces, e.g. `traces_of` an episode of the corpus that the judge was made for.
        deterministic: False for a judge that samples: only the form of its verdicts is then checked.
        tolerance: the largest difference between two numbers for one round; 0 unless arithmetic depends on the batch, as
            in padded matrix products. Above 0, reasons are not compared, because they may quote the numbers.

    Raises:
        ConformanceError: a promise is broken.
        ConfigError: the judge's own `check()` says that it cannot work here.
    """
    require(isinstance(judge, Judge), f"{type(judge).__name__} lacks name or judge")
    name = judge.name
    require(isinstance(name, str) and name != "", f"name is {name!r}, not a non-empty string")
    _check_readiness(judge)
    run = _Run(judge, deterministic, tolerance)
    ordinary = [*ordinary_traces(), *traces]
    kept = copy.deepcopy(ordinary)
    verdicts = run.judge(ordinary)
    require(ordinary == kept, "judging changed the traces it was given")
    reasons = {verdict.reason for verdict in verdicts}
    require(
        any(verdict.status == "ok" for verdict in verdicts),
        f"none of {len(ordinary)} ordinary rounds could be judged: {'; '.join(sorted(reasons)[:2])}",
    )
    require(run.judge([]) == [], "an empty batch must have an empty result")
    run.same(verdicts, run.judge(ordinary), "the same batch judged a second time")
    _check_prefixes(run)
    for trace, verdict in zip(ordinary, verdicts, strict=True):
        run.same([verdict], run.judge([trace]), f"alone and in a batch, {_about(trace)}")
    again = run.judge([*reversed(ordinary), *ordinary])
    run.same([*reversed(verdicts), *verdicts], again, "in another order and repeated in one batch")
    _check_odd_traces(run, ordinary[0], verdicts[0])
    run.same(verdicts, _in_another_thread(run, ordinary), "judged in another thread")
    require(judge.name == name, f"name changed from {name!r} to {judge.name!r} while judging")
    if isinstance(judge, Grader):
        _check_grader(judge, run)


class _Run:
    """A judge under test, held to the types it promises; `same` compares its verdicts."""

    def __init__(self, judge: Judge, deterministic: bool, tolerance: float) -> None:
        self._judge = judge
        self._deterministic = deterministic
        self._tolerance = tolerance

    def judge(self, traces: Sequence[Trace], what: str = "an ordinary trace") -> list[Verdict]:
        try:
            verdicts = self._judge.judge(list(traces))
        except Exception as error:
            raise ConformanceError(
                f"{what} raised {type(error).__name__}: {error} (a judgement that failed is Verdict.error)"
            ) from error
        require(
            isinstance(verdicts, Sequence), f"judge gave a {type(verdicts).__name__}, not a list of verdicts"
        )
        require(len(verdicts) == len(traces), f"{len(verdicts)} verdicts for {len(traces)} traces")
        for trace, verdict in zip(traces, verdicts, strict=True):
            _check_verdict(verdict, _about(trace))
        return list(verdicts)

    def same(self, expected: Sequence[Verdict | Grade], found: Sequence[Verdict | Grade], what: str) -> None:
        if not self._deterministic:
            return
        for one, other in zip(expected, found, strict=True):
            close = all(
                a == b or (a is not None and b is not None and abs(a - b) <= self._tolerance)
                for a, b in zip(_numbers(one), _numbers(other), strict=True)
            )
            alike = one.status == other.status and (self._tolerance > 0 or one.reason == other.reason)
            require(
                close and alike,
                f"verdicts differ: {_shown(one)} and {_shown(other)} {what}",
            )


def _check_readiness(judge: Judge) -> None:
    check = getattr(judge, "check", None)
    if check is None:
        return
    require(callable(check), "check is not a method")
    for _ in range(2):
        try:
            check()
        except ConfigError:
            raise
        except Exception as error:
            raise ConformanceError(
                f"check() raised {type(error).__name__}: {error}; a judge that cannot work raises ConfigError"
            ) from error


def _check_verdict(verdict: Verdict, about: str) -> None:
    require(isinstance(verdict, Verdict), f"the verdict {about} is a {type(verdict).__name__}")
    _check_result(verdict, _numbers(verdict), about)
    info: dict[str, Any] = verdict.to_info()
    keys = ["status", "utility", "reasoning", "reason"]
    require(list(info)[:4] == keys, f"to_info() {about} has the keys {list(info)}, not {keys} first")
    try:
        plain = json.loads(json.dumps(info, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConformanceError(f"to_info() {about} is not plain JSON: {error}") from error
    require(plain == info, f"to_info() {about} is not plain JSON: {info} reads back as {plain}")


def _check_result(result: Verdict | Grade, numbers: tuple[float | None, ...], about: str) -> None:
    """What verdicts and grades have in common: a status, numbers exactly when it is ok, a reason, a cost."""
    require(result.status in ("ok", "error"), f"status {result.status!r} {about} is neither 'ok' nor 'error'")
    require(isinstance(result.reason, str), f"the reason {about} is {result.reason!r}, not a string")
    if result.status == "ok":
        for number in numbers:
            require(
                type(number) is float and 0.0 <= number <= 1.0,
                f"{number!r} {about} is not a float in [0, 1]",
            )
    else:
        require(
            all(number is None for number in numbers), f"an error {about} has the numbers {numbers}, not None"
        )
        require(result.reason.strip() != "", f"an error {about} does not say what went wrong")
    require(isinstance(result.cost, Mapping), f"the cost {about} is a {type(result.cost).__name__}")
    for what, value in result.cost.items():
        require(
            what in _COSTS and isinstance(value, int | float) and math.isfinite(value) and value >= 0,
            f"the cost {about} says {what!r}: {value!r}; known are {', '.join(_COSTS)}, finite and >= 0",
        )


def _check_prefixes(run: _Run) -> None:
    """A verdict depends on the prefix alone, not on what follows it in the episode."""
    shared, one, other = continuations()
    first = run.judge(prefixes(PLAIN, (shared, *one)))
    second = run.judge(prefixes(PLAIN, (shared, *other)))
    run.same(first[:1], second[:1], "for one round whose episode continued in two ways")
    both = run.judge([*prefixes(PLAIN, (shared, *one)), *prefixes(PLAIN, (shared, *other))])
    run.same([*first, *second], both, "for two episodes of one question, apart and in one batch")


def _check_odd_traces(run: _Run, normal: Trace, expected: Verdict) -> None:
    for what, trace in odd_traces().items():
        odd, neighbour = run.judge([trace, normal], what)
        run.same([expected], [neighbour], f"for an ordinary round, without and with {what} in its batch")
        run.same([odd], run.judge([trace], what), f"for {what}, in a batch and alone")


def _in_another_thread(run: _Run, traces: Sequence[Trace]) -> list[Verdict]:
    found: list[list[Verdict] | Exception] = []

    def work() -> None:
        try:
            found.append(run.judge(traces, "judging in another thread"))
        except Exception as error:  # carried over to the thread that can report it
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, Exception):
        raise result
    return result


def _check_grader(grader: Grader, run: _Run) -> None:
    questions = [PLAIN, GOLD, PLAIN, GOLD, PLAIN, PLAIN, GOLD]
    answers = ["Tarn", "Tarn", "the town of Velm", "", HALF, "<answer>Tarn</answer>\x00", HUGE]
    grades = _grade(grader, questions, answers)
    require(
        any(grade.status == "ok" for grade in grades[:3]),
        f"none of three ordinary answers could be graded: {grades[0].reason}",
    )
    require(_grade(grader, [], []) == [], "an empty batch of answers must have an empty result")
    for question, answer, grade in zip(questions, answers, grades, strict=True):
        alone = _grade(grader, [question], [answer])
        run.same([grade], alone, f"for the answer {_short(answer)}, in a batch and alone")
    backwards = _grade(grader, questions[::-1], answers[::-1])
    run.same(grades[::-1], backwards, "for the same answers in another order")


def _grade(grader: Grader, questions: list[Question], answers: list[str]) -> list[Grade]:
    try:
        grades = grader.grade(list(questions), list(answers))
    except Exception as error:
        raise ConformanceError(
            f"grading raised {type(error).__name__}: {error} (a grade that failed is Grade.error)"
        ) from error
    require(isinstance(grades, Sequence), f"grade gave a {type(grades).__name__}, not a list of grades")
    require(len(grades) == len(answers), f"{len(grades)} grades for {len(answers)} answers")
    for answer, grade in zip(answers, grades, strict=True):
        about = f"for the answer {_short(answer)}"
        require(isinstance(grade, Grade), f"the grade {about} is a {type(grade).__name__}")
        _check_result(grade, (grade.score,), about)
    return list(grades)


def _numbers(result: Verdict | Grade) -> tuple[float | None, ...]:
    return (result.score,) if isinstance(result, Grade) else (result.utility, result.reasoning)


def _shown(result: Verdict | Grade) -> str:
    return f"{result.status} {_numbers(result)} ({_short(result.reason)})"


def _about(trace: Trace) -> str:
    return f"for round {len(trace.rounds)} of question {trace.question.id!r} ({trace.rounds[-1].action.kind})"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
