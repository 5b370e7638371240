"""Grades submissions: hidden cases, partial credit, a sentence for every case that failed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError
from searchgym.files import read_bytes

from .assignments import ASSIGNMENTS, Assignment, find_assignment
from .cases import Case, draw_cases
from .fidelity import BUDGET, TARGETS, HiddenGroups
from .sandbox import Limits, Reply, Sandbox

__all__ = ["Check", "Grader", "Submission", "grades_json"]

_SHOWN = 12  # numbers of a list in a sentence
_LARGEST_FILE = 20_000_000  # bytes of a notebook with its pictures


@dataclass(frozen=True)
class Check:
    """The result of one check; it holds one or several cases.

    Attributes:
        assignment: number of the assignment.
        name: what was checked.
        score: points reached.
        points: points at most.
        sentences: one for every case that failed.
    """

    assignment: int
    name: str
    score: float
    points: float
    sentences: tuple[str, ...] = ()


@dataclass
class Submission:
    """A graded folder.

    Attributes:
        student: the name of the folder.
        checks: in order of the assignments.
        measures: of assignment 4: "agreement", "order", "sign" and "probes" per group; empty if it was not graded or failed.
        files: name of each graded file -> SHA-256.
        confined: whether Landlock confined the student's code; None if nothing ran.
    """

    student: str
    checks: list[Check] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    confined: bool | None = None

    @property
    def score(self) -> float:
        """Points reached."""
        return sum(check.score for check in self.checks)

    @property
    def points(self) -> float:
        """Points at most."""
        return sum(check.points for check in self.checks)


class Grader:
    """Grades any number of folders by the same hidden cases.

    Args:
        seed: of the hidden cases.
        assignments: their numbers; empty: all.
        limits: what the code of one assignment may use.

    Raises:
        UnknownIdError: there is no such assignment.
    """

    def __init__(self, seed: int = 0, assignments: Sequence[int] = (), limits: Limits | None = None) -> None:
        self.seed = seed
        self.assignments = [find_assignment(n) for n in sorted(set(assignments))] or list(ASSIGNMENTS)
        self._limits = limits or Limits()
        self._hidden: HiddenGroups | None = None

    @property
    def hidden(self) -> HiddenGroups:
        """The groups of assignment 4."""
        if self._hidden is None:
            self._hidden = HiddenGroups(self.seed)
        return self._hidden

    def check_folders(self, folders: Sequence[Path]) -> None:
        """Refuse what cannot be meant, before anything is graded. One empty folder among others is a student without a point.

        Args:
            folders: of the students.

        Raises:
            ConfigError: one is not a folder, or none holds an assignment.
        """
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(
                    f"{str(folder)!r} is not a folder: give the folders that `course new` wrote (the pattern submissions/*/ leaves files out)"
                )
        if not any(_files(folder, assignment) for folder in folders for assignment in self.assignments):
            names = ", ".join(f"{a.stem}.py" for a in self.assignments)
            raise ConfigError(f"folder {str(folders[0])!r} holds no assignment ({names}, or .ipynb)")

    def grade(
        self, folder: Path, student: str = "", on_progress: Callable[[str], None] = lambda text: None
    ) -> Submission:
        """Grade a student's folder.

        Args:
            folder: written by `course new`.
            student: the name to report; default: that of the folder.
            on_progress: called with what is being done.

        Raises:
            ConfigError: it is not a folder.
        """
        if not folder.is_dir():
            raise ConfigError(f"{str(folder)!r} is not a folder: give the folder that `course new` wrote")
        submission = Submission(student or folder.resolve().name)
        for assignment in self.assignments:
            on_progress(f"{submission.student}: assignment {assignment.number}")
            paths = _files(folder, assignment)
            if sentence := _files_problem(assignment, paths):
                failed = Check(assignment.number, "the file", 0.0, assignment.points, (sentence,))
                submission.checks.append(failed)
                continue
            submission.files[paths[0].name] = hashlib.sha256(read_bytes(paths[0])).hexdigest()
            if assignment.number == 4:
                self._grade_rule(paths[0], submission)
            else:
                self._grade_cases(assignment, paths[0], submission)
        return submission

    def _grade_cases(self, assignment: Assignment, file: Path, submission: Submission) -> None:
        cases = draw_cases(assignment.number, self.seed)
        with Sandbox(file, self._limits) as sandbox:
            replies = [sandbox.call(case.function, case.arguments) for case in cases]
        submission.confined = sandbox.confined
        by_check = groupby(zip(cases, replies, strict=True), key=lambda pair: pair[0].check)
        for name, pairs in by_check:  # the process has ended: only now is anything expected
            judged = [(case, judge_case(case, reply)) for case, reply in pairs]
            sentences = tuple(
                f"case {n}: {sentence}" for n, (_, sentence) in enumerate(judged, 1) if sentence
            )
            points = judged[0][0].points
            score = points * (1 - len(sentences) / len(judged))
            submission.checks.append(Check(assignment.number, name, score, points, sentences))

    def _grade_rule(self, file: Path, submission: Submission) -> None:
        hidden, credit, sentences = self.hidden, [], []
        probes = [hidden.probes(number) for number in range(len(hidden))]
        with Sandbox(file, self._limits) as sandbox:
            for number, probe in enumerate(probes):
                reply = sandbox.call("credit", [hidden.group(number)], probe)
                lengths = hidden.rounds(number)
                problem = reply.error or _shape_problem(reply.value, lengths)
                if problem or probe.refused:
                    problem = problem or f"{probe.refused} calls of probe were beyond the budget of {BUDGET}"
                    sentences.append(f"group {number + 1}: {problem}")
                credit.append([[0.0] * n for n in lengths] if problem else reply.value)
        submission.confined = sandbox.confined
        measures = hidden.measure(credit)
        for name, points in (("agreement", 20.0), ("order", 5.0)):
            low, high = TARGETS[name]
            share = min(max((measures[name] - low) / (high - low), 0.0), 1.0)
            told = f"{name} is {measures[name]:.2f}: {low:.2f} earns no point, {high:.2f} earns all"
            score = round(points * share, 2)
            submission.checks.append(Check(4, name, score, points, (told,) if share < 1 else ()))
        score = 5.0 * (1 - len(sentences) / len(hidden))
        submission.checks.append(Check(4, "budget and shape", score, 5.0, tuple(sentences)))
        spent = sum(probe.spent for probe in probes) / len(probes)
        submission.measures = measures | {"probes": round(spent, 1)}


def judge_case(case: Case, reply: Reply) -> str:
    """Why a case failed, in one sentence; "" if it did not.

    Args:
        case: what was asked.
        reply: what came back.
    """
    called = f"{case.function}({', '.join(_short(value) for value in case.arguments)})"
    if reply.error:
        return f"{called}: {reply.error}"
    expected = case.expected()
    if isinstance(expected[0], list):
        problem = _shape_problem(reply.value, [len(row) for row in expected])
        found = [] if problem else [value for row in reply.value for value in row]
        wanted = [value for row in expected for value in row]
    else:
        problem = _row_problem(reply.value, len(expected))
        found, wanted = ([] if problem else reply.value), expected
    if problem:
        return f"{called}: {problem}"
    for a, b in zip(found, wanted, strict=True):
        if not abs(a - b) <= case.tolerance * max(1.0, abs(b)):
            return f"{called} returned {_short(reply.value)}; expected {_short(expected)}"
    return ""


def _shape_problem(value: Any, lengths: Sequence[int]) -> str:
    """Why a value is not one number per round; "" if it is."""
    if not isinstance(value, list) or len(value) != len(lengths):
        return (
            f"it returned {_short(value)}, not a list with one entry for each of the {len(lengths)} episodes"
        )
    for number, (row, length) in enumerate(zip(value, lengths, strict=True)):
        if problem := _row_problem(row, length):
            return f"episode {number}: {problem}"
    return ""


def _row_problem(row: Any, length: int) -> str:
    if not isinstance(row, list):
        return f"it returned {_short(row)}, not a list of {length} numbers"
    if len(row) != length:
        return f"it returned {len(row)} numbers, not {length}"
    for number in row:
        if isinstance(number, bool) or not isinstance(number, int | float) or abs(number) > 1e12:
            return f"it returned {_short(number)} where a number was expected"
        if not math.isfinite(number):
            return f"it returned {number}, which is not a finite number"
    return ""


def _short(value: Any) -> str:
    """A value in a sentence."""
    if isinstance(value, list):
        shown = ", ".join(_short(one) for one in value[:_SHOWN])
        return f"[{shown}{', …' if len(value) > _SHOWN else ''}]"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else repr(value)
    text = "nothing (None)" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _files(folder: Path, assignment: Assignment) -> list[Path]:
    return [p for suffix in (".py", ".ipynb") if (p := folder / f"{assignment.stem}{suffix}").is_file()]


def _files_problem(assignment: Assignment, paths: Sequence[Path]) -> str:
    """Why a folder holds no file to grade; "" if it does."""
    if not paths:
        return f"the file {assignment.stem}.py (or .ipynb) is missing"
    if len(paths) > 1:
        return "there are a .py and a .ipynb file: keep the one to grade"
    if paths[0].is_symlink():  # it could lead to the solution, or to a file that only the teacher may read
        return f"{paths[0].name} is a symbolic link: hand in the file itself"
    if paths[0].stat().st_size > _LARGEST_FILE:
        return f"{paths[0].name} is larger than {_LARGEST_FILE // 10**6} MB: remove outputs and data from it"
    return ""


def grades_json(seed: int, submissions: Sequence[Submission], references: Any = None) -> dict[str, Any]:
    """Grades as JSON. Each submission has the keys of Gradescope's results.json: `score` and `tests`.

    Args:
        seed: of the hidden cases.
        submissions: what was graded.
        references: see `HiddenGroups.references`; None if assignment 4 was not graded.
    """
    return {
        "schema": 1,
        "seed": seed,
        "references": references or {},
        "submissions": [
            {
                "student": submission.student,
                "score": round(submission.score, 2),
                "max_score": submission.points,
                "tests": [
                    {
                        "name": f"{check.assignment}. {find_assignment(check.assignment).title}: {check.name}",
                        "number": str(check.assignment),
                        "score": round(check.score, 2),
                        "max_score": check.points,
                        "output": "\n".join(check.sentences),
                    }
                    for check in submission.checks
                ],
                "measures": submission.measures,
                "files": submission.files,
                "confined": submission.confined,
            }
            for submission in submissions
        ],
    }
