"""The learning curve: what was measured, and nothing in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import CommandLine, skip_without

from searchgym.trainers.bench.spec import load_spec
from searchgym.trainers.config import TrainConfig
from searchgym.trainers.runs import curve

skip_without("matplotlib", "the extra train is not installed")


def row(iteration: int, em: float | None, evaluated: float | None = None) -> dict[str, Any]:
    counts = {"episodes": 4, "invalid_episodes": 0, "groups": 1, "equal_groups": 0}
    found: dict[str, Any] = {"iteration": iteration, "em": em, "reward": em, "entropy": em, **counts}
    if evaluated is not None:
        metric = {"mean": evaluated, "low": evaluated - 0.1, "high": evaluated + 0.1}
        found["eval"] = {"questions": 30, "metrics": {"em": metric}}
    return found


def run_directory(path: Path, *rows: dict[str, Any]) -> Path:
    path.mkdir()
    config = {"trainer": "grpo", "agent": "tiny", "env": "SearchQA-Terse-v0"}
    (path / "config.json").write_text(json.dumps({"schema": 1, "config": config}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_no_line_crosses_what_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(curve, "save_figure", lambda figure, path, **_: figures.append(figure))
    rows = [row(0, None, 0.2), row(1, 0.3), row(2, None), row(4, 0.5, 0.6)]
    curve.plot_run(run_directory(tmp_path / "run", *rows), tmp_path / "a.png")
    upper, lower = figures[0].axes
    sampled, greedy = upper.lines[0], upper.containers[0].lines[0]
    assert sampled.get_xdata().tolist() == [1, 2, 3, 4]
    assert np.isnan(sampled.get_ydata()).tolist() == [False, True, True, False]
    assert (greedy.get_xdata().tolist(), greedy.get_linestyle(), greedy.get_marker()) == ([0, 4], "None", "o")
    assert np.isnan(lower.lines[0].get_ydata()).tolist() == [False, True, True, False]
    assert upper.get_title() == "grpo trains tiny on SearchQA-Terse-v0"
    assert "30 held-out questions" in upper.get_legend_handles_labels()[1][-1]


def test_the_command_writes_the_format_of_the_suffix(cli: CommandLine, tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", row(0, None, 0.2), row(1, 0.3))
    out = tmp_path / "new" / "a.svg"
    assert cli("plot", str(run), "--out", str(out))[:2] == (0, f"wrote {out}\n")
    first = out.read_bytes()
    assert b"<svg" in first
    status, _, err = cli("plot", str(run), "--out", str(out))
    assert (status, "exists" in err) == (2, True)
    assert cli("plot", str(run), "--out", str(out), "--force").status == 0
    assert out.read_bytes() == first
    for wrong, message in ((tmp_path / "a.gif", "give one of .png"), (tmp_path / "a.pdf", "config.json")):
        status, _, err = cli("plot", str(tmp_path), "--out", str(wrong))
        assert (status, message in err) == (2, True)
    assert not (tmp_path / "a.pdf").exists()


def test_a_run_without_a_row_yet_has_an_empty_curve(tmp_path: Path) -> None:
    curve.plot_run(run_directory(tmp_path / "run"), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_evaluated_on_the_way_and_benchmarks_as_they_say(tmp_path: Path) -> None:
    assert 0 < TrainConfig().eval_every < TrainConfig().iterations
    spec = load_spec("seconds")
    entry, place = spec.entry(spec.baseline), next(iter(spec.environments))
    assert spec.config(entry, place, 1.0, 0).eval_every == spec.train["eval_every"]
    spec.train.pop("eval_every")
    assert spec.config(entry, place, 1.0, 0).eval_every == 0
