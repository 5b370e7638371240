"""What `searchgym train` and `bench` show and refuse: awkward names, choices, group sizes, waiting."""

import io
import json
import shlex
from pathlib import Path

import pytest
from helpers import small_world

from searchgym.cli.console import Console
from searchgym.errors import ConfigError, printable
from searchgym.options import plugins
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.algorithms.ppo import PPO
from searchgym.trainers.config import make_config
from searchgym.trainers.runs.display import LiveDisplay, PlainDisplay

WORLD = json.dumps(small_world("country-terse", train=40, dev=10, test=10))
SMALL = [
    "--agent",
    "candidate",
    "--iterations",
    "1",
    "--questions",
    "2",
    "--group-size",
    "2",
    "--eval-episodes",
    "4",
]
NAMES = ["a[/b]", "[red]x", "a [bold", ":heart:", "it's; exit", "a\x1b[2Jb", "-x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_directory_may_have_any_name(name, cli, tmp_path):
    run_dir = tmp_path / name
    status, out, err = cli("train", *SMALL, "--corpus", WORLD, "--run-dir", str(run_dir))
    assert status == 0, err
    assert (run_dir / "summary.json").exists()
    assert "\x1b" not in out
    assert printable(f"run directory: {run_dir}") in out
    assert printable(shlex.join(["searchgym", "eval", "--run", str(run_dir)])) in out
    status, _, err = cli("train", *SMALL, "--corpus", WORLD, "--run-dir", str(run_dir))
    assert status == 2
    assert "\x1b" not in err


@pytest.mark.parametrize("name", NAMES)
def test_the_live_view_shows_names_as_text(name):
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, width=200, force_terminal=True, color_system=None))
    config = {"trainer": name, "agent": name, "env": name, "iterations": 1, "questions": 1}
    with display.opening(), display:
        display.start(config, Path("runs") / name, 0, [])
        display.alarm(f"alarm {name}")
    shown = out.getvalue()
    assert "opening agent, corpus and index" in shown
    assert printable(f"run directory: runs/{name}") in shown
    assert printable(f"alarm {name}") in shown
    assert "\x1b[2Jb" not in shown


def test_plain_lines_say_that_the_run_is_opening(capsys):
    out = io.StringIO()
    with PlainDisplay(out).opening():
        assert capsys.readouterr().err == "opening agent, corpus and index …\n"
    assert out.getvalue() == ""


def test_an_interrupted_opening_leaves_the_terminal_as_it_was(monkeypatch):
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True))
    with pytest.raises(ConfigError), display.opening():
        raise ConfigError("no such agent")
    assert (
        out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1
    )  # the cursor is hidden and shown


# -- choices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "offered"),
    [
        ("--keep-best", "accuracy", "'em', 'f1', 'sub_em', 'recall'"),
        ("--lr-schedule", "step", "'constant', 'linear', 'cosine'"),
    ],
)
def test_a_choice_offers_no_empty_name(flag, value, offered, cli):
    status, _, err = cli("train", flag, value)
    assert status == 2
    assert f"is not one of {offered}." in err
    assert "''" not in err


def test_nor_does_the_configuration():
    with pytest.raises(ConfigError, match="Choose one of: em, f1, sub_em, recall"):
        make_config({"keep_best": "accuracy"})
    assert make_config({"keep_best": ""}).keep_best == ""


def test_bench_names_each_row_once_and_compares_two(cli, tmp_path):
    status, _, err = cli("bench", "--compare", "grpoo", "grpo", "--out", str(tmp_path / "bench"))
    assert status == 2
    assert "Did you mean 'grpo'" in err
    known = err.partition("Known: ")[2].split(".")[0].split(", ")
    assert len(known) == len(set(known)) > 3
    status, _, err = cli("bench", "--compare", "grpo", "grpo", "--out", str(tmp_path / "bench"))
    assert status == 2
    assert "compares a row with itself" in err


# -- group size -----------------------------------------------------------------------------------------------------

RELATIVE = ["grpo", "gigpo", "cw-grpo", "capf"]


@pytest.mark.parametrize("name", RELATIVE)
def test_one_episode_per_question_is_refused_where_episodes_are_compared(name, cli):
    with pytest.raises(ConfigError, match=r"group_size is 1, but .* compares the episodes of a group"):
        plugins.load("trainers", name)({"group_size": 1})
    status, _, err = cli("train", "--trainer", name, "--group-size", "1")
    assert status == 2
    assert "one alone has nothing to be compared with" in err


def test_and_accepted_where_they_are_not():
    assert PPO().settings.group_size == 1
    assert plugins.load("trainers", "reinforce")({"group_size": 1}).settings.group_size == 1
    assert not GRPO({"advantage": "reinforce++", "group_size": 1}).group_relative
    with pytest.raises(ConfigError, match="group_size is 1"):
        GRPO({"advantage": "reinforce++-baseline", "group_size": 1})


def test_a_trainer_of_ones_own_that_is_group_relative_is_refused_too():
    class Mine(PPO):
        group_relative = True

    with pytest.raises(ConfigError, match="Mine compares the episodes"):
        Mine()
    assert Mine({"group_size": 2}).settings.group_size == 2


def test_corpus_and_retriever_of_train_are_environment_arguments(cli, tmp_path):
    arguments = [
        *SMALL,
        "--corpus",
        WORLD,
        "--retriever",
        '{"name": "bm25", "k1": 1.2}',
        "--env-option",
        "top_k=2",
    ]
    status, _, err = cli("train", *arguments, "--run-dir", str(tmp_path / "run"))
    assert status == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["env_options"] == {
        "top_k": 2,
        "corpus": json.loads(WORLD),
        "retriever": {"name": "bm25", "k1": 1.2},
    }
    status, _, err = cli("train", "--corpus", WORLD, "--env-option", "corpus=x")
    assert status == 2
    assert "--corpus and --env-option corpus=… exclude each other" in err
