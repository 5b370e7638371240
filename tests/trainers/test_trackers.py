"""Trackers: refused before any work where they cannot be had, and what TensorBoard's own reader finds."""

import importlib.util
import json

import pytest
from toy_bandit import make_trainer

from searchgym.errors import ConfigError, MissingExtraError
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.runs.display import Display
from searchgym.trainers.runs.trackers import TRACKERS, Displays, TrackerDisplay, check_trackers
from searchgym.trainers.training.api import train

pytestmark = pytest.mark.usefixtures("no_curve")


@pytest.fixture
def nothing_installed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in TRACKERS else real(name, *rest)
    )


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_package_is_said_before_anything_is_written(tmp_path, name):
    message = rf"tracker '{name}' needs the module '{name}': pip install \"searchgym\[{name}\]\""
    with pytest.raises(MissingExtraError, match=message):
        train({"agent": "candidate", "tracker": f"{name}"}, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_names_and_options_that_there_are_not(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'. Did you mean 'tensorboard'"):
        train({"agent": "candidate", "tracker": "tensorbord"}, tmp_path / "run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for key in ("mode", "trackio.project"):
        with pytest.raises(
            ConfigError, match=rf"tracker option '{key}' does not belong to a tracker of this run \(wandb\)"
        ):
            check_trackers("wandb", {key: "offline"})
    with pytest.raises(ConfigError, match=r"\(it has none\): write NAME.KEY=VALUE"):
        check_trackers("", {"wandb.mode": "offline"})
    assert check_trackers(" wandb, trackio", {"wandb.mode": "offline", "wandb.group": "a.b"}) == {
        "wandb": {"mode": "offline", "group": "a.b"},
        "trackio": {},
    }
    assert list(tmp_path.iterdir()) == []


class Recorder:
    """Stands where accelerate's tracker of a package is: keeps what it is called with."""

    def __init__(self, project, **arguments):
        self.calls = [(project, arguments)]
        Recorder.last = self

    def start(self):
        if self.calls[0][1].get("mode") == "broken":
            raise RuntimeError("api_key not configured")
        self.calls.append("start")

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


def track(path, name, options=None, iterations=2):
    opener = RunDirectory.open if (path / "config.json").exists() else lambda p: RunDirectory.create(p, {})
    with opener(path) as run:
        trainer = make_trainer(run, iterations=iterations, checkpoint_every=1)
        trainer.display = Displays([Display(), TrackerDisplay(name, options or {})])
        return trainer.run_to_end()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_what_a_tracker_is_given(tmp_path, monkeypatch, name):
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, Recorder)
    monkeypatch.setenv("TRACKIO_DIR", "")
    monkeypatch.delenv("TRACKIO_DIR")
    result = track(tmp_path / "mine", name, {"project": "paper", "group": "a"})
    (project, arguments), started, *logged, finished = Recorder.last.calls
    assert (project, started, finished) == ("paper", "start", "finish")
    assert {k: arguments[k] for k in ("name", "resume", "group")} == {
        "name": "mine",
        "resume": "allow",
        "group": "a",
    }
    assert arguments["config"]["iterations"] == 2
    assert [step for step, _ in logged] == [0, 1, 2]
    before, values, _ = (values for _, values in logged)
    assert before["eval/em"] == result.before["em"].value
    assert {k: v for k, v in values.items() if not k.startswith("seconds/")} == {
        k: v for k, v in result.metrics[1].items() if isinstance(v, (int, float)) and k != "iteration"
    }
    assert values["seconds/update"] > 0
    identity = arguments.get("id")
    track(tmp_path / "mine", name, iterations=3)
    ((_, again), _, (step, _), _) = Recorder.last.calls
    assert step == 3
    assert again.get("id") == identity
    if name == "wandb":
        assert arguments["dir"] == str(tmp_path / "mine")
        assert json.loads((tmp_path / "mine" / "wandb.json").read_text()) == {"id": identity}


def test_a_tracker_that_does_not_open_is_one_error(tmp_path, monkeypatch):
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    with pytest.raises(ConfigError, match=r"tracker 'wandb' cannot be opened \(api_key not configured\)"):
        track(tmp_path, "wandb", {"mode": "broken"})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = track(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"em", "reward", "entropy", "grad_norm", "eval/em", "seconds/collect"} <= set(
        events.Tags()["scalars"]
    )
    found = {(e.step, round(e.value, 5)) for e in events.Scalars("grad_norm")}
    assert found == {(row["iteration"], round(row["grad_norm"], 5)) for row in result.metrics[1:]}
    assert [e.step for e in events.Scalars("eval/em")] == [0, 2]
    (config,) = events.Tensors("config/text_summary")
    assert b'"questions": 6' in config.tensor_proto.string_val[0]


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(tmp_path, "tensorboard", iterations=3)
    last = tmp_path / "checkpoints" / "step-000003"
    last.rename(tmp_path / "checkpoints" / ".tmp-3")  # as if killed before it was saved
    result = track(tmp_path, "tensorboard", iterations=4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("em")] == [1, 2, 3, 4]
    assert events.Scalars("em")[-1].value == pytest.approx(result.metrics[-1]["em"])
