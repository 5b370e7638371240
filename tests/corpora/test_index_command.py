"""`searchgym index`: built, described, verified and searched as a user does; refused in one line; killed and continued."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from searchgym.commands import main
from searchgym.corpora import indexes
from searchgym.corpora.bm25 import open_bm25
from searchgym.corpora.index_commands import read_spec
from searchgym.corpora.jsonl import open_jsonl
from searchgym.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]
ROWS = [
    {"id": "a", "title": "Aln", "text": "The Aln is a river of [bold]Bor[/bold]."},
    {"id": "b", "title": "Bor", "text": "Bor is a land of hills and bridges."},
    {"id": "c", "title": "", "text": "Mira Voss built the bridge over the Aln\x1b[31m."},
    {"id": "d", "title": "Dorn", "text": "Dorn is a town by the sea."},
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `searchgym index` in `tmp_path`; returns exit status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["index", *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return call


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "mine"


def test_build_info_verify_search(run: Run, mine: Path) -> None:
    status, out, _ = run("build", "--corpus", "mine", "--option", "k1=1.2", "--out", "idx")
    assert status == 0
    announced, built = out.splitlines()
    assert announced.startswith("bm25 index of mine, 4 passages: about ")
    assert " of disk (" in announced
    assert " of memory of " in announced
    assert "index hash " in built
    status, out, _ = run("info", "idx", "--json")
    facts = json.loads(out)
    assert (status, facts["backend"], facts["passages"], facts["corpus"]) == (0, "bm25", 4, str(mine))
    assert facts["settings"]["k1"] == 1.2
    assert facts["index_hash"] == open_bm25(open_jsonl(mine), k1=1.2).index_hash
    status, out, _ = run("info", "idx")
    assert status == 0
    assert facts["index_hash"] in out
    status, out, _ = run("verify", "idx")
    assert status == 0
    assert out.startswith("idx: intact (")
    status, out, _ = run("search", "idx", "bridge over the Aln", "no such words", "-k", "2", "--json")
    first, second = map(json.loads, out.splitlines())
    assert (status, [hit["id"] for hit in first["hits"]], second["hits"]) == (0, ["c", "a"], [])
    status, out, _ = run("search", "idx", "Aln")
    assert status == 0
    assert "[bold]Bor[/bold]" in out
    assert "\x1b" not in out


def test_building_twice_does_nothing_and_other_settings_are_refused(run: Run, mine: Path) -> None:
    _, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--json")
    first = json.loads(out)
    before = {path: path.stat().st_mtime_ns for path in Path("idx").rglob("*")}
    _, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--json")
    assert json.loads(out)["index_hash"] == first["index_hash"]
    assert {path: path.stat().st_mtime_ns for path in Path("idx").rglob("*")} == before
    status, _, err = run("build", "--corpus", "mine", "--option", "b=0.5", "--out", "idx")
    assert status == 2
    assert "idx is not empty: give a new directory" in err


def test_a_dry_run_builds_nothing(run: Run, mine: Path) -> None:
    status, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--dry-run")
    assert status == 0
    assert "about" in out
    assert not Path("idx").exists()
    _, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--dry-run", "--json")
    assert set(json.loads(out)["estimate"]) == {"disk", "memory", "seconds"}


def test_a_corpus_as_json(run: Run, mine: Path) -> None:
    spec = json.dumps({"name": "jsonl", "path": "mine/passages.jsonl"})
    assert run("build", "--corpus", spec, "--out", "idx")[0] == 0
    assert run("search", "idx", "Dorn", "--json")[1].count('"id": "d"') == 1
    with pytest.raises(ConfigError, match=r"^corpus '\{\"name\": }' is not JSON"):
        read_spec('{"name": }')


def test_an_index_whose_corpus_moved_takes_another_path(run: Run, mine: Path) -> None:
    run("build", "--corpus", "mine", "--out", "idx")
    mine.rename("moved")
    status, _, err = run("search", "idx", "Aln")
    assert status == 2
    assert "mine" in err
    assert run("search", "idx", "Aln", "--corpus", "moved")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--corpus", "nine", "--out", "idx"], "unknown corpus 'nine'"),
        (["build", "--corpus", "mine", "--retriever", "bm52", "--out", "idx"], "Did you mean 'bm25'"),
        (["build", "--corpus", "mine", "--retriever", "remote", "--out", "x"], "has no index that is built"),
        (["build", "--corpus", "mine", "--option", "k2=1", "--out", "idx"], "'k2'. Did you mean 'k1'"),
        (["build", "--corpus", "mine", "--option", "k1", "--out", "idx"], "write KEY=VALUE"),
        (["build", "--corpus", "mine", "--option", "b=7", "--out", "idx"], "b=7"),
        (["build", "--corpus", "mine", "--out", "mine"], "mine is not empty"),
        (["info", "mine"], "no usable index in mine"),
        (["verify", "nowhere"], "nowhere"),
        (["search", "mine", "Aln"], "no usable index in mine"),
    ],
    ids=range(10),
)
def test_mistakes_are_answered_in_one_line(run: Run, mine: Path, arguments: list[str], message: str) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("idx").exists()
    assert not list(Path().glob(".*.part"))


def test_a_bad_corpus_line_leaves_nothing(run: Run, mine: Path, home: Path) -> None:
    with (mine / "passages.jsonl").open("a") as file:
        file.write('{"id": "a", "title": "", "text": "again"}\n')
    status, _, err = run("build", "--corpus", "mine", "--out", "idx")
    assert status == 2
    assert "passages.jsonl, line 5: id 'a' was already used in line 1" in err
    assert [path.name for path in Path().iterdir() if path != home.relative_to(Path.cwd())] == ["mine"]


def test_what_cannot_fit_is_refused_with_the_figures_said(
    run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "available_memory", lambda: 1000)
    status, out, err = run("build", "--corpus", "mine", "--out", "idx")
    assert status == 2
    assert "of memory" in out
    assert "of memory to build, and 1.0 kB are available" in err
    assert not Path("idx").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_verify_finds_damage_and_search_refuses_it(run: Run, mine: Path, damage: str) -> None:
    run("build", "--corpus", "mine", "--out", "idx")
    file = max(Path("idx").rglob("*.n*"), key=lambda path: path.stat().st_size)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "changed":
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    elif damage == "gone":
        file.unlink()
    else:
        Path("idx/manifest.json").write_text("{}")
    for command in (["verify", "idx"], ["search", "idx", "Aln"], ["info", "idx"]):
        status, _, err = run(*command)
        assert status == 2, command
        assert "Build it again" in err
    status, out, _ = run("verify", "idx", "--json")
    assert (status, json.loads(out)["intact"]) == (2, False)


def test_serve_is_there_and_cannot_break_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in ("build", "info", "verify", "search", "serve"))
    monkeypatch.setitem(sys.modules, "searchgym.corpora.service_command", None)
    assert run("--help")[0] == 0
    status, _, err = run("serve", "idx", "--port", "0")
    assert status == 1
    assert "index serve cannot be loaded" in err


def test_killed_builds_go_on(run: Run, tmp_path: Path) -> None:
    draw = random.Random(0)
    vocabulary = [f"w{n}" for n in range(5_000)]
    big = tmp_path / "big"
    big.mkdir()
    with (big / "passages.jsonl").open("w") as file:
        for number in range(20_000):
            text = " ".join(draw.choices(vocabulary, k=40))
            file.write(json.dumps({"id": f"{number:06d}", "title": f"T{number}", "text": text}) + "\n")
    code = "from searchgym.commands import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "index",
        "build",
        "--corpus",
        str(big),
        "--out",
        str(tmp_path / "idx"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (begun := [path for path in tmp_path.glob(".idx.*.part/**/*") if path.is_file()]):
        assert process.poll() is None, "it was finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begun
    assert not (tmp_path / "idx").exists()
    status, _, err = run("search", "idx", "w1")
    assert status == 2
    assert "no usable index" in err
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert run("verify", "idx")[0] == 0
    assert run("build", "--corpus", "big", "--out", "whole")[0] == 0
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert (tmp_path / "idx" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".idx*"))
