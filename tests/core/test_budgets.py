"""The search-budget scaling curve: same questions, one thing changed, and what was spent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toys import RIGHT

import searchgym
from searchgym.agent import Agent, Turn
from searchgym.cli import main
from searchgym.errors import ConfigError
from searchgym.records.episode import StopReason

DEV = ["dev-0", "dev-1", "dev-2", "dev-3"]


class Patient(Agent):
    """Answers after two searches, whatever its budget; a search takes three tokens, the answer one."""

    name = "patient"

    def begin(self, slots: Any) -> None:
        self.done = getattr(self, "done", {}) | dict.fromkeys(slots, 0)

    def act(self, slots: Any, observations: Any, infos: Any) -> list[str | Turn]:
        turns: list[str | Turn] = []
        for slot in slots:
            self.done[slot] += 1
            ids = [1] if self.done[slot] > 2 else [1, 2, 3]
            text = RIGHT if self.done[slot] > 2 else "<search> Corvin Mills </search>"
            turns.append(Turn(text, [0], ids, [-1.0] * len(ids)))
        return turns


def test_each_budget_plays_the_same_questions_under_its_limit(toy: str) -> None:
    curve = searchgym.evaluate_budgets("SearchQA-v0", Patient(), (4, 0, 1, 2), corpus=toy)
    assert [point.budget for point in curve.points] == [0, 1, 2, 4]
    assert [point.result.metrics["em"].value for point in curve.points] == [0, 0, 1, 1]
    assert [point.result.metrics["searches"].value for point in curve.points] == [0, 1, 2, 2]
    assert [point.result.metrics["rounds"].value for point in curve.points] == [1, 2, 3, 3]
    # A refused search was sampled all the same.
    assert [point.tokens for point in curve.points] == [3, 6, 7, 7]
    assert [point.on_budget for point in curve.points] == [1, 1, 0, 0]
    for point in curve.points:
        assert [e.task_id for e in point.result.episodes] == DEV
        assert {e.env["max_searches"] for e in point.result.episodes} == {point.budget}
        assert {e.env["max_rounds"] for e in point.result.episodes} == {curve.max_rounds} == {8}
    assert len(curve.episodes) == 16


def test_a_last_round_is_left_to_answer_in(toy: str) -> None:
    def searches(observation: str, info: dict[str, Any]) -> str:
        return RIGHT if info.get("round", 0) == 9 else "<search> Velm </search>"

    curve = searchgym.evaluate_budgets("SearchQA-v0", searches, (2, 9), corpus=toy)
    assert curve.max_rounds == 10
    assert [point.result.metrics["em"].value for point in curve.points] == [0, 1]
    assert curve.points[0].tokens is None


def test_the_planner_agent_answers_under_every_budget(toy: str) -> None:
    # Gold queries, the answer read from the passages found: what is missing is missing because the searches ran out.
    spec = {"name": "planner", "planner": "oracle", "answerer": {"name": "copy"}}
    curve = searchgym.evaluate_budgets("SearchQA-v0", spec, (0, 1, 2), corpus=toy)
    alone = searchgym.evaluate_budgets("SearchQA-v0", "oracle", (0, 1, 2), corpus=toy)
    assert [point.on_budget for point in curve.points] == [0, 0, 0]
    assert [point.on_budget for point in alone.points] == [1, 1, 0]
    recalls = [[p.result.metrics["recall"].value for p in c.points] for c in (curve, alone)]
    assert recalls[0] == recalls[1] == [0, 0.5, 1]


def test_failures_are_neither_scored_nor_counted_as_budget(toy: str) -> None:
    class Broken(Patient):
        def act(self, slots: Any, observations: Any, infos: Any) -> list[str | Turn]:
            turns = super().act(slots, observations, infos)
            if slots[0] == 0:
                turns[0] = Turn("", stop=StopReason.AGENT_FAILED)
            return turns

    (point,) = searchgym.evaluate_budgets("SearchQA-v0", Broken(), (1,), corpus=toy).points
    assert (point.result.failed, point.result.questions, point.on_budget) == (1, 3, 1.0)


def test_json_text_and_picture(toy: str, tmp_path: Path) -> None:
    curve = searchgym.evaluate_budgets("SearchQA-v0", Patient(), (1, 4), corpus=toy)
    data = json.loads(json.dumps(curve.to_json()))
    assert (data["agent"], data["max_rounds"], len(data["points"])) == ("patient", 8, 2)
    first = data["points"][0]
    assert (first["budget"], first["on_budget"], first["tokens"]) == (1, 1.0, 6.0)
    assert first["metrics"]["em"]["mean"] == 0
    assert "episodes" not in first
    assert "budget 4: EM 1.000 [1.000, 1.000], searches 2.00, sampled tokens 7.0" in str(curve)
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    bare = searchgym.evaluate_budgets("SearchQA-v0", "copy", (0, 1, 4), corpus=toy)
    for name, others in (("one.png", ()), ("two.png", (bare,)), ("again.png", (bare,))):
        curve.plot(tmp_path / name, *others)
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.png", "one.png", "two.png"]


@pytest.mark.parametrize(
    ("budgets", "arguments", "text"),
    [
        ((), {}, "give numbers of searches"),
        ("12", {}, "whole number"),
        ((1, 1), {}, "give each number once"),
        ((1, -1), {}, "at least 0"),
        ((1, 2.0), {}, "whole number"),
        ((1,), {"max_searches": 3}, "budgets sets it"),
    ],
)
def test_what_cannot_be_used_is_refused(budgets: Any, arguments: Any, text: str, toy: str) -> None:
    with pytest.raises(ConfigError, match=text):
        searchgym.evaluate_budgets("SearchQA-v0", "copy", budgets, corpus=toy, **arguments)


def test_the_command_prints_saves_and_draws(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    command = ["eval", "--agent", "oracle", "--budget", "2,1", "--env-option", f"corpus={toy}"]
    saved = tmp_path / "episodes.jsonl"
    assert main([*command, "--save", str(saved)]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1", "0.000", "0.000 – 0.000", "1.00", "2.00", "100.0%"],
        ["2", "1.000", "1.000 – 1.000", "2.00", "3.00", "0.0%"],
    ]
    assert [e.env["max_searches"] for e in searchgym.load_episodes(saved)] == [1] * 4 + [2] * 4
    assert main([*command, "--json"]) == 0
    assert [p["budget"] for p in json.loads(capsys.readouterr().out)["points"]] == [1, 2]
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    assert main([*command, "--plot", str(tmp_path / "sub" / "curve.png")]) == 0
    assert (tmp_path / "sub" / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--budget", "1,x"], "--budget is '1,x'"),
        (["--budget", ""], "--budget is ''"),
        (["--plot", "x.png"], "--budget 1,2,4,8"),
        (["--budget", "1", "--env-option", "max_searches=2"], "budgets sets it"),
        (["--budget", "1", "--plot", "."], "it is a directory"),
    ],
)
def test_the_command_refuses_in_one_line(
    options: list[str], text: str, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--plot" in options:
        pytest.importorskip("matplotlib", reason="the extra train is not installed")
    options = [str(tmp_path) if option == "." else option for option in options]
    assert main(["eval", *options, "--env-option", f"corpus={toy}"]) == 2
    assert text in capsys.readouterr().err


def test_without_matplotlib_a_plot_is_refused_before_the_work(toy: str) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from searchgym.cli import main\n"
        f"sys.exit(main(['eval', '--budget', '1', '--plot', 'x.png', '--env-option', 'corpus={toy}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a plot needs the module 'matplotlib': pip install \"searchgym[train]\"" in done.stderr
