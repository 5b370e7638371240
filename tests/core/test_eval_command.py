"""What `searchgym eval` and its relatives show: invalid messages, progress, plots, corpora and retrievers by flag."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine

import searchgym
from searchgym.cli import evaluate as command
from searchgym.cli import main
from searchgym.cli.budgets import show_invalid
from searchgym.cli.console import Console
from searchgym.cli.progress import progress_bar
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError
from searchgym.figures import check_format, new_figure, save_figure


def messages(observation: str, info: dict[str, Any]) -> str:
    """A model that mostly writes no act."""
    return ["nothing", "<search> a </search><answer> b </answer>", "<search> </search>"][info["round"] % 3]


def chatty(observation: str, info: dict[str, Any]) -> str:
    return "I think the answer is Paris."


def test_invalid_messages_are_counted_by_reason(toy: str) -> None:
    result = searchgym.evaluate("SearchQA-v0", lambda o, i: chatty(o, i), corpus=toy, max_rounds=4)
    assert result.invalid == {"no_act": 1.0}
    assert "100.0% of the messages invalid" in str(result)
    assert result.to_json()["invalid"] == {"no_act": 1.0}
    assert "invalid" not in str(searchgym.evaluate("SearchQA-v0", "gold", corpus=toy))


def test_shares_of_several_reasons_add_up(toy: str) -> None:
    count = 0

    def mixed(observation: str, info: dict[str, Any]) -> str:
        nonlocal count
        count += 1
        return ["nothing", "<search> a </search><answer> b </answer>", "<search> Velm </search>", "nothing"][
            count % 4
        ]

    result = searchgym.evaluate("SearchQA-v0", mixed, 1, corpus=toy, max_rounds=8)
    assert result.invalid == {"no_act": 0.5, "several_acts": 0.25}
    assert list(result.invalid) == ["no_act", "several_acts"]  # the most frequent first


@pytest.mark.parametrize(
    ("invalid", "line"),
    [
        ({}, "invalid messages: 0.0% of all"),
        ({"no_act": 0.3, "too_long": 0.075}, "invalid messages: 37.5% of all (no_act 30.0%, too_long 7.5%)"),
    ],
)
def test_the_line_of_invalid_messages(invalid: dict[str, float], line: str) -> None:
    out = io.StringIO()
    show_invalid(Console(file=out, width=200), invalid)
    assert out.getvalue() == line + "\n"


def test_eval_prints_invalid_messages_and_stop_reasons(cli: CommandLine, toy: str) -> None:
    status, out, _ = cli(
        "eval", "--agent", "random", "--corpus", toy, "--split", "train", "--env-option", "max_rounds=1"
    )
    assert status == 0
    assert "episodes ended: " in out
    assert "invalid messages: " in out


@pytest.mark.parametrize(
    ("options", "total"),
    [
        (["--episodes", "2"], 2),
        (["--episodes", "0"], 4),
        (["--episodes", "900"], 4),
        (["--samples", "3"], 12),
        (["--budget", "1,2,3", "--samples", "2"], 24),
    ],
)
def test_progress_has_an_end(
    options: list[str], total: int, toy: str, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []

    def kept(*arguments: Any, **named: Any) -> Any:
        bars.append(progress_bar(*arguments, console=Console(file=io.StringIO()), **named))
        return bars[-1]

    monkeypatch.setattr(command, "progress_bar", kept)
    assert cli("eval", "--agent", "gold", "--corpus", toy, *options).status == 0
    (task,) = bars[0].tasks
    assert (task.completed, task.total) == (total, total)


# -- corpora and retrievers by flag ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["eval", "--agent", "gold"], ["play"], ["judge", "audit", "--judge", "rules", "--agent", "copy"]],
    ids=" ".join,
)
@pytest.mark.parametrize("retriever", ["bm25", '{"name": "bm25", "k1": 1.2}', "INDEX"])
def test_corpus_and_retriever_have_flags(
    command: list[str], retriever: str, cli: CommandLine, toy: str, tmp_path: Path
) -> None:
    if retriever == "INDEX":
        retriever = str(tmp_path / "index")
        assert cli("index", "build", "--corpus", toy, "--out", retriever).status == 0
    split = ["--split", "train"]
    status, out, err = cli(
        *command, "--corpus", toy, "--retriever", retriever, *split, stdin="/answer Tarn\n"
    )
    assert status == 0, err
    assert out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "contry"], "Did you mean 'country'"),
        (["--corpus", "{"], "corpus '{' is not valid JSON"),
        (["--corpus", "TOY", "--retriever", "{x"], "retriever '{x' is not valid JSON"),
        (["--corpus", "TOY", "--retriever", "bm52"], "Did you mean 'bm25'"),
        (
            ["--corpus", "TOY", "--env-option", "corpus=TOY"],
            "--corpus and --env-option corpus=… exclude each other",
        ),
        (["--corpus", "TOY", "--retriever", "bm25", "--env-option", "retriever=bm25"], "exclude each other"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "play"])
def test_bad_specs_are_one_line(
    command: str, options: list[str], message: str, cli: CommandLine, toy: str
) -> None:
    status, _, err = cli(command, *(word.replace("TOY", toy) for word in options))
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_an_audit_takes_the_corpus_of_rollouts_and_refuses_what_has_no_effect(
    cli: CommandLine, toy: str, tmp_path: Path
) -> None:
    saved = tmp_path / "episodes.jsonl"
    assert cli("eval", "--agent", "copy", "--corpus", toy, "--save", str(saved)).status == 0
    audit = ["judge", "audit", "--judge", "rules", "--from", str(saved)]
    assert cli(*audit, "--corpus", toy).status == 0
    status, _, err = cli(*audit, "--corpus", toy, "--retriever", "bm25")
    assert status == 2
    assert "only applies to episodes that are played now" in err
    status, _, err = cli(
        "judge", "audit", "--judge", "rules", "--rollouts", str(saved), "--gold-corpus", toy, "--corpus", toy
    )
    assert status == 2
    assert "--gold-corpus and --corpus exclude each other" in err


# -- filters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"hops": [2, 9]},
            r"hops asks for \[9\], but no question of corpus .* has that: it has hops \[0, 2, 3\]",
        ),
        ({"types": ["chain", "chian"]}, r"types asks for \['chian'\]"),
        ({"hops": [2, 9, 7]}, r"\[7, 9\]"),
        ({"hops": [9]}, "no question of split"),
    ],
)
def test_a_filter_value_that_no_question_has_is_refused(
    arguments: dict[str, Any], message: str, toy: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchEnv(corpus=toy, **arguments)


def test_a_filter_value_of_another_split_is_accepted(toy: str) -> None:
    """The dev questions of this corpus have two hops only."""
    env = SearchEnv(corpus=toy, hops=[2, 3], split="dev")
    assert {q.hops for q in env.config.tasks("train")} == {2, 3}


# -- plots ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.PNG", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_a_plot_has_the_format_of_its_suffix(
    name: str, start: bytes, toy: str, cli: CommandLine, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    path = tmp_path / name
    assert cli("eval", "--agent", "copy", "--corpus", toy, "--budget", "1,2", "--plot", str(path)).status == 0
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.tar.gz", "a.", ".png.txt"])
def test_other_suffixes_are_refused_before_anything_is_played(
    name: str, toy: str, cli: CommandLine, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"give one of \.png, \.pdf, \.svg"):
        check_format(tmp_path / name)
    status, out, err = cli("eval", "--corpus", toy, "--budget", "1", "--plot", str(tmp_path / name))
    assert (status, out) == (2, "")
    assert "has the suffix" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_equal_figures_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    written = []
    for name in ("a", "b"):
        figure = new_figure(2, 2)
        figure.subplots().plot([1, 2, 3], label="x")
        save_figure(figure, tmp_path / f"{name}.{suffix}")
        written.append((tmp_path / f"{name}.{suffix}").read_bytes())
    assert written[0] == written[1]


def test_drawing_leaves_the_backend_of_a_notebook_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the extra train is not installed")
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    save_figure(new_figure(2, 2), tmp_path / "a.png")
    assert matplotlib.get_backend() == "svg"


# -- what a notebook shows ------------------------------------------------------------------------------------------


def test_results_have_short_reprs(toy: str, tmp_path: Path) -> None:
    played = searchgym.rollout("SearchQA-v0", "copy", 3, corpus=toy)
    curve = searchgym.evaluate_budgets("SearchQA-v0", "copy", (1, 2), corpus=toy)
    from searchgym.audit import audit

    audited = audit("rules", played, corpus=searchgym.open_corpus(toy))
    result = searchgym.evaluate("SearchQA-v0", "copy", corpus=toy)
    for value in (played[0], curve, curve.points[0], audited, result):
        assert type(value).__name__ in repr(value)
        assert len(repr(value)) < 500
    assert "EM 0" in repr(played[0])
    assert played[0].task_id in repr(played[0])


def test_the_result_as_json_is_one_line(cli: CommandLine, toy: str) -> None:
    status, out, _ = cli("eval", "--agent", "copy", "--corpus", toy, "--json")
    assert status == 0
    assert out.count("\n") == 1
    assert json.loads(out)["invalid"] == {}


def test_nothing_is_drawn_where_standard_error_is_no_terminal(
    toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["eval", "--agent", "copy", "--corpus", toy]) == 0
    assert err.getvalue() == ""
