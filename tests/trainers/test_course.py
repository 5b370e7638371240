"""The course kit: what students and teachers get, hidden cases, partial credit, grades and the leaderboard."""

from __future__ import annotations

import json
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine

pytest.importorskip("torch", reason="the extra train is not installed")

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.trainers.course.assignments import ASSIGNMENTS, write_course, write_solutions
from searchgym.trainers.course.cases import draw_cases
from searchgym.trainers.course.fidelity import BUDGET, HiddenGroups
from searchgym.trainers.course.grading import Grader, Submission
from searchgym.trainers.course.leaderboard import leaderboard_html, read_grades


@pytest.fixture(scope="module")
def solutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course") / "solutions"
    write_solutions(folder)
    return folder


@pytest.fixture(scope="module")
def rules() -> Grader:
    """Grades assignment 4; its hidden groups are computed once, and are fewer than those of the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("searchgym.trainers.course.fidelity._QUESTIONS", 8)
        grader = Grader(3, [4])
        assert len(grader.hidden) == 8
    return grader


def graded(folder: Path, number: int, old: str = "", new: str = "", seed: int = 0) -> dict[str, float]:
    """Check -> share of its points, of a solution with one change."""
    file = next(folder.glob(f"{number}_*.py"))
    text = file.read_text()
    assert old in text
    place = folder / f"changed-{number}-{abs(hash((old, new, seed)))}"
    place.mkdir(exist_ok=True)
    (place / file.name).write_text(text.replace(old, new))
    submission = Grader(seed, [number]).grade(place)
    assert all(len(c.sentences) > 0 for c in submission.checks if c.score < c.points)
    return {check.name: check.score / check.points for check in submission.checks}


# -- what is written ---------------------------------------------------------------------------------------


def test_students_get_tasks_and_no_solution(tmp_path: Path, cli: CommandLine) -> None:
    result = cli("course", "new", str(tmp_path / "kit"))
    assert result.status == 0
    files = sorted(p.name for p in (tmp_path / "kit").iterdir())
    assert files == ["1_group_advantage.py", "2_contribution_weights.py", "3_anchor_credit.py", "4_own_rule.py", "README.md"]  # fmt: skip
    for assignment in ASSIGNMENTS:
        text = (tmp_path / "kit" / f"{assignment.stem}.py").read_text()
        assert "SOLUTION" not in text
        assert text.count(f'raise NotImplementedError("assignment {assignment.number}")') >= 1
        with pytest.raises(NotImplementedError, match=f"assignment {assignment.number}"):
            runpy.run_path(str(tmp_path / "kit" / f"{assignment.stem}.py"))
    again = cli("course", "new", str(tmp_path / "kit"))
    assert again.status == 2
    assert "exists" in again.err
    assert not list(tmp_path.glob(".kit*"))


def test_the_examples_hold_for_the_solutions(solutions: Path) -> None:
    for assignment in ASSIGNMENTS:
        runpy.run_path(str(solutions / f"{assignment.stem}.py"))


def test_notebooks_are_those_of_nbgrader_and_otter(tmp_path: Path) -> None:
    write_course(tmp_path / "kit", notebooks=True)
    write_solutions(tmp_path / "solutions", notebooks=True)
    for assignment in ASSIGNMENTS:
        notebook = json.loads((tmp_path / "kit" / f"{assignment.stem}.ipynb").read_text())
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
        cells = [cell["metadata"]["nbgrader"] for cell in notebook["cells"]]
        assert len({cell["grade_id"] for cell in cells}) == len(cells)
        assert [(c["solution"], c["grade"], c["locked"]) for c in cells if not c["locked"] or c["grade"]] == [
            (True, False, False),
            (False, True, True),
        ]
        solved = (tmp_path / "solutions" / f"{assignment.stem}.ipynb").read_text()
        assert solved.count("### BEGIN SOLUTION") == solved.count("### END SOLUTION") > 0
        names: dict[str, Any] = {}
        exec((tmp_path / "kit" / "tests" / f"q{assignment.number}.py").read_text(), names)
        code = names["test"]["suites"][0]["cases"][0]["code"]
        assert all(line[:4] in (">>> ", "... ") for line in code.split("\n"))
        assert names["OK_FORMAT"] is True
    assert "1_group_advantage.ipynb" in (tmp_path / "kit" / "README.md").read_text()


# -- hidden cases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_solutions_get_every_point_whatever_the_seed(number: int, solutions: Path) -> None:
    for seed in (0, 1, 4711):
        assert set(graded(solutions, number, seed=seed).values()) == {1.0}


def test_cases_depend_on_the_seed_alone() -> None:
    for number in (1, 2, 3):
        first, again, other = ([case.arguments for case in draw_cases(number, seed)] for seed in (5, 5, 6))
        assert first == again != other


def test_expected_values_are_those_of_the_texts() -> None:
    """By hand, not by the functions of the package."""
    for case in draw_cases(1, 2):
        (rewards,) = case.arguments
        mean = math.fsum(rewards) / len(rewards)
        std = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
        wanted = [0.0 if len(set(rewards)) == 1 else (r - mean) / (std + 1e-6) for r in rewards]
        assert case.expected() == pytest.approx(wanted, abs=1e-9)
    for case in draw_cases(2, 2):
        if case.function == "contribution_weights":
            p, alpha = case.arguments
            if alpha <= 10:
                total = sum(math.exp(alpha * x) for x in p)
                assert case.expected() == pytest.approx([len(p) * math.exp(alpha * x) / total for x in p])
            elif math.isinf(alpha):
                assert case.expected() == pytest.approx([len(p) * x / (sum(p) or 1) for x in p])


MISTAKES = [
    (1, "(len(rewards) - 1)", "len(rewards)", {"rewards of 0 and 1", "other rewards"}),
    (1, "if min(rewards) == max(rewards)", "if False", {"equal rewards"}),
    (2, "math.exp(alpha * (p - largest))", "math.exp(alpha * p)", {"very large alpha"}),
    (2, "count * p / total if total > 0 else 0.0", "count * p / total", {"infinite alpha, no contribution"}),
    (2, "if advantage <= 0", "if False", {"credit of an episode"}),
    (2, "] + [advantage]", "]", {"credit of an episode"}),
    (3, "(len(values) - 1)", "len(values)", {"omega 0", "shared states", "discounting", "nothing to compare"}),
    (3, "gamma ** (len(states[i]) - 1 - t)", "gamma ** t", {"discounting"}),
    (3, "setdefault(name, [])", "setdefault((i, name), [])", {"shared states", "discounting"}),
]  # fmt: skip


@pytest.mark.parametrize(("number", "right", "wrong", "fails"), MISTAKES)
def test_a_typical_mistake_costs_the_points_of_its_checks(
    number: int, right: str, wrong: str, fails: set[str], solutions: Path
) -> None:
    shares = graded(solutions, number, right, wrong)
    assert {name for name, share in shares.items() if share < 1.0} == fails


def test_a_sentence_says_what_was_called_returned_and_expected(tmp_path: Path) -> None:
    (tmp_path / "1_group_advantage.py").write_text(
        "def group_advantage(rewards): return [0.25 for _ in rewards]\n"
    )
    checks = Grader(0, [1]).grade(tmp_path).checks
    sentence = checks[2].sentences[0]
    assert re.fullmatch(
        r"case 1: group_advantage\(\[0(, 0)+\]\) returned \[0.25(, 0.25)+\]; expected \[0(, 0)+\]", sentence
    )
    for returned, said in (
        ("None", "returned nothing (None), not a list of"),
        ("rewards + [1]", "numbers, not"),
        ("['a'] * len(rewards)", "returned 'a' where a number"),
        ("[float('nan')] * len(rewards)", "not a finite number"),
        ("[10**400] * len(rewards)", "where a number was expected"),
        ("[True] * len(rewards)", "returned True where"),
    ):
        (tmp_path / "1_group_advantage.py").write_text(f"def group_advantage(rewards): return {returned}\n")
        submission = Grader(0, [1]).grade(tmp_path)
        assert submission.score == 0
        assert said in submission.checks[0].sentences[0]


def test_arrays_of_numpy_are_lists(tmp_path: Path) -> None:
    code = (
        "import numpy as np\ndef group_advantage(rewards):\n    r = np.array(rewards)\n"
        "    return np.zeros(len(r)) if (r == r[0]).all() else (r - r.mean()) / (r.std(ddof=1) + 1e-6)\n"
    )
    (tmp_path / "1_group_advantage.py").write_text(code)
    assert Grader(0, [1]).grade(tmp_path).score == 20


# -- assignment 4 ------------------------------------------------------------------------------------------


def test_the_solution_reaches_the_target_and_grpo_does_not(rules: Grader, solutions: Path) -> None:
    submission = rules.grade(solutions)
    assert submission.score > 29
    assert submission.measures["probes"] == BUDGET
    references = rules.hidden.references()
    assert 0.3 < references["GRPO (no probe)"]["agreement"] < 0.55
    assert references["one probe per round"]["agreement"] < 0.55 < submission.measures["agreement"]


def test_groups_tell_nothing_that_is_true(rules: Grader) -> None:
    group = rules.hidden.group(0)
    assert {key for episode in group for key in episode} == {"reward", "rounds"}
    assert {key for e in group for r in e["rounds"] for key in r} == {"state", "kind", "text"}
    json.dumps(group)


def test_probes_are_continuations_drawn_from_the_true_value(rules: Grader) -> None:
    hidden: HiddenGroups = rules.hidden
    values = hidden._values[0]
    i, t = max(((i, t) for i, v in enumerate(values) for t in range(len(v))), key=lambda p: -abs(values[p[0]][p[1]] - 0.5))  # fmt: skip
    outcomes = []
    for number in range(40):
        probes = hidden.probes(0)
        probes.rng = __import__("numpy").random.default_rng(number)
        outcomes += [probes(i, t) for _ in range(BUDGET)]
    assert set(outcomes) <= {0.0, 1.0}
    assert sum(outcomes) / len(outcomes) == pytest.approx(values[i][t], abs=0.06)
    with pytest.raises(ValueError, match="the budget of 32 probes is spent"):
        probes(i, t)
    assert (probes.spent, probes.refused) == (BUDGET, 1)
    assert [hidden.probes(1)(0, 0) for _ in range(3)] == [hidden.probes(1)(0, 0)] * 3
    with pytest.raises(ValueError, match="no such round"):
        hidden.probes(0)(-1, 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("return probe(0, 99)", "no such round"),
        ("[probe(0, 0) for _ in range(33)]", "the budget of 32 probes is spent"),
        ("try:\n        [probe(0, 0) for _ in range(40)]\n    except ValueError: pass\n    return [[0.0] * len(e['rounds']) for e in group]", "1 calls of probe were beyond"),
        ("return [[0.0] for e in group]", "numbers, not"),
        ("return probe('a', 0)", "ValueError"),
    ],
)  # fmt: skip
def test_what_a_rule_may_not_do(code: str, said: str, rules: Grader, tmp_path: Path) -> None:
    (tmp_path / "4_own_rule.py").write_text(f"def credit(group, probe):\n    {code}\n")
    submission = rules.grade(tmp_path)
    assert submission.score == 0
    assert all(said in sentence for sentence in submission.checks[-1].sentences)


# -- the command -------------------------------------------------------------------------------------------


def test_grades_of_several_students_and_the_leaderboard(
    solutions: Path, tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchgym.trainers.course.fidelity._QUESTIONS", 4)
    for name in ("alice", "<b>bob</b>", "carol"):
        (tmp_path / name / "credit").mkdir(parents=True)
    (tmp_path / "alice" / "credit" / "4_own_rule.py").write_text((solutions / "4_own_rule.py").read_text())
    (tmp_path / "alice" / "credit" / "1_group_advantage.py").write_text("def group_advantage(r:\n")
    (tmp_path / "<b>bob</b>" / "credit" / "1_group_advantage.py").write_text((solutions / "1_group_advantage.py").read_text())  # fmt: skip
    result = cli(
        "course", "grade", *(str(tmp_path / n / "credit") for n in ("alice", "<b>bob</b>", "carol")),
        "--assignment", "1", "--assignment", "4", "--json", str(tmp_path / "grades.json"),
    )  # fmt: skip
    assert result.status == 0
    assert "alice/credit: 30 of 50 points" in result.out
    assert "1. Group advantage, every case: 1_group_advantage.py defines no function" in result.out
    assert result.out.count("syntax error in line 1 of 1_group_advantage.py") == 1
    assert "4_own_rule.py (or .ipynb) is missing" in result.out
    grades = json.loads((tmp_path / "grades.json").read_text())
    alice, bob, carol = grades["submissions"]
    assert (alice["student"], alice["score"], bob["score"], bob["max_score"]) == ("alice/credit", 30, 20, 50)
    assert {"name", "score", "max_score", "output", "number"} == set(alice["tests"][0])
    assert alice["measures"]["agreement"] > 0.8
    assert bob["measures"] == {}
    assert (carol["score"], carol["max_score"]) == (0, 50)
    assert "1_group_advantage.py (or .ipynb) is missing" in carol["tests"][0]["output"]
    page = tmp_path / "board.html"
    assert cli("course", "leaderboard", str(tmp_path / "grades.json"), "--out", str(page)).status == 0
    html = page.read_text()
    assert "<b>bob" not in html
    assert "&lt;b&gt;bob" in html
    assert html.index("alice") < html.index("GRPO (no probe)") < html.index("bob")
    assert "<script" not in html


@pytest.mark.parametrize(
    "text", ["{}", "[]", "x", '{"seed": 0, "references": {}, "submissions": [{"student": "a", "measures": {"agreement": "<b>"}, "score": 1, "max_score": 2}]}']
)  # fmt: skip
def test_files_that_hold_no_grades_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "grades.json").write_text(text)
    with pytest.raises(ConfigError, match="holds no grades"):
        read_grades([tmp_path / "grades.json"])


def test_grades_of_different_seeds_are_not_compared(tmp_path: Path) -> None:
    for seed in (1, 2):
        text = json.dumps({"seed": seed, "references": {}, "submissions": []})
        (tmp_path / f"{seed}.json").write_text(text)
    assert "seed 1" in leaderboard_html(read_grades([tmp_path / "1.json"]))
    with pytest.raises(ConfigError, match="only grades of one seed"):
        read_grades([tmp_path / "1.json", tmp_path / "2.json"])


def test_what_is_not_a_submission_is_refused(tmp_path: Path, solutions: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        Grader().grade(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no assignment"):
        Grader().check_folders([tmp_path])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"notes.txt' is not a folder"):
        Grader().check_folders([solutions, tmp_path / "notes.txt"])
    with pytest.raises(UnknownIdError, match="5"):
        Grader(0, [5])
    (tmp_path / "1_group_advantage.py").write_text("")
    (tmp_path / "1_group_advantage.ipynb").write_text("")
    submission: Submission = Grader(0, [1]).grade(tmp_path)
    assert submission.checks[0].sentences == ("there are a .py and a .ipynb file: keep the one to grade",)
    assert submission.points == 20
