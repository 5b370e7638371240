"""`searchgym index`: built, described, verified and searched as a user does; refused in one line; killed and continued."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers import SEARCHGYM, CommandLine, start_searchgym, wait_until

from searchgym.corpora.bm25 import index as bm25
from searchgym.corpora.bm25.index import open_bm25
from searchgym.corpora.cli.index import read_spec
from searchgym.corpora.datasets.jsonl import open_jsonl
from searchgym.corpora.indexing import backend
from searchgym.corpora.indexing.sealed import seal
from searchgym.errors import ConfigError

ROWS = [
    {"id": "a", "title": "Aln", "text": "The Aln is a river of [bold]Bor[/bold]."},
    {"id": "b", "title": "Bor", "text": "Bor is a land of hills and bridges."},
    {"id": "c", "title": "", "text": "Mira Voss built the bridge over the Aln\x1b[31m."},
    {"id": "d", "title": "Dorn", "text": "Dorn is a town by the sea."},
]


@pytest.fixture
def run(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    """Run `searchgym index` in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return partial(cli, "index")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "mine"


def test_build_info_verify_search(run: CommandLine, mine: Path) -> None:
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


def test_building_twice_does_nothing_and_other_settings_are_refused(run: CommandLine, mine: Path) -> None:
    _, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--json")
    first = json.loads(out)
    before = {path: path.stat().st_mtime_ns for path in Path("idx").rglob("*")}
    _, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--json")
    assert json.loads(out)["index_hash"] == first["index_hash"]
    assert {path: path.stat().st_mtime_ns for path in Path("idx").rglob("*")} == before
    status, _, err = run("build", "--corpus", "mine", "--option", "b=0.5", "--out", "idx")
    assert status == 2
    assert "idx is not empty: give a new directory" in err


def test_a_dry_run_builds_nothing(run: CommandLine, mine: Path) -> None:
    status, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--dry-run")
    assert status == 0
    assert "about" in out
    assert not Path("idx").exists()
    _, out, _ = run("build", "--corpus", "mine", "--out", "idx", "--dry-run", "--json")
    assert set(json.loads(out)["estimate"]) == {"disk", "memory", "seconds"}


def test_a_corpus_as_json(run: CommandLine, mine: Path) -> None:
    spec = json.dumps({"name": "jsonl", "path": "mine/passages.jsonl"})
    assert run("build", "--corpus", spec, "--out", "idx")[0] == 0
    assert run("search", "idx", "Dorn", "--json")[1].count('"id": "d"') == 1
    with pytest.raises(ConfigError, match=r"^corpus '\{\"name\": }' is not valid JSON"):
        read_spec('{"name": }')


def test_an_index_whose_corpus_moved_takes_another_path(run: CommandLine, mine: Path) -> None:
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
        (["build", "--corpus", "mine", "--retriever", "remote", "--out", "x"], "has no index to build"),
        (["build", "--corpus", "mine", "--option", "k2=1", "--out", "idx"], "'k2'. Did you mean 'k1'"),
        (["build", "--corpus", "mine", "--option", "k1", "--out", "idx"], "write KEY=VALUE"),
        (["build", "--corpus", "mine", "--option", "b is 7", "--out", "idx"], "b is 7"),
        (["build", "--corpus", "mine", "--out", "mine"], "mine is not empty"),
        (["info", "mine"], "no usable index in mine"),
        (["verify", "nowhere"], "nowhere"),
        (["search", "mine", "Aln"], "no usable index in mine"),
    ],
    ids=range(10),
)
def test_mistakes_are_answered_in_one_line(
    run: CommandLine, mine: Path, arguments: list[str], message: str
) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("idx").exists()
    assert not list(Path().glob(".*.part"))


def test_a_bad_corpus_line_leaves_nothing(run: CommandLine, mine: Path, home: Path) -> None:
    with (mine / "passages.jsonl").open("a") as file:
        file.write('{"id": "a", "title": "", "text": "again"}\n')
    status, _, err = run("build", "--corpus", "mine", "--out", "idx")
    assert status == 2
    assert "passages.jsonl, line 5: id 'a' was already used in line 1" in err
    assert [path.name for path in Path().iterdir() if path != home.relative_to(Path.cwd())] == ["mine"]


def test_what_cannot_fit_is_refused_with_the_figures_said(
    run: CommandLine, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "available_memory", lambda: 1000)
    status, out, err = run("build", "--corpus", "mine", "--out", "idx")
    assert status == 2
    assert "of memory" in out
    assert "of memory to build, but 1.0 kB are available" in err
    assert not Path("idx").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_verify_finds_damage_and_search_refuses_it(run: CommandLine, mine: Path, damage: str) -> None:
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


def test_verify_names_every_kind_of_damage_and_the_next_move(run: CommandLine, mine: Path) -> None:
    run("build", "--corpus", "mine", "--out", "idx")
    Path("idx/notes.txt").write_text("mine")
    status, _, err = run("verify", "idx")
    assert status == 2
    assert "idx/notes.txt is not part of it: remove it" in err
    assert run("search", "idx", "Aln")[0] == 0  # it harms no search
    Path("idx/terms.txt").unlink()
    status, out, err = run("verify", "idx", "--json")
    assert (status, len(json.loads(out)["problems"])) == (2, 2)


def test_verify_refuses_an_index_of_another_tokenizer_or_version(
    run: CommandLine, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("build", "--corpus", "mine", "--out", "idx")
    mine.rename("moved")  # the corpus is not needed
    assert run("verify", "idx")[0] == 0
    for name, value, what in (("TOKENIZER", "letters/9", "tokenizer"), ("_FORMAT", 99, "format")):
        with monkeypatch.context() as patch:
            patch.setattr(bm25, name, value)
            status, out, err = run("verify", "idx", "--json")
            assert (status, json.loads(out)["intact"]) == (2, True)
            assert f"the index in idx is intact, but was built with another {what}: " in err
            assert "Build it again, or use the version it was built with" in err
            status, _, err = run("search", "idx", "Aln", "--corpus", "moved")
            assert status == 2
            assert f"is of another {what}: " in err
    facts = json.loads(Path("idx/index.json").read_text())
    rename = json.dumps(facts).replace('"bm25"', '"nobody"')
    Path("idx/index.json").write_text(rename)
    key = json.loads(Path("idx/manifest.json").read_text())["key"]
    seal(Path("idx"), "nobody", key)
    status, out, err = run("verify", "idx")
    assert (status, "was not checked: unknown retriever 'nobody'" in err) == (0, True)


QUERIES = {
    "": [],
    " \t\n": [],
    "the of and": [],
    "?!.,;": [],
    "zzzz": [],
    "\x00\x07": [],
    "北京": ["e"],
    "東京": ["e"],  # each character is a word, and one of them occurs
    "東": [],
    "القاهرة": ["f"],
    "МОСКВА": ["g"],  # written in capitals
    "ＡＬＮ": ["a", "c"],  # full-width letters
    "\ud800 Dorn": ["d"],  # half a surrogate pair, as a mistaken decoder leaves it
    "Dorn " * 200_000: ["d"],  # 1 MB
    " ".join(f"w{n}" for n in range(40_000)) + " Dorn": ["d"],  # words no passage has do not count
}


@pytest.mark.parametrize(("query", "found"), QUERIES.items(), ids=[ascii(query)[:20] for query in QUERIES])
def test_every_query_has_a_defined_result(run: CommandLine, mine: Path, query: str, found: list[str]) -> None:
    others = [
        {"id": "e", "title": "北京", "text": "北京是中国的首都。"},
        {"id": "f", "title": "", "text": "القاهرة عاصمة مصر 🐪"},
        {"id": "g", "title": "", "text": "Москва — столица России."},
    ]
    text = "".join(json.dumps(row) + "\n" for row in [*ROWS, *others])
    (mine / "passages.jsonl").write_text(text)
    run("build", "--corpus", "mine", "--out", "idx")
    status, out, _ = run("search", "idx", "--json", "--", query)
    assert status == 0
    assert [hit["id"] for hit in json.loads(out)["hits"]] == found
    status, out, _ = run("search", "idx", "--", query, "Dorn")
    assert status == 0
    assert ("no hits" in out) == (not found)
    assert len(out) < 3_000


def test_paths_with_spaces_and_others(run: CommandLine, mine: Path) -> None:
    mine.rename("my corpus")
    file = "my corpus/passages.jsonl"
    for out in ("an index/with [spaces] é", "trailing/"):
        assert run("build", "--corpus", file, "--out", out)[0] == 0
        assert run("verify", out)[0] == 0
        assert run("search", out, "Aln")[0] == 0
    status, _, err = run("build", "--corpus", file, "--out", f"{file}/idx")
    assert status == 2
    assert "idx cannot be written (" in err


def test_on_a_disk_that_is_too_small_and_on_one_that_is_read_only(mine: Path, tmp_path: Path) -> None:
    """Real ones, mounted where only the processes started here see them."""
    in_a_namespace = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    try:
        able = subprocess.run(
            [*in_a_namespace, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if able.returncode:
        pytest.skip("this user is not allowed to mount")
    build = shlex.join([*SEARCHGYM, "index", "build", "--corpus", "mine", "--out", "disk/idx"])
    script = (
        f"mkdir disk; mount -t tmpfs -o size=256k tmpfs disk; {build} && exit 9; echo $? $(ls -A disk);"
        f"mount -o remount,ro disk; {build} && exit 9; echo $? $(ls -A disk)"
    )
    done = subprocess.run([*in_a_namespace, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("2")] == [
        "2",
        "2",
    ]  # and nothing there
    small, read_only = done.stderr.splitlines()
    assert "needs 1.1 MB of disk to build, but " in small
    assert " has 262 kB: make room" in small
    assert "disk/idx cannot be written (Read-only file system): choose another directory" in read_only


def start(*arguments: str) -> subprocess.Popen[str]:
    """`searchgym index …` in a process of its own."""
    return start_searchgym("index", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A corpus whose index takes a while."""
    draw = random.Random(0)
    vocabulary = [f"w{n}" for n in range(5_000)]
    (tmp_path / "big").mkdir()
    with (tmp_path / "big" / "passages.jsonl").open("w") as file:
        for number in range(10_000):
            text = " ".join(draw.choices(vocabulary, k=40))
            file.write(json.dumps({"id": f"{number:06d}", "title": f"T{number}", "text": text}) + "\n")
    return tmp_path / "big"


def wait_for_work(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    wait_until(
        lambda: any(path.is_file() for path in tmp_path.glob(".idx.*.part/**/*")), "the first file", process
    )


def test_two_at_once_and_control_c(run: CommandLine, big: Path, tmp_path: Path) -> None:
    command = ("build", "--corpus", str(big), "--out", str(tmp_path / "idx"))
    first = start(*command)
    wait_for_work(tmp_path, first)
    first.send_signal(signal.SIGSTOP)
    second = start(*command)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another process is building" in err
    first.send_signal(signal.SIGINT)
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert (first.returncode, err.strip()) == (130, "interrupted")
    assert not (tmp_path / "idx").exists()
    third = start(*command)
    third.communicate(timeout=60)
    assert third.returncode == 0
    assert run("verify", "idx")[0] == 0
    assert not list(tmp_path.glob(".idx*"))


def test_serve_is_there_and_cannot_break_the_others(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in ("build", "info", "verify", "search", "serve"))
    monkeypatch.setitem(sys.modules, "searchgym.corpora.cli.serve", None)
    assert run("--help")[0] == 0
    status, _, err = run("serve", "idx", "--port", "0")
    assert status == 1
    assert "index serve cannot be loaded" in err


def test_killed_builds_go_on(run: CommandLine, big: Path, tmp_path: Path) -> None:
    command = ("build", "--corpus", str(big), "--out", str(tmp_path / "idx"))
    process = start(*command)
    wait_for_work(tmp_path, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "idx").exists()
    status, _, err = run("search", "idx", "w1")
    assert status == 2
    assert "no usable index" in err
    again = start(*command)
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert run("verify", "idx")[0] == 0
    assert run("build", "--corpus", "big", "--out", "whole")[0] == 0
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert (tmp_path / "idx" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".idx*"))
