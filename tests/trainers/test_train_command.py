"""`searchgym train` as a user runs it, on the real environment with the candidate policy."""

import dataclasses
import json
import signal
import subprocess
import sys
from functools import partial

import pytest
from helpers import start_searchgym, wait_until

import searchgym.trainers.training.loop
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.trainers.config import TrainConfig
from searchgym.trainers.training.api import resume, train
from searchgym.trainers.training.cli import _GROUPS

SMALL = ["--agent", "candidate", "--questions", "2", "--group-size", "4", "--eval-episodes", "8"]


@pytest.fixture
def run(cli):
    """Run `searchgym train`."""
    return partial(cli, "train")


def test_help_and_settings_need_no_torch():
    code = "import sys, searchgym.trainers.training.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_and_its_continuation_equal_one_long_run(run, tmp_path):
    code, out, _ = run(*SMALL, "--iterations", "3", "--run-dir", str(tmp_path / "a"))
    assert code == 0
    assert "greedy evaluation on held-out questions" in out
    assert "before training" in out
    assert str(tmp_path / "a") in out.replace("\n", "")
    run(*SMALL, "--iterations", "1", "--run-dir", str(tmp_path / "b"))
    code, out, _ = run("--resume", "--iterations", "3", "--run-dir", str(tmp_path / "b"))
    assert code == 0
    assert "continuing after iteration 1" in out
    rows = {
        n: [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in "ab"
    }
    rows["b"][1].pop("eval")  # the first part evaluated at its end
    assert rows["a"] == rows["b"]
    assert json.loads((tmp_path / "b" / "config.json").read_text())["config"]["iterations"] == 3


def test_every_training_option_has_a_heading_on_the_help_page(run):
    grouped = [name for names in _GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(TrainConfig))
    out = run("--help").out
    for heading in _GROUPS:
        assert f"\n{heading}:\n" in out
    assert "--lr-schedule [constant|linear|cosine]" in out


def test_list_settings(run):
    code, out, _ = run("--list-settings")
    assert code == 0
    assert "kl_estimator = k3  (k1 | k2 | k3 | k1+ | k3+)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "kl_cef=1"], "unknown trainer setting 'kl_cef'. Did you mean 'kl_coef'"),
        (["--set", "kl_coef"], "write KEY=VALUE"),
        (["--set", "kl_coef=much"], "trainer setting 'kl_coef' is 'much' (str): it takes a float"),
        (["--set", "clip_low=2"], "trainer setting 'clip_low' is 2.0: it must be between 0.0 and 1.0"),
        (["--set", "kl_estimator=k4"], "Choose one of: k1, k2, k3, k1+, k3+."),
        (["--trainer", "gpro"], "unknown trainer 'gpro'. Did you mean 'igpo' or 'grpo'"),
        (["--agent", "candidat"], "unknown agent 'candidat'. Did you mean 'candidate'"),
        (["--agent", "copy"], "agent 'copy' cannot be trained"),
        (["--agent", "tiny", "--env-option", "dialect=tools"], "speaks only the 'tags' dialect"),
        (["--env", "SearchQA-v1"], "SearchQA-v"),
        (["--env-option", "hop=3"], "Did you mean 'hops'"),
        (["--eval-split", "deev"], "unknown split 'deev'"),
        (["--lr", "-1"], "training option 'lr' is -1.0: it must be at least 0.0"),
        (["--lr", "nan"], "training option 'lr' is nan"),
        (["--lr-schedule", "step"], "'step' is not one of 'constant', 'linear', 'cosine'"),
        (["--iteration", "3"], "--iterations"),
        (["--resume"], "--resume needs --run-dir"),
        (["--resume", "--run-dir", "nowhere"], "does not hold a run to resume"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(arguments, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*SMALL, *arguments)
    assert code == 2
    assert message in out + err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_config_file_and_flags_that_win_over_it(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'agent = "candidate"\nquestions = 2\niterations = 7\neval-episodes = 0\nlr = 0.01\n'
        "[set]\ngroup_size = 4\nkl_coef = 0.5\n[env-option]\nhops = [2]\n"
    )
    code, _, err = run(
        "--config",
        str(file),
        "--iterations",
        "1",
        "--set",
        "kl_coef=0.25",
        "--run-dir",
        str(tmp_path / "r"),
    )
    assert code == 0, err
    config = json.loads((tmp_path / "r" / "config.json").read_text())["config"]
    assert config["iterations"] == 1
    assert config["lr"] == 0.01
    assert config["settings"] == {"group_size": 4, "kl_coef": 0.25}
    assert config["env_options"] == {"hops": [2]}


def test_a_resumed_run_keeps_its_configuration(run, tmp_path):
    run(*SMALL, "--iterations", "0", "--run-dir", str(tmp_path))
    code, _, err = run("--resume", "--run-dir", str(tmp_path), "--lr", "0.5")
    assert code == 2
    assert "lr cannot change when resuming (the run has 0.0005, you gave 0.5)" in err


def test_an_existing_run_is_not_touched(run, tmp_path):
    run(*SMALL, "--iterations", "0", "--run-dir", str(tmp_path))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, _, err = run(*SMALL, "--run-dir", str(tmp_path))
    assert code == 2
    assert "continue it with --resume" in err
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_interrupted_in_the_middle_of_an_iteration(run, tmp_path, monkeypatch):
    real = searchgym.trainers.training.loop.Loop.iterate

    def interrupt(self, watch):
        result = real(self, watch)
        if self.iteration == 2:
            raise KeyboardInterrupt
        return result

    # Recall is paid, so that an untrained policy's episodes differ and there is something to learn from.
    arguments = [*SMALL, "--env-option", 'reward={"recall": 1.0}', "--checkpoint-every", "1"]
    run(*arguments, "--iterations", "3", "--run-dir", str(tmp_path / "straight"))
    monkeypatch.setattr(searchgym.trainers.training.loop.Loop, "iterate", interrupt)
    code, _, err = run(*arguments, "--iterations", "3", "--run-dir", str(tmp_path / "stopped"))
    assert code == 130
    assert f"searchgym train --resume --run-dir {tmp_path / 'stopped'}" in err
    monkeypatch.undo()
    assert run("--resume", "--run-dir", str(tmp_path / "stopped"))[0] == 0
    a, b = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in ("straight", "stopped"))
    assert a == b
    assert json.loads(a.splitlines()[-1])["policy_version"] > 0


def test_ctrl_c_from_outside(tmp_path):
    command = ["train", *SMALL, "--iterations", "10000", "--run-dir", str(tmp_path / "run")]
    child = start_searchgym(*command, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "run" / "checkpoints" / "step-000005").exists, "a checkpoint", child)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted; continue with: searchgym train --resume" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "run").rglob(".tmp-*"))


def test_python_does_in_one_call_what_the_command_does(tmp_path, drawn_curve):
    config = {
        "agent": "candidate",
        "questions": 2,
        "iterations": 1,
        "settings": {"group_size": 4},
        "eval_episodes": 8,
    }
    first = train(config, tmp_path / "run")
    assert (first.run_dir / "curve.png").exists()
    assert set(first.before) == set(first.after) >= {"em", "f1", "recall"}
    second = resume(tmp_path / "run", iterations=2)
    assert [row["iteration"] for row in second.metrics] == [0, 1, 2]
    assert second.seconds > 0
    with pytest.raises(ConfigError, match="already has 2"):
        resume(tmp_path / "run", iterations=1)
    with pytest.raises(ConfigError, match="unknown training option 'iteration'"):
        train({"iteration": 1}, tmp_path / "other")
    with pytest.raises(UnknownIdError):
        train({"agent": "candidate", "env": "SearchQA-v9"}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_workers_that_cannot_start_leave_no_run_directory(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run(*SMALL, "--rollout-workers", "2", "--run-dir", str(tmp_path / "run"))
    assert code == 2
    assert 'pip install "searchgym[ray]"' in err
    assert not (tmp_path / "run").exists()
