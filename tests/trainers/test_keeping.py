"""What survives: the best checkpoint, a full disk, a context that is too small; and that nothing is unpickled."""

import ast
import errno
import json
import os
import pathlib
import re
from pathlib import Path

import pytest
import safetensors.torch
from test_run import assert_same_run
from toy_bandit import ToyGRPO, make_trainer, play, run_toy

import searchgym.trainers.conformance.checks
import searchgym.trainers.learner.checkpoint
from searchgym.errors import ConfigError, RunDirectoryError, TrainingError
from searchgym.records.episode import Segment, StopReason
from searchgym.rollouts.evaluation import summarize
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.api import train
from searchgym.trainers.training.loop import Loop

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("searchgym", "corpora", "agents", "trainers")


def steps(path):
    return sorted(int(p.name.removeprefix("step-")) for p in (path / "checkpoints").iterdir())


# -- the best checkpoint ----------------------------------------------------------------------------------------


def scripted(ems):
    """An evaluation after every iteration with these exact matches, of 4 questions."""

    def evaluate(policy):
        right = round(4 * ems[evaluate.loop.iteration])
        episodes = [play(policy, str(t), str(t), str(t)) for t in range(4)]
        for number, episode in enumerate(episodes):
            episode.outcome.em = float(number < right)
        return summarize(episodes)

    return evaluate


def run_scripted(path, ems, **changes):
    opener = RunDirectory.open if (path / "config.json").exists() else lambda p: RunDirectory.create(p, {})
    with opener(path) as run:
        evaluate = scripted(ems)
        trainer = make_trainer(
            run,
            iterations=len(ems) - 1,
            eval_every=1,
            keep_best="em",
            keep_checkpoints=1,
            **{"checkpoint_every": 3, **changes},
        )
        evaluate.loop, trainer.evaluator = trainer.loop, evaluate
        return trainer.run_to_end()


@pytest.mark.usefixtures("no_curve")
def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    run_scripted(tmp_path, [0.0, 0.25, 0.75, 0.5, 0.75, 0.25, 0.0])
    assert steps(tmp_path) == [0, 2, 6]  # iteration 2 was not due, and 4 was no better
    best = {"iteration": 2, "metric": "em", "value": 0.75}
    assert json.loads((tmp_path / "best.json").read_text()) == best
    assert json.loads((tmp_path / "summary.json").read_text())["best"] == best


@pytest.mark.usefixtures("no_curve")
def test_a_policy_that_only_gets_worse_was_best_at_the_start(tmp_path):
    run_scripted(tmp_path, [0.5, 0.25, 0.0, 0.25])
    assert steps(tmp_path) == [0, 3]
    assert json.loads((tmp_path / "best.json").read_text())["iteration"] == 0


@pytest.mark.usefixtures("no_curve")
def test_the_best_survives_a_stop_and_the_run_is_the_same(tmp_path, monkeypatch):
    ems = [0.0, 0.5, 0.25, 0.75, 0.5, 0.25]
    run_scripted(tmp_path / "straight", ems)
    real = Loop.iterate

    def interrupt(self, watch=None):
        if self.iteration == 4:
            raise KeyboardInterrupt
        return real(self, watch)

    monkeypatch.setattr(Loop, "iterate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_scripted(tmp_path / "stopped", ems)
    monkeypatch.setattr(Loop, "iterate", real)
    assert json.loads((tmp_path / "stopped" / "best.json").read_text())["iteration"] == 3
    run_scripted(tmp_path / "stopped", ems)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    assert steps(tmp_path / "straight") == steps(tmp_path / "stopped") == [0, 3, 5]


@pytest.mark.usefixtures("no_curve")
def test_keeping_the_best_does_not_change_training(tmp_path):
    run_toy(tmp_path / "a", iterations=6, eval_every=1)
    run_toy(tmp_path / "b", iterations=6, eval_every=1, keep_best="em")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_nothing_to_choose_the_best_from(tmp_path):
    with pytest.raises(ConfigError, match=r"keep_best is 'em'.* set eval_every"):
        train({"agent": "candidate", "eval_every": 0, "keep_best": "em"}, tmp_path / "run")
    with pytest.raises(ConfigError, match="Choose one of: em, f1"):
        train({"agent": "candidate", "keep_best": "reward"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- a full disk ------------------------------------------------------------------------------------------------


class FullDisk:
    """Every write from the n-th on fails as on a full disk; what is written as text gets half-way."""

    def __init__(self, monkeypatch, free):
        self.free, self.writes = free, 0
        real_write, real_text, real_open, real_mkdir = os.write, Path.write_text, Path.open, Path.mkdir

        def write(handle, data):
            if self.full():
                real_write(handle, data[: len(data) // 2])
                raise self.error()
            return real_write(handle, data)

        def write_text(path, data, *rest):
            if self.full():
                real_text(path, data[: len(data) // 2], *rest)
                raise self.error()
            return real_text(path, data, *rest)

        def opened(path, mode="r", *rest, **options):
            if mode[0] in "wxa" and self.full():
                raise self.error()
            return real_open(path, mode, *rest, **options)

        def mkdir(path, *rest, **options):
            if not path.exists() and self.full():
                raise self.error()
            return real_mkdir(path, *rest, **options)

        def saved(tensors, file):
            if self.full():
                Path(file).write_bytes(b"half of")
                raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
            return safetensors.torch.save_file(tensors, file)

        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(pathlib.Path, "write_text", write_text)
        monkeypatch.setattr(pathlib.Path, "open", opened)
        monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)
        for module in (searchgym.trainers.learner.checkpoint, searchgym.trainers.conformance.checks):
            monkeypatch.setattr(module, "save_file", saved)

    def full(self):
        self.writes += 1
        return self.writes > self.free

    @staticmethod
    def error():
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("no_curve")
def test_a_full_disk_at_every_moment(tmp_path, monkeypatch):
    """One typed error, whatever could not be written; nothing half-written; resuming gives the run of a large disk."""
    changes = {"iterations": 1, "checkpoint_every": 1, "eval_every": 1, "keep_best": "em"}
    run_toy(tmp_path / "straight", **changes)
    free = 0
    while True:
        run = tmp_path / str(free)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, free)
            try:
                run_toy(run, **changes)
                break
            except RunDirectoryError as error:
                message = str(error)
        assert "No space left on device" in message
        assert "free some space" in message or "choose another" in message
        assert not list(run.rglob(".tmp-*")), free
        for file in run.rglob("*.json"):
            json.loads(file.read_text("utf-8"))
        for file in run.rglob("*.jsonl"):
            assert file.read_bytes()[-1:] in (b"", b"\n"), file
        run_toy(run, **changes)
        assert_same_run(tmp_path / "straight", run)
        free += 1
    assert free == disk.writes > 20, "the disk was never full in the middle of a run"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and a limit on file sizes")
@pytest.mark.usefixtures("no_curve")
def test_a_limit_that_the_operating_system_sets(tmp_path, capfd):
    """The same with real refusals by the kernel: no file may grow beyond 4 kB."""
    import resource

    run_toy(tmp_path / "straight", iterations=6)
    run_toy(tmp_path / "small", iterations=2, eval_every=6)
    before = (tmp_path / "small" / "metrics.jsonl").read_bytes()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            run_toy(tmp_path / "small", iterations=6)
        except RunDirectoryError as error:
            os.write(2, str(error).encode())
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert re.search(
        r"cannot be written \(.*\); the checkpoint of iteration 2 is complete: free", capfd.readouterr().err
    )
    assert steps(tmp_path / "small") == [0, 2]
    rows = (tmp_path / "small" / "metrics.jsonl").read_bytes()
    assert rows.startswith(before)
    assert rows.endswith(b"\n")
    run_toy(tmp_path / "small", iterations=6)
    straight, small = (
        [
            {k: v for k, v in json.loads(line).items() if k != "eval"}
            for line in (tmp_path / n / "metrics.jsonl").open()
        ]
        for n in ("straight", "small")
    )
    assert straight == small


@pytest.mark.usefixtures("no_curve")
def test_a_failure_that_cannot_be_saved_is_still_the_failure(tmp_path, monkeypatch):
    class Exploding(ToyGRPO):
        def loss(self, batch, outputs):
            disk.free = disk.writes
            loss = super().loss(batch, outputs)
            loss.total = loss.total * float("nan")
            return loss

    disk = FullDisk(monkeypatch, 10**6)
    with RunDirectory.create(tmp_path, {}) as run:
        trainer = make_trainer(run, Exploding({"group_size": 8}))
        with pytest.raises(
            TrainingError, match=r"the loss of iteration 1 is not finite.*nothing could be saved of it"
        ):
            trainer.run_to_end()
    assert not list(tmp_path.glob("*failed*"))


# -- a context that is too small ----------------------------------------------------------------------------------


class Cramped(ToyGRPO):
    """The first `cramped` episodes of every group end at once: their question does not fit."""

    cramped = 8

    def collect(self, policy, envs, tasks):
        groups = super().collect(policy, envs, tasks)
        for episode in (e for group in groups for e in group[: self.cramped]):
            episode.segments = [Segment([int(episode.task_id)], [0], [0.0], [0])]
            episode.outcome.stop_reason = StopReason.TOKEN_BUDGET
            episode.rounds[-1].reward = 0.0
        return groups


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(("cramped", "alarmed"), [(8, True), (5, True), (3, False)])
def test_prompts_longer_than_the_context_are_counted_and_said(tmp_path, cramped, alarmed):
    algorithm = Cramped({"group_size": 8, "skip_equal": False})
    algorithm.cramped = cramped
    with RunDirectory.create(tmp_path, {}) as run:
        row = make_trainer(run, algorithm, iterations=1, eval_episodes=0).run_to_end().metrics[1]
    assert row["context_full"] == cramped / 8
    assert ("context_full" in row["alarms"]) == alarmed
    assert row["updates"] == (0 if cramped == 8 else 2)


def test_the_real_agent_with_a_context_smaller_than_the_question(toy, tmp_path):
    from test_language_model import train as train_tiny

    result = train_tiny(tmp_path / "run", toy, 1, context=4)
    assert result.metrics[1]["context_full"] == 1.0
    assert result.metrics[1]["updates"] == 0
    assert result.metrics[1]["alarms"] == ["context_full"]


# -- files that cannot run code -----------------------------------------------------------------------------------


def test_nothing_is_unpickled():
    """No pickle and relatives, torch.load only of weights, NumPy without objects."""
    risky = re.compile(
        r"pickle|dill|joblib|shelve|marshal|torch\.(load|save)|(np|numpy)\.load|(save|load)_state\b"
    )
    sources = {p: p.read_text("utf-8") for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    assert len(sources) > 100
    found = []
    for path in (path for path, text in sources.items() if risky.search(text)):
        for node in ast.walk(ast.parse(sources[path])):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                roots = {name.partition(".")[0] for name in names}
                found += [
                    (path.name, r)
                    for r in roots & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
                ]
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if call == "torch.save" or call.endswith((".save_state", ".load_state")):
                    found.append((path.name, call))
                if call == "torch.load" and options.get("weights_only") != "True":
                    found.append((path.name, call))
                if call in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
                    found.append((path.name, call))
    assert found == []
