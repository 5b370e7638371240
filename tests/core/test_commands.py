"""The command line: help, did-you-mean, config files, exit statuses, and no traceback for a user's mistake."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import SEARCHGYM, CommandLine, run_searchgym
from toys import EMPLOYER

from searchgym.cli import main
from searchgym.options import plugins
from searchgym.records.episode import load_episodes

COMMANDS = ["play", "eval", "rescore", "doctor", "train"]


def test_help_lists_every_command(cli: CommandLine) -> None:
    status, out, _ = cli("--help")
    assert status == 0
    assert set(COMMANDS) <= set(plugins.names("commands"))
    assert all(f"\n  {name} " in out for name in plugins.names("commands"))
    assert cli("--version") == (0, f"searchgym, version {importlib.metadata.version('searchgym')}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, cli: CommandLine) -> None:
    if command == "train":
        pytest.importorskip("torch")
    for flag in ("--help", "-h"):
        status, out, err = cli(command, flag)
        assert (status, err) == (0, "")
        assert out.startswith(f"Usage: searchgym {command}")
        assert "--help" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evla"], "Did you mean 'eval'"),
        (["eval", "--agnt", "copy"], "--agent"),
        (["eval", "--agent", "orcale"], "Did you mean 'oracle'"),
        (["eval", "--agent", "random", "--agent-option", "sed=1"], "Did you mean 'seed'"),
        (["eval", "--env", "SearchQA-v1"], "Did you mean 'SearchQA-v0'"),
        (["eval", "--env", "nothing:SearchQA-v0"], "module 'nothing' cannot be imported"),
        (["eval", "--env-option", "topk=3"], "Did you mean 'top_k'"),
        (["eval", "--env-option", "top_k"], "write KEY=VALUE"),
        (["eval", "--env-option", "=3"], "write KEY=VALUE"),
        (["eval", "--env-option", "seed=3"], "unknown environment argument 'seed'"),
        (["eval", "--env-option", "num_envs=3"], "unknown environment argument 'num_envs'"),
        (["eval", "--env-option", "split=dev"], "use --split dev"),
        (["eval", "--env-option", "reveal_gold=yes"], "reveal_gold is 'yes'"),
        (["eval", "--env-option", "corpus=contry"], "Did you mean 'country'"),
        (["eval", "--split", "tset"], "Did you mean 'test'"),
        (["eval", "--samples", "0"], "samples is 0"),
        (["eval", "--num-envs", "0"], "num_envs is 0"),
        (["eval", "--episodes", "-1"], "--episodes"),
        (["eval", "--seed", "-1"], "--seed"),
        (["eval", "--episodes", "many"], "not a valid integer"),
        (["eval", "--save", "/"], "cannot be written"),
        (["play", "--env", "CartPole-v1"], "unknown environment 'CartPole-v1'"),
        (["play", "--task-id", "bear"], "Did you mean 'bare'"),
        (["play", "--env-option", "max_episode_steps=3"], "unknown environment argument"),
        (["rescore"], "Missing argument"),
        (["rescore", "missing.jsonl"], "missing.jsonl cannot be read"),
        (["eval", "--config", "missing.toml"], "missing.toml"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_a_users_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, cli: CommandLine, toy: str
) -> None:
    if arguments[0] in ("eval", "play") and not any("corpus=" in a for a in arguments):
        arguments = [*arguments, "--env-option", f"corpus={toy}"]
    status, out, err = cli(*arguments)
    assert status == 2, err
    assert message in err
    assert out == ""


def test_eval_judges(cli: CommandLine, toy: str) -> None:
    common = [
        "eval",
        "--agent",
        "copy",
        "--split",
        "train",
        "--episodes",
        "2",
        "--env-option",
        f"corpus={toy}",
    ]
    status, out, _ = cli(*common, "--judge", "oracle")
    assert status == 0
    assert "4 verdicts, 0 errors" in out
    status, out, _ = cli(*common, "--judge", "rules", "--judge-when", "step", "--json")
    assert json.loads(out)["judged"]["judgements"] == 4
    assert json.loads(out)["env"]["judge"] == {"name": "rules"}
    status, _, err = cli(*common, "--judge-option", "rate=0.1")
    assert status == 2
    assert "name one with --judge" in err


def test_eval_prints_a_table_or_json_and_saves(cli: CommandLine, toy: str, tmp_path: Path) -> None:
    common = ["eval", "--agent", "gold", "--env-option", f"corpus={toy}", "--samples", "2"]
    saved = tmp_path / "episodes.jsonl"
    status, out, _ = cli(*common, "--json", "--save", str(saved), "--env-option", "top_k=2")
    assert status == 0
    data = json.loads(out)  # one line, nothing else on stdout
    assert out.count("\n") == 1
    assert (data["questions"], data["samples"], data["failed"]) == (4, 2, 0)
    assert data["metrics"]["em"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert data["env"]["top_k"] == 2
    assert len(list(load_episodes(saved))) == 8
    status, out, _ = cli(*common, "--episodes", "0", "--split", "train")
    assert status == 0
    assert "3 questions x 2" in out
    assert "pass@2" in out
    assert "answered 6" in out
    status, out, _ = cli("rescore", str(saved))
    assert status == 0
    assert "8 episodes" in out


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_config_files_and_flags_that_win(kind: str, cli: CommandLine, toy: str, tmp_path: Path) -> None:
    values = {
        "agent": "gold",
        "episodes": 2,
        "json": True,
        "env-option": {"corpus": toy, "top_k": 2, "max_rounds": 5},
    }
    toml = f'agent = "gold"\nepisodes = 2\njson = true\n[env-option]\ncorpus = "{toy}"\ntop_k = 2\nmax_rounds = 5\n'
    path = tmp_path / f"config.{kind}"
    path.write_text(json.dumps(values) if kind == "json" else toml)
    status, out, err = cli("eval", "--config", str(path))
    assert status == 0, err
    data = json.loads(out)
    assert (data["agent"], data["questions"], data["env"]["top_k"]) == ("gold", 2, 2)
    status, out, _ = cli("eval", "--config", str(path), "--episodes", "1", "--env-option", "top_k=1")
    data = json.loads(out)
    assert (data["agent"], data["questions"]) == ("gold", 1)
    assert (data["env"]["top_k"], data["env"]["max_rounds"]) == (1, 5)  # the file's other pairs stay


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "agent = ", "is not valid TOML"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "[1]", "holds a list"),
        ("a.toml", 'agnet = "gold"', "Did you mean 'agent'"),
        ("a.toml", 'episodes = "many"', "not a valid integer"),
        ("a.toml", "env-option = [3]", "write KEY=VALUE"),
        ("a.json", "\udcff", "is not valid JSON"),
    ],
)
def test_bad_config_files(name: str, text: str, message: str, cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    status, out, err = cli("eval", "--config", str(path))
    assert (status, out) == (2, "")
    assert message in err


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Third-party plug-ins: a working command, and broken ones of every kind."""
    (tmp_path / "other_good.py").write_text(
        "import click\n@click.command()\ndef hi():\n    'Say hi.'\n    click.echo('hi')\n"
    )
    (tmp_path / "other_bad.py").write_text("raise RuntimeError('no licence file')\n")
    (tmp_path / "other_syntax.py").write_text("def (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        "hi": "other_good:hi",
        "bad": "other_bad:command",
        "syntax": "other_syntax:command",
        "nowhere": "other_nowhere:command",
        "nothing": "other_good:nothing",
        "notacommand": "json:dumps",
        "heavy": "other_heavy:command",
    }
    (tmp_path / "other_heavy.py").write_text("import matplotlib_that_is_not_there\n")
    real = importlib.metadata.entry_points

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        extra = [
            importlib.metadata.EntryPoint(n, v, group)
            for n, v in points.items()
            if group == "searchgym.commands"
        ]
        return [*real(group=group), *extra]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()


def test_a_broken_plug_in_breaks_nothing_but_itself(third_party: None, cli: CommandLine) -> None:
    status, out, _ = cli("--help")
    assert status == 0
    assert "hi           Say hi." in out
    assert cli("hi") == (0, "hi\n", "")
    for name, reason in (
        ("bad", "RuntimeError: no licence file"),
        ("syntax", "SyntaxError"),
        ("nowhere", "other_nowhere"),
        ("nothing", "no attribute 'nothing'"),
        ("notacommand", "not a click.Command"),
        ("heavy", "matplotlib_that_is_not_there"),
    ):
        assert f"  {name} " in out
        for arguments in ([name], [name, "--help"], [name, "x", "--flag=1"]):
            status, _, err = cli(*arguments)
            assert status == 1
            assert reason in err
    status, out, _ = cli("doctor")
    assert "no licence file" in out


def test_doctor(cli: CommandLine, searchgym_home: Path) -> None:
    status, out, _ = cli("doctor", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["cache"] == {"directory": str(searchgym_home), "writable": True}
    assert found["packages"]["gymnasium"] == importlib.metadata.version("gymnasium")
    assert found["parts"]["retrievers"]["bm25"] == "ok"
    assert set(found["threads"]) >= {"cores", "OMP_NUM_THREADS"}
    status, out, _ = cli("doctor")
    assert status == 0
    assert "searchgym" in out
    assert str(searchgym_home) in out.replace("\n", "")


# -- play --------------------------------------------------------------------------------------------------------


def test_an_episode_played_through_a_pipe(cli: CommandLine, toy: str) -> None:
    typed = "/help\n\n/answer\nAnna Reed born\n/raw nothing at all\n/answer Tarn\n"
    status, out, _ = cli("play", "--env-option", f"corpus={toy}", "--task-id", "employer-town", stdin=typed)
    assert status == 0
    assert str(EMPLOYER["question"]) in out
    assert "She works for Corvin Mills." in out
    assert "Your last message was not used" in out
    assert "✓ answer 'Tarn', gold 'Tarn'" in out
    assert "EM 1" in out
    assert "reward 1" in out
    assert "Ended because the agent answered" in out
    assert "2. Corvin Mills → town → Tarn" in out


@pytest.mark.parametrize("typed", ["", "/quit\n", "Anna Reed\n"])
def test_play_can_be_left(typed: str, cli: CommandLine, toy: str) -> None:
    status, out, _ = cli("play", "--env-option", f"corpus={toy}", "--seed", "1", stdin=typed)
    assert status == 0
    assert "nothing was scored" in out


def test_play_in_other_dialects_with_feedback_and_markup(cli: CommandLine, toy: str) -> None:
    arguments = ["--env-option", f"corpus={toy}", "--env-option", 'feedback={"level":"gold"}']
    arguments += ["--env-option", "dialect=tools", "--task-id", "employer-town"]
    typed = "[bold]Velm[/] town\n/feedback Velm\n/answer [red]Tarn[/red]\n"
    status, out, _ = cli("play", *arguments, stdin=typed)
    assert status == 0
    assert "The answer is Tarn." in out
    assert "answer '[red]Tarn[/red]'" in out


def test_a_corpus_cannot_write_control_sequences_to_the_terminal(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "passages.jsonl").write_text(
        json.dumps({"id": "a", "title": "t", "text": "word \x1b[2J\u202e"})
    )
    question = {"id": "q", "question": "[red]which\x1b[31m?", "answers": ["x"], "split": "train"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question))
    status, out, _ = cli("play", "--env-option", f"corpus={tmp_path}", stdin="word\n/answer \ud800\n")
    assert status == 0
    assert "[red]which\ufffd[31m?" in out
    assert "word \ufffd[2J\ufffd" in out
    assert "\x1b[2J" not in out


@pytest.mark.parametrize(
    "arguments",
    [["eval", "--help"], ["eval", "--agent", "gold", "--budget", "1,2"], ["corpus", "info", "TOY"]],
    ids=" ".join,
)
def test_unencodable_output_does_not_crash(
    arguments: list[str], toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    if arguments[-1] == "1,2":
        arguments = [*arguments, "--env-option", f"corpus={toy}"]
    assert main([argument.replace("TOY", toy) for argument in arguments]) == 0
    assert len(terminal.buffer.getvalue()) > 200  # type: ignore[attr-defined]


def test_unencodable_output_of_a_process_does_not_crash(toy: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    arguments = ["play", "--env-option", f"corpus={toy}", "--task-id", "employer-town"]
    done = run_searchgym(*arguments, input="Tarn 46°\n/answer Tarn\n".encode(), env=environment)
    assert done.returncode == 0, done.stderr
    assert b"2. Corvin Mills ? town ? Tarn" in done.stdout


def test_undecodable_input_does_not_crash_play(toy: str) -> None:
    done = run_searchgym("play", "--env-option", f"corpus={toy}", input=b"\xff\xfe Velm\n/answer Velm\n")
    assert done.returncode == 0, done.stderr
    assert b"Ended because the agent answered" in done.stdout
    assert b"Traceback" not in done.stderr


# -- as a process --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_is_status_130(toy: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*SEARCHGYM, "play", "--env-option", f"corpus={toy}"], **pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:  # wait until it asks for input
        if b"Type words" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err


def test_a_closed_pipe_shows_no_traceback() -> None:
    process = subprocess.Popen([*SEARCHGYM, "eval", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # before anything is written, as `| true` does
    process.wait(timeout=60)
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
