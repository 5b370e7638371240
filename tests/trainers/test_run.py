"""Run directories survive kills, refuse second owners and foreign checkpoints, and resume bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest
import torch
from safetensors.torch import load_file
from toy_bandit import VOCABULARY, make_trainer, run_toy

from searchgym.errors import CheckpointError, ConfigError, RunDirectoryError
from searchgym.trainers.conformance import TabularPolicy
from searchgym.trainers.runs.directory import RunDirectory, default_run_directory
from searchgym.trainers.runs.display import PlainDisplay


def final_tensors(run):
    last = sorted((run / "checkpoints").iterdir())[-1]
    return {**load_file(last / "policy" / "table.safetensors"), **load_file(last / "tensors.safetensors")}


def assert_same_run(a, b):
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    left, right = final_tensors(a), final_tensors(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def test_what_a_run_leaves_behind(tmp_path, drawn_curve):
    run_toy(tmp_path / "run", iterations=9, keep_checkpoints=2)
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir() if p.name != ".lock") == [
        "checkpoints", "config.json", "credit", "curve.png", "episodes", "metrics.jsonl", "summary.json", "timings.jsonl",
    ]  # fmt: skip
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-000000", "step-000008", "step-000009",
    ]  # fmt: skip
    assert sorted(p.name for p in (run / "episodes").iterdir()) == [
        "eval-000000.jsonl", "eval-000009.jsonl",
        "train-000006.jsonl", "train-000008.jsonl", "train-000009.jsonl",
    ]  # fmt: skip
    assert sorted(p.name for p in (run / "credit").iterdir()) == [
        f"train-00000{i}.safetensors" for i in (6, 8, 9)
    ]
    assert [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").open()] == list(range(10))
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "curve.png").stat().st_size > 10_000
    summary = json.loads((run / "summary.json").read_text())
    assert summary["iterations"] == 9
    assert summary["after"]["metrics"]["em"]["mean"] >= summary["before"]["metrics"]["em"]["mean"]
    names = {p.suffix for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert names == {".json", ".jsonl", ".safetensors", ".png"}


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_stopped_run_continues_as_if_it_had_not_stopped(tmp_path, stop):
    run_toy(tmp_path / "straight", iterations=6, eval_every=3, minibatches=3)
    run_toy(tmp_path / "stopped", iterations=stop, eval_every=3, minibatches=3)
    # The stopped run evaluated at its end; drop that, as an interrupted run would not have come so far.
    rows = [json.loads(line) for line in (tmp_path / "stopped" / "metrics.jsonl").open()]
    for row in rows:
        if row["iteration"] % 3:
            row.pop("eval", None)
    (tmp_path / "stopped" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run_toy(tmp_path / "stopped", iterations=6, eval_every=3, minibatches=3)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.usefixtures("no_curve")
def test_rows_after_the_last_checkpoint_and_a_cut_line_are_forgotten(tmp_path):
    run_toy(tmp_path / "a", iterations=4)
    run_toy(tmp_path / "b", iterations=2)
    rows = (tmp_path / "a" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b" / "metrics.jsonl").write_bytes(b"".join(rows[:4]) + rows[4][:40])
    (tmp_path / "b" / "checkpoints" / ".tmp-4").mkdir()
    run_toy(tmp_path / "b", iterations=4)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not list((tmp_path / "b" / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the driver forks")
def test_killed_at_random_moments_and_resumed(tmp_path):
    """SIGKILL in a loop; what is left continues to the same bytes as an undisturbed run."""
    driver = [sys.executable, str(Path(__file__).with_name("toy_bandit.py"))]
    preloaded.run([*driver, str(tmp_path / "straight"), "40", "0"], check=True)
    killed = preloaded.run(
        [*driver, str(tmp_path / "killed"), "40", "4"], check=True, stdout=subprocess.PIPE, text=True
    )
    reached = [int(line) for line in killed.stdout.split()]
    assert len(reached) >= 2, "it was finished before it was killed often enough to say anything"
    assert max(reached) > 0
    assert_same_run(tmp_path / "straight", tmp_path / "killed")
    kept = [
        ((run / "best.json").read_bytes(), sorted(p.name for p in (run / "checkpoints").iterdir()))
        for run in (tmp_path / "straight", tmp_path / "killed")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0][1]) == 3, "the initial checkpoint, the best one and the last one"


@pytest.mark.usefixtures("no_curve")
def test_a_failed_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    run_toy(tmp_path / "straight", iterations=6)

    def fail(self, directory):
        if directory.parent.name.endswith("4"):
            raise KeyboardInterrupt
        real_save(self, directory)

    real_save = TabularPolicy.save
    monkeypatch.setattr(TabularPolicy, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "broken", iterations=6)
    assert [p.name for p in sorted((tmp_path / "broken" / "checkpoints").iterdir())] == [
        "step-000000", "step-000002",
    ]  # fmt: skip
    monkeypatch.undo()
    run_toy(tmp_path / "broken", iterations=6)
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_two_runs_in_one_directory(tmp_path):
    with RunDirectory.create(tmp_path, {}):
        for opener in (lambda: RunDirectory.open(tmp_path), lambda: RunDirectory.create(tmp_path, {})):
            with pytest.raises(RunDirectoryError, match="in use by another process"):
                opener()
    RunDirectory.open(tmp_path).__exit__()


def test_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(RunDirectoryError, match=r"not empty .*thesis.tex.*choose another --run-dir"):
        RunDirectory.create(tmp_path, {})
    assert (tmp_path / "thesis.tex").read_text() == "do not touch"


def test_a_run_is_not_overwritten(tmp_path):
    RunDirectory.create(tmp_path, {}).__exit__()
    with pytest.raises(RunDirectoryError, match="continue it with --resume"):
        RunDirectory.create(tmp_path, {})


def test_nothing_to_resume(tmp_path):
    with pytest.raises(RunDirectoryError, match="does not hold a run to resume"):
        RunDirectory.open(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(("text", "message"), [("{", "is damaged"), ('{"schema": 99}', "has schema 99")])
def test_damaged_or_foreign_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=message):
        RunDirectory.open(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a directory this user cannot write")
def test_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory.create(tmp_path / "run", {})
    tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory.create(tmp_path / "run", {})


@pytest.mark.usefixtures("no_curve")
def test_a_checkpoint_of_another_architecture(tmp_path):
    run_toy(tmp_path, iterations=2)
    with (
        RunDirectory.open(tmp_path) as run,
        pytest.raises(
            CheckpointError, match=r"another architecture.*'vocabulary': 6.*'vocabulary': 9.*new run from its"
        ),
    ):
        make_trainer(run, policy=TabularPolicy(VOCABULARY + 3), iterations=4)


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize("name", ["trainer.json", "tensors.safetensors", "policy/table.safetensors"])
def test_a_damaged_checkpoint(tmp_path, name):
    run_toy(tmp_path, iterations=2)
    file = tmp_path / "checkpoints" / "step-000002" / name
    file.write_bytes(file.read_bytes()[:20])
    with RunDirectory.open(tmp_path) as run, pytest.raises(CheckpointError):
        make_trainer(run, iterations=4)


@pytest.mark.usefixtures("no_curve")
def test_fewer_iterations_than_the_run_has(tmp_path):
    run_toy(tmp_path, iterations=4)
    with pytest.raises(ConfigError, match="already has 4"):
        run_toy(tmp_path, iterations=2)


def test_resuming_a_finished_run_trains_nothing(tmp_path):
    run_toy(tmp_path, iterations=4)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "summary.json").unlink()
    run_toy(tmp_path, iterations=4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert (tmp_path / "summary.json").exists()


def test_default_names_do_not_collide(tmp_path):
    first = default_run_directory("grpo", "ns/Search QA-v0", tmp_path)
    first.mkdir(parents=True)
    second = default_run_directory("grpo", "ns/Search QA-v0", tmp_path)
    assert first != second
    assert first.name.startswith("grpo-ns-Search-QA-v0-")


@pytest.mark.usefixtures("no_curve")
def test_plain_lines(tmp_path, capsys):
    with RunDirectory.create(tmp_path, {}) as run:
        trainer = make_trainer(run, iterations=2)
        trainer.display = PlainDisplay()
        trainer.run_to_end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("grpo trains toy on ")
    assert lines[2].startswith("greedy evaluation after 0 iterations: EM 0.")
    assert lines[3].startswith("iteration 1/2  EM ")
    assert len(lines) == 6
