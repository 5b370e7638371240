"""Ctrl-C during training: the iteration is finished and saved; a second one stops at once; the run continues unchanged."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from test_run import assert_same_run
from toy_bandit import ToyGRPO, make_trainer, run_toy

from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.interrupts import Interrupts
from searchgym.trainers.training.loop import Loop

pytestmark = [
    pytest.mark.usefixtures("no_curve"),
    pytest.mark.skipif(os.name == "nt", reason="signals cannot be sent to the process itself"),
]


def steps(run: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in (run / "checkpoints").iterdir())


def press(monkeypatch: pytest.MonkeyPatch, iteration: int, times: int = 1, before: bool = True) -> None:
    """Send Ctrl-C in an iteration, before or after it learns."""
    real = Loop.iterate

    def iterate(self: Loop, *rest: Any) -> Any:
        def interrupt() -> None:
            if self.iteration + before == iteration:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        if before:
            interrupt()
        done = real(self, *rest)
        if not before:
            interrupt()
        return done

    monkeypatch.setattr(Loop, "iterate", iterate)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("iteration", [1, 3, 4])
def test_the_iteration_in_progress_is_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    iteration: int,
    before: bool,
) -> None:
    options: dict[str, Any] = {"iterations": 6, "checkpoint_every": 100, "eval_episodes": 0}
    run_toy(tmp_path / "straight", **options)
    press(monkeypatch, iteration, before=before)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "stopped", **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "the run stops after the iteration in progress" in capsys.readouterr().err
    assert steps(tmp_path / "stopped") == [0, iteration]
    rows = [json.loads(line) for line in (tmp_path / "stopped" / "metrics.jsonl").open()]
    assert rows[-1]["iteration"] == iteration
    monkeypatch.undo()
    run_toy(tmp_path / "stopped", **options)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_a_second_one_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press(monkeypatch, 3, times=2)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, iterations=6, checkpoint_every=100)
    assert steps(tmp_path) == [0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_in_the_last_iteration_the_run_just_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press(monkeypatch, 4)
    result = run_toy(tmp_path, iterations=4)
    assert result.metrics[-1]["iteration"] == 4
    assert (tmp_path / "summary.json").exists()


def test_during_the_first_evaluation(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, {}) as run:
        trainer = make_trainer(run, iterations=4)
        evaluator = trainer.evaluator
        assert evaluator is not None

        def evaluate(policy: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return evaluator(policy)

        trainer.evaluator = evaluate
        with pytest.raises(KeyboardInterrupt):
            trainer.run_to_end()
    assert steps(tmp_path) == [0]
    run_toy(tmp_path, iterations=4)


def test_a_failing_iteration_is_still_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(ToyGRPO):
        def collect(self, policy: Any, envs: Any, tasks: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with RunDirectory.create(tmp_path, {}) as run, pytest.raises(ZeroDivisionError):
        make_trainer(run, Failing({"group_size": 8}), iterations=4).run_to_end()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_handlers_and_other_threads_are_left_alone() -> None:
    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    seen = []

    def inside() -> None:
        with Interrupts() as interrupts:
            seen.append(interrupts.requested)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [False]
