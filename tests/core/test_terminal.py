"""Text from outside cannot act on a terminal: nothing shown, logged or raised holds control sequences or is markup."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
from pathlib import Path

import pytest
from helpers import CommandLine
from rich.panel import Panel
from rich.table import Table

from searchgym import errors
from searchgym.cli.console import Console, text
from searchgym.cli.progress import progress_bar
from searchgym.env.env import SearchEnv
from searchgym.errors import SearchGymError, UnknownIdError, get_logger, printable, warn

HOSTILE = {
    "clear": "\x1b[2J",
    "clipboard": "\x1b]52;c;QUJD\x07",
    "title": "\x1b]0;owned\x1b\\",
    "csi": "\x9b31m",
    "carriage return": "good\rbad",
    "backspace": "bad\x08\x08\x08",
    "null": "\x00",
    "delete": "\x7f",
    "override": "\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "mark": "\u200f",
    "line": "a\u2028b",
    "surrogate": "\ud800",
}
MARKUP = ["[red]x[/red]", "[/b]", "[x]", "[link=http://x]y[/link]", ":heart:", "\\[b]", "[[", "[bold"]
FORBIDDEN = set("\x1b\x07\x9b\r\x08\x00\x7f\u202e\u2066\u2069\u200f\u2028\ud800")


def is_clean(shown: str) -> bool:
    return not FORBIDDEN & set(shown)


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_control_characters_are_replaced(hostile: str) -> None:
    shown = printable(f"before {hostile} after")
    assert is_clean(shown)
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "\ufffd" in shown


@pytest.mark.parametrize(
    "word", ["naïve", "東京", "हिन्दी", "👩‍👩‍👧", "می‌خواهم", "a\tb\nc", "\xa0", "İ", "x\u0301"]
)
def test_real_text_stays_as_it_is(word: str) -> None:
    assert printable(word) == word


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", [n for n in errors.__all__ if n.endswith("Error")])
def test_no_error_carries_control_characters(name: str, hostile: str) -> None:
    kind = getattr(errors, name)
    error = {
        "UnknownIdError": lambda: kind("thing", "x", [hostile]),
        "MissingExtraError": lambda: kind(hostile, "m", "e"),
    }.get(name, lambda: kind(f"the server said {hostile}"))()
    assert isinstance(error, SearchGymError)
    assert is_clean(str(error))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_an_error_keeps_what_it_knows() -> None:
    assert UnknownIdError("thing", "\x1b[2J", ["a\x1b"]).name == "\x1b[2J"


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_log_lines_are_printable(hostile: str, caplog: pytest.LogCaptureFixture) -> None:
    get_logger("searchgym.test_terminal").warning("the server said %s and %d", hostile, 7)
    assert is_clean(caplog.text)
    assert "and 7" in caplog.text


def test_warnings_are_printable_and_hide_credentials() -> None:
    with pytest.warns(RuntimeWarning) as caught:
        warn("http://me:secret1@host said \x1b[2J\u202eabc", RuntimeWarning)
    assert str(caught[0].message) == "http://***@host said \ufffd[2J\ufffdabc"
    assert caught[0].filename == __file__


def test_every_warning_of_the_package_is_filtered() -> None:
    root = Path(__file__).parents[2]
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for folder in ("searchgym", "corpora", "agents", "trainers")
        for path in sorted((root / folder).rglob("*.py"))
        if path.name != "terminal.py"
        for line in path.read_text("utf-8").splitlines()
        if "warnings.warn(" in line and "DeprecationWarning" not in line  # those name only our own modules
    ]
    assert found == []


def test_every_log_of_the_package_is_filtered() -> None:
    """A module that calls `logging.getLogger` itself gets around the filter."""
    root = Path(__file__).parents[2]
    sources = [
        path
        for folder in ("searchgym", "corpora", "agents", "trainers")
        for path in (root / folder).rglob("*.py")
    ]
    direct = [path.name for path in sources if "logging.getLogger(" in path.read_text("utf-8")]
    assert direct == ["terminal.py"]


def test_every_command_prints_through_the_console() -> None:
    """rich's own Console reads markup and passes control sequences on."""
    root = Path(__file__).parents[2]
    sources = [
        path
        for folder in ("searchgym", "corpora", "agents", "trainers")
        for path in (root / folder).rglob("*.py")
    ]
    direct = [
        path.name
        for path in sources
        if re.search(
            r"(from rich.console import |rich.console\.|\bconsole\.)Console\b", path.read_text("utf-8")
        )
    ]
    assert direct == ["console.py"]


def rendered(*renderables: object) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    for renderable in renderables:
        console.print(renderable)
    return out.getvalue()


@pytest.mark.parametrize("data", [*MARKUP, *HOSTILE.values()])
def test_the_console_shows_data_as_text(data: str) -> None:
    table = Table("column", title=data, caption=data)
    table.add_row(data)
    out = rendered(data, table, Panel(data, title=text(data)))
    assert is_clean(out)
    if data in MARKUP:
        assert out.count(data) == 6  # title, cell and caption of the table, title and body of the panel


@pytest.mark.parametrize("data", [*MARKUP, HOSTILE["clear"]])
def test_descriptions_of_progress_bars_are_text(data: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system=None)
    with progress_bar(console=console, transient=False) as bar:
        bar.add_task(f"<{data}>", total=1)
    assert f"<{printable(data)}>" in out.getvalue()


# -- through the commands -------------------------------------------------------------------------------------------


@pytest.fixture(params=["\x1b[2J[/b]", "[red]x\u202e", "\x9b[bold", ":heart:\x1b"])
def hostile_corpus(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A corpus in which every text is hostile, and that text."""
    bad = request.param
    passage = {"id": f"p{bad}", "title": f"Anna {bad}", "text": f"Anna was born in Velm {bad}"}
    hop = {
        "query": f"Anna {bad}",
        "relation": f"born {bad}",
        "passage_ids": [passage["id"]],
        "bridge": f"Velm {bad}",
    }
    question = {
        "question": f"Where was Anna born {bad}?",
        "answers": [f"Velm {bad}"],
        "type": f"chain {bad}",
        "hops": 1,
        "supporting_ids": [passage["id"]],
        "chain": [hop],
    }
    (tmp_path / "passages.jsonl").write_text(json.dumps(passage) + "\n")
    rows = [{**question, "id": f"{split}{bad}", "split": split} for split in ("train", "dev")]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path), bad


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--agent", "gold", "--corpus", "CORPUS"],
        ["eval", "--agent", "copy", "--corpus", "CORPUS", "--judge", "oracle", "--budget", "1,2"],
        ["judge", "audit", "--judge", "rules", "--corpus", "CORPUS", "--agent", "copy"],
        ["corpus", "info", "CORPUS"],
        ["corpus", "check", "CORPUS"],
        ["play", "--corpus", "CORPUS", "--split", "train"],
        ["eval", "--corpus", "CORPUS", "--env-option", 'types=["nothing"]'],
        ["eval", "--corpus", "CORPUS", "--split", "nothing"],
        ["play", "--corpus", "CORPUS", "--task-id", "nothing"],
    ],
    ids=lambda words: " ".join(words),
)
def test_commands_show_hostile_data_as_text(
    command: list[str], hostile_corpus: tuple[str, str], cli: CommandLine
) -> None:
    corpus, bad = hostile_corpus
    typed = f"Anna {bad}\n/raw {bad}\n/answer Velm {bad}\n"
    status, out, err = cli(*(corpus if word == "CORPUS" else word for word in command), stdin=typed)
    assert status == (2 if "nothing" in command[-1] else 0), err
    assert is_clean(out)
    assert is_clean(err)
    if command[0] == "play" and status == 0:
        assert printable(f"question train{bad}") in out
        assert printable(f"→ born {bad} →") in out


def test_a_transcript_is_printable(hostile_corpus: tuple[str, str]) -> None:
    corpus, bad = hostile_corpus
    env = SearchEnv(corpus=corpus, render_mode="ansi")
    env.reset()
    observation, *_ = env.step(f"<search> Anna {bad} </search>")
    transcript = env.render()
    assert transcript is not None
    assert is_clean(transcript)
    assert printable(bad) in transcript
    assert bad in observation  # what the agent reads is the passage as it is


def test_errors_of_click_are_printable(cli: CommandLine) -> None:
    status, _, err = cli("eval", "--\x1b[2J", "x")
    assert status == 2
    assert is_clean(err)
    status, _, err = cli("eval\x1b[2J")
    assert status == 2
    assert is_clean(err)


def test_log_records_keep_their_level(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("searchgym.test_terminal")
    assert (
        get_logger("searchgym.test_terminal").filters == logger.filters
    )  # filtered once, however often it is asked for
    with caplog.at_level(logging.ERROR):
        logger.warning("not shown")
    assert "not shown" not in caplog.text
