"""`searchgym course`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from searchgym.cli.command import Command, Group, option
from searchgym.cli.console import Console, say, text
from searchgym.cli.options import OUTPUT
from searchgym.errors import MissingExtraError
from searchgym.files import write_text
from searchgym.records.episode import check_writable

from .assignments import find_assignment, write_course, write_solutions
from .leaderboard import leaderboard_html, read_grades

if TYPE_CHECKING:
    from .grading import Submission

__all__ = ["course"]

_FOLDER = click.Path(path_type=Path)
_SENTENCES = 2  # of a check, in the terminal
_notebooks = option(
    "--notebooks",
    is_flag=True,
    help="Notebooks with the metadata of nbgrader, and tests for otter-grader, in place of Python files.",
)


@click.group("course", cls=Group)
def course() -> None:
    """Assignments on credit assignment, with a grader.

    `new` writes what students get, `grade` grades it, `leaderboard` compares, `solutions` writes what teachers get.
    """


@course.command("new", cls=Command)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@_notebooks
def new(folder: Path, notebooks: bool) -> None:
    """Write the assignments into the new folder DIR."""
    files = write_course(folder, notebooks)
    for path in files:
        say(path)
    say(f"start with {files[0]}")


@course.command("solutions", cls=Command)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@_notebooks
def solutions(folder: Path, notebooks: bool) -> None:
    """For teachers: write the solutions and the guide into the new folder DIR."""
    for path in write_solutions(folder, notebooks):
        say(path)


@course.command("grade", cls=Command)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=_FOLDER)
@option(
    "--assignment",
    "assignments",
    type=int,
    multiple=True,
    help="Number of an assignment; repeatable. Default: all.",
)
@option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the hidden cases."
)
@option("--seconds", type=float, default=10.0, show_default=True, help="Time of one case at most.")
@option(
    "--memory-mb",
    type=click.IntRange(256),
    default=1024,
    show_default=True,
    help="Memory of the student's process at most.",
)
@option(
    "--json",
    "target",
    metavar="FILE",
    type=_FOLDER,
    group=OUTPUT,
    help="Write the grades to this file, e.g. for a gradebook.",
)
def grade(
    folders: tuple[Path, ...],
    assignments: tuple[int, ...],
    seed: int,
    seconds: float,
    memory_mb: int,
    target: Path | None,
) -> None:
    """Grade the assignments in DIR, a student's folder, or in several.

    A folder without a file of an assignment gets no point for it. Students' code runs in a process of its own, with limits. The exit status is 0 whatever the grade is.
    """
    try:
        from .grading import Grader, grades_json
        from .sandbox import Limits
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym course grade", str(error.name), "train") from error
    if target is not None:
        check_writable(target)
    grader = Grader(seed, assignments, Limits(seconds=seconds, memory_mb=memory_mb))
    grader.check_folders(folders)
    console = Console()
    graded = []
    for folder, student in zip(folders, _names(folders), strict=True):
        with console.status(text(student)) as status:
            submission = grader.grade(folder, student, lambda line: status.update(text(line)))
        graded.append(submission)
        console.print(_table(submission))
        for line in _sentences(submission):
            console.print(line, soft_wrap=True)
    if any(submission.confined is False for submission in graded):
        say(
            "note: this system has no Landlock, so students' code can read and write what you can: grade in a container",
            err=True,
        )
    if target is not None:
        references = grader.hidden.references() if any(s.measures for s in graded) else None
        write_text(target, json.dumps(grades_json(seed, graded, references), indent=1) + "\n")
        say(f"written: {target}")


@course.command("leaderboard", cls=Command)
@click.argument("grades", metavar="GRADES...", nargs=-1, required=True, type=_FOLDER)
@option(
    "--out",
    "target",
    metavar="FILE.html",
    type=_FOLDER,
    required=True,
    group=OUTPUT,
    help="The page to write.",
)
def leaderboard(grades: tuple[Path, ...], target: Path) -> None:
    """Write a page that ranks the rules of assignment 4.

    GRADES are files that `course grade --json` wrote with the same seed. The page holds the names of the students' folders.
    """
    check_writable(target)
    merged = read_grades(grades)
    write_text(target, leaderboard_html(merged))
    say(f"written: {target} ({len(merged['submissions'])} students)")


def _names(folders: Sequence[Path]) -> list[str]:
    """What tells folders apart: alice and bob, also of submitted/alice/credit and submitted/bob/credit."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) == 1:
        return [path.name for path in paths]
    common = Path(os.path.commonpath(paths))
    return [path.relative_to(common).as_posix() for path in paths]


def _sentences(submission: Submission) -> Iterator[str]:
    """Why cases failed: some of each check, or one line for an assignment whose cases all failed for one reason."""
    from .fidelity import TARGETS  # loads PyTorch, which the other commands do not need

    for number, group in groupby(submission.checks, key=lambda check: check.assignment):
        checks = list(group)
        reasons = {_reason(s) for check in checks if check.name not in TARGETS for s in check.sentences}
        if len(reasons) == 1 and not any(check.score for check in checks):
            yield f"{number}. {find_assignment(number).title}, every case: {reasons.pop()}"
            continue
        for check in checks:
            yield from (f"{number}. {check.name}, {s}" for s in check.sentences[:_SENTENCES])
            more = len(check.sentences) - _SENTENCES
            if more > 0:
                yield f"{number}. {check.name}: {more} more failed (--json lists all)"


def _reason(sentence: str) -> str:
    """A sentence without its case and without the line of the student's file."""
    reason = sentence.rpartition("): ")[2] if "): " in sentence else sentence.partition(": ")[2]
    return re.sub(r" \(line \d+ of [^)]*\)$", "", reason or sentence)


def _table(submission: Submission) -> Table:
    table = Table(
        "assignment",
        "check",
        "points",
        title=text(f"{submission.student}: {submission.score:.4g} of {submission.points:g} points"),
    )
    shown = 0
    for check in submission.checks:
        title = text(f"{check.assignment}. {find_assignment(check.assignment).title}")
        table.add_row(
            title if check.assignment != shown else "",
            text(check.name),
            f"{check.score:.4g} / {check.points:g}",
        )
        shown = check.assignment
    return table
