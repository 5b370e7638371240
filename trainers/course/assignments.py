"""The assignments, and the files that students and teachers get.

Each assignment is one file in `assignments/`, with its solution between two marks: cells of text, of the task and of checks. Students get it
without the solution, as a Python file in the percent format of jupytext or as a notebook.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, UnknownIdError

__all__ = ["ASSIGNMENTS", "Assignment", "find_assignment", "write_course", "write_solutions"]

_SOURCES = Path(__file__).with_name("assignments")
_SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^# %% ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Assignment:
    """One assignment.

    Attributes:
        number: from 1.
        name: of its file, without the number.
        title: for tables.
        points: at most.
    """

    number: int
    name: str
    title: str
    points: int

    @property
    def stem(self) -> str:
        """Name of the student's file without its suffix."""
        return f"{self.number}_{self.name}"

    def source(self) -> str:
        """The file with its solution."""
        return (_SOURCES / f"{self.name}.py").read_text("utf-8")

    def task(self) -> str:
        """The file without its solution."""
        return _SOLUTION.sub(rf'\1raise NotImplementedError("assignment {self.number}")\n', self.source())

    def checks(self) -> str:
        """The code of the cell with the examples."""
        return next(text for kind, text in cells(self.source()) if kind == "check")


ASSIGNMENTS = (
    Assignment(1, "group_advantage", "Group advantage", 20),
    Assignment(2, "contribution_weights", "Contribution weights", 25),
    Assignment(3, "anchor_credit", "Anchor-state credit", 25),
    Assignment(4, "own_rule", "Your own rule", 30),
)


def find_assignment(number: int) -> Assignment:
    """An assignment by its number.

    Raises:
        UnknownIdError: there is none.
    """
    for assignment in ASSIGNMENTS:
        if assignment.number == number:
            return assignment
    raise UnknownIdError("assignment", str(number), [str(a.number) for a in ASSIGNMENTS])


def write_course(folder: Path, notebooks: bool = False) -> list[Path]:
    """Write what a student gets.

    Args:
        folder: is created.
        notebooks: notebooks with the metadata of nbgrader, and tests for otter, in place of Python files.

    Returns:
        The files.

    Raises:
        ConfigError: the folder exists.
    """
    files = {"README.md": _read("README.md").replace("{SUFFIX}", "ipynb" if notebooks else "py")}
    for assignment in ASSIGNMENTS:
        files |= _student_files(assignment, assignment.task(), notebooks)
    return _write(folder, files)


def write_solutions(folder: Path, notebooks: bool = False) -> list[Path]:
    """Write what a teacher gets: the assignments with their solutions, and the guide.

    Args:
        folder: is created.
        notebooks: as source notebooks of nbgrader, whose solutions `nbgrader generate_assignment` removes.

    Returns:
        The files.

    Raises:
        ConfigError: the folder exists.
    """
    files = {"README.md": _read("instructor.md")}
    for assignment in ASSIGNMENTS:
        files |= _student_files(assignment, assignment.source(), notebooks)
    return _write(folder, files)


def cells(source: str) -> Iterator[tuple[str, str]]:
    """The cells of a percent file: what they are ("markdown", "task", "check") and their text."""
    parts = _CELL.split(source)
    for kind, text in zip(parts[1::2], parts[2::2], strict=True):
        text = text.strip("\n")
        if kind == "[markdown]":
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.split("\n"))
        yield kind.strip("[]"), text


# -- notebooks -----------------------------------------------------------------------------------------------


def _student_files(assignment: Assignment, source: str, notebooks: bool) -> dict[str, str]:
    if not notebooks:
        return {f"{assignment.stem}.py": source}
    return {
        f"{assignment.stem}.ipynb": json.dumps(_notebook(assignment, source), indent=1) + "\n",
        f"tests/q{assignment.number}.py": _otter_test(assignment),
    }


def _notebook(assignment: Assignment, source: str) -> dict[str, Any]:
    """A notebook (nbformat 4.5) whose cells have the metadata of nbgrader (schema 3)."""
    made = []
    for number, (kind, text) in enumerate(cells(source)):
        id_ = f"{assignment.name.replace('_', '-')}-{number}"
        grade: dict[str, Any] = {
            "schema_version": 3,
            "grade_id": id_,
            "locked": kind != "task",
            "solution": kind == "task",
            "grade": kind == "check",
            "task": False,
        }
        if kind == "check":
            grade["points"] = 1
        cell: dict[str, Any] = {
            "id": id_,
            "cell_type": "markdown" if kind == "markdown" else "code",
            "metadata": {"nbgrader": grade},
            "source": text.splitlines(keepends=True),
        }
        if kind != "markdown":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _otter_test(assignment: Assignment) -> str:
    """The examples as a test of otter-grader, in its dictionary format."""
    lines: list[str] = []
    depth = 0
    for line in assignment.checks().split("\n"):
        lines.append(f"{'... ' if depth else '>>> '}{line}")
        depth += sum(line.count(c) for c in "([{") - sum(line.count(c) for c in ")]}")
    test = {
        "name": f"q{assignment.number}",
        "points": 1,
        "suites": [
            {
                "type": "doctest",
                "scored": True,
                "setup": "",
                "teardown": "",
                "cases": [{"code": "\n".join(lines), "hidden": False, "locked": False}],
            }
        ],
    }
    return f"OK_FORMAT = True\n\ntest = {json.dumps(test, indent=4).replace('true', 'True').replace('false', 'False')}\n"


# -- files ---------------------------------------------------------------------------------------------------


def _read(name: str) -> str:
    return (_SOURCES / name).read_text("utf-8")


def _write(folder: Path, files: dict[str, str]) -> list[Path]:
    """Write files into a new folder: all of them or nothing."""
    if folder.exists():
        raise ConfigError(
            f"{str(folder)!r} exists: name a folder that does not, so that no work is overwritten"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        made = Path(place) / folder.name
        for name, text in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
        shutil.move(made, folder)
    return [folder / name for name in files]
