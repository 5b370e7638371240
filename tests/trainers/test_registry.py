"""Trainers of one file, of a module and of a session: trained, resumed, benchmarked; what is wrong is said in a sentence."""

import json
import os
import sys

import preloaded
import pytest
from helpers import small_world

import searchgym
from searchgym.cli import main
from searchgym.errors import ConfigError, PluginError, TrainingError, UnknownIdError
from searchgym.options.sources import absolute_name
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.bench.spec import load_spec, restrict
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.core.registry import load_trainer, trainer_label, trainer_name

pytestmark = pytest.mark.usefixtures("no_curve")

RULE = '''
"""A rule of one file."""

from __future__ import annotations

from dataclasses import dataclass

from searchgym.trainers.algorithms.grpo import GRPO, GRPOSettings
from searchgym.trainers.config import option
from searchgym.trainers.core.credit import Credit


@dataclass(frozen=True)
class MyConfig(GRPOSettings):
    scale: float = option(1.0, "factor on the advantages", low=0.0)


class MyRule(GRPO):
    settings_class = MyConfig

    def credit(self, groups):
        return Credit.per_episode([self.settings.scale * a_G for a_G in self.advantages(groups)])


class Unfinished(GRPO.__mro__[1]):
    def loss(self, batch, outputs):
        return None
'''
WORLD = small_world("country-terse", train=60)
SMALL = {
    "agent": "candidate", "iterations": 2, "questions": 4, "eval_episodes": 0, "lr": 0.1, "checkpoint_every": 1,
    "env_options": {"corpus": WORLD, "reward": {"recall": 1.0}}, "settings": {"group_size": 4},
}  # fmt: skip


@pytest.fixture
def rule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rule.py").write_text(RULE)
    return tmp_path / "my_rule.py"


class Local(GRPO):
    """A class of this module: found again by file and name."""


def test_names(rule):
    assert trainer_name(GRPO) == "grpo"
    assert load_trainer(trainer_name(Local)).__name__ == "Local"
    loaded = load_trainer("my_rule.py:MyRule")
    assert loaded is load_trainer(str(rule) + ":MyRule")
    assert trainer_name(loaded) == absolute_name("my_rule.py:MyRule") == f"{rule}:MyRule"
    assert trainer_label(f"{rule}:MyRule") == "MyRule"
    assert load_trainer("searchgym.trainers.algorithms.grpo:GRPO") is GRPO
    assert absolute_name("grpo") == "grpo"

    class Session(GRPO):
        pass

    assert trainer_name(Session) == "<Session>"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nobody.py:MyRule", ConfigError, r"nobody\.py cannot be read"),
        ("my_rule.py:MyRul", ConfigError, r"no class 'MyRul'\. Did you mean 'MyRule'"),
        ("my_rule.py:Unfinished", ConfigError, r"does not define credit\(\)"),
        ("my_rule.py:option", ConfigError, "subclass of Algorithm"),
        ("broken.py:MyRule", PluginError, "cannot be loaded: ZeroDivisionError"),
        ("nowhere.module:MyRule", PluginError, "ModuleNotFoundError"),
        ("gropo", UnknownIdError, "Did you mean 'grpo'"),
        ("<MyRule>", ConfigError, r"resume\(run_dir, trainer=MyRule\)"),
    ],
)
def test_what_cannot_be_loaded(rule, name, kind, message):
    (rule.parent / "broken.py").write_text("1 / 0\n")
    with pytest.raises(kind, match=message):
        load_trainer(name)


def test_a_file_is_trained_and_resumed_from_the_command_line(rule, tmp_path, capsys, monkeypatch):
    arguments = [
        "train",
        "--agent",
        "candidate",
        "--questions",
        "4",
        "--eval-episodes",
        "0",
        "--group-size",
        "4",
    ]
    arguments += ["--env-option", f"corpus={json.dumps(WORLD)}", "--set", "scale=2"]
    status = main([*arguments, "--trainer", "my_rule.py:MyRule", "--iterations", "1", "--run-dir", "run"])
    assert status == 0
    assert "MyRule trains candidate" in capsys.readouterr().out
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["trainer"]
    assert stored == f"{rule}:MyRule"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", "--run-dir", "../run", "--iterations", "2"]) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert main(["train", "--trainer", "../my_rule.py:MyRule", "--list-settings"]) == 0
    assert "scale = 1.0" in capsys.readouterr().out


def test_a_class_is_trained_like_a_registered_trainer(tmp_path):
    result = searchgym.train(trainer=Local, run_dir=tmp_path / "class", **SMALL)
    named = searchgym.train({**SMALL, "trainer": "grpo"}, tmp_path / "name")
    assert result.metrics == named.metrics
    assert len(searchgym.resume(tmp_path / "class", 3).metrics) == 4


def test_a_class_of_a_session_is_resumed_by_passing_it_again(tmp_path):
    class Session(GRPO):
        pass

    searchgym.train(SMALL, tmp_path, trainer=Session)
    with pytest.raises(ConfigError, match=r"resume\(run_dir, trainer=Session\)"):
        searchgym.resume(tmp_path, 3)
    with pytest.raises(ConfigError, match="trains with Session, you gave Local"):
        searchgym.resume(tmp_path, 3, trainer=Local)
    assert len(searchgym.resume(tmp_path, 3, trainer=Session).metrics) == 4


@pytest.mark.parametrize("wrong", [int, lambda: None, "not a trainer"])
def test_what_is_no_trainer_is_refused(tmp_path, wrong):
    with pytest.raises((ConfigError, UnknownIdError)):
        searchgym.train(SMALL, tmp_path / "run", trainer=wrong)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"Wrong\.credit\(\) returned nothing: return a Credit, e\.g\. Credit\.per_episode"),
        ([1.0], r"Wrong\.credit\(\) returned list \[1\.0\]: return a Credit"),
    ],
)
def test_credit_that_returns_the_wrong_thing(tmp_path, given, message):
    class Wrong(GRPO):
        def credit(self, groups):
            return given

    with pytest.raises(TrainingError, match=message):
        searchgym.train(SMALL, tmp_path, trainer=Wrong)


def test_credit_of_something_that_is_no_number(tmp_path):
    class Wrong(GRPO):
        def credit(self, groups):
            return Credit.per_round([0.5 for _ in groups])

    with pytest.raises(TrainingError, match=r"Credit\.per_round\(values\): values\[group\]\[episode\]"):
        searchgym.train(SMALL, tmp_path, trainer=Wrong)


def test_hooks_that_return_the_wrong_thing(tmp_path):
    class NoGroups(GRPO):
        def collect(self, policy, envs, tasks):
            super().collect(policy, envs, tasks)

    class NoSelection(GRPO):
        def select(self, groups):
            return None

    class NoLoss(GRPO):
        def loss(self, batch, outputs):
            return super().loss(batch, outputs).total

    for kind, message in (
        (NoGroups, r"NoGroups\.collect\(\) returned nothing: return a list of groups"),
        (NoSelection, r"NoSelection\.select\(\) returned nothing: return one truth value"),
        (NoLoss, r"NoLoss\.loss\(\) returned .*: return a Loss"),
    ):
        with pytest.raises(TrainingError, match=message):
            searchgym.train(SMALL, tmp_path / kind.__name__, trainer=kind)


def test_the_command_line_says_it_in_a_sentence(rule, capsys):
    rule.write_text(RULE.replace("return Credit.per_episode(", "Credit.per_episode("))
    arguments = [
        "train",
        "--agent",
        "candidate",
        "--questions",
        "4",
        "--eval-episodes",
        "0",
        "--group-size",
        "4",
    ]
    arguments += ["--env-option", f"corpus={json.dumps(WORLD)}", "--env-option", 'reward={"recall": 1.0}']
    assert main([*arguments, "--trainer", "my_rule.py:MyRule", "--run-dir", "run"]) != 0
    err = capsys.readouterr().err
    assert "MyRule.credit() returned nothing" in err
    assert "Traceback" not in err


def test_a_script_trains_its_own_class(tmp_path):
    script = RULE + (
        f"\nimport searchgym\nresult = searchgym.train({SMALL!r}, 'run', trainer=MyRule)\n"
        "print(len(searchgym.resume('run', 3, trainer=MyRule).metrics))\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = preloaded.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_benchmarks_take_files(rule):
    (rule.parent / "spec.toml").write_text(
        'extends = "seconds"\nkeep = ["grpo"]\nname = "small"\n[[entries]]\ntrainer = "my_rule.py:MyRule"\n'
        "settings = { scale = 2.0 }\n"
    )
    spec = load_spec("spec.toml")
    assert [(row.label, row.trainer) for row in spec.rows] == [("grpo", "grpo"), ("MyRule", f"{rule}:MyRule")]
    compared = restrict(load_spec("seconds"), ["my_rule.py:MyRule"], "grpo")
    assert [(row.label, row.trainer) for row in compared.rows] == [
        ("MyRule", f"{rule}:MyRule"),
        ("grpo", "grpo"),
    ]


def test_the_loop_writes_no_attribute_of_an_algorithm(tmp_path):
    class Frozen(GRPO):
        sealed = False

        def __setattr__(self, name, value):
            caller = sys._getframe(1).f_globals["__name__"]
            assert not caller.startswith("searchgym.trainers.training"), f"{caller} writes {name}"
            super().__setattr__(name, value)

    searchgym.train(SMALL, tmp_path, trainer=Frozen)


def test_the_environment_is_configured_once(tmp_path):
    calls = []

    class Counting(GRPO):
        def configure_env(self, env_config):
            calls.append(env_config)
            return env_config

    searchgym.train(SMALL, tmp_path, trainer=Counting)
    assert len(calls) == 1


REWARDS = '''
def seen(context):
    """Share of the gold passages."""
    return context.outcome.recall
'''


def test_a_reward_of_ones_own_is_saved_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    small = {**SMALL, "env_options": {"corpus": WORLD, "reward": {"mine.py:seen": 1.0}}}
    own = searchgym.train(small, tmp_path / "own")
    built_in = searchgym.train(SMALL, tmp_path / "built-in")
    assert [row["reward"] for row in own.metrics[1:]] == [row["reward"] for row in built_in.metrics[1:]]
    stored = json.loads((tmp_path / "own" / "config.json").read_text())["config"]["env_options"]["reward"]
    assert stored == {f"{tmp_path}/mine.py:seen": 1.0}
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(searchgym.resume(tmp_path / "own", 3).metrics) == 4
    assert main(["eval", "--run", "../own", "--episodes", "2"]) == 0
    with pytest.raises(ConfigError, match="move it into a file"):
        searchgym.train(
            {**SMALL, "env_options": {"corpus": WORLD, "reward": lambda context: 1.0}}, tmp_path / "lambda"
        )
    assert not (tmp_path / "lambda").exists()
