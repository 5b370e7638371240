"""`searchgym corpus`: what there is and what is in it, fetched, checked, imported; refused in one line."""

from __future__ import annotations

import bz2
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import FakeHub, Repo

from searchgym.cli import main

Run = Callable[..., tuple[int, str, str]]
PASSAGES = [
    {"id": "a", "title": "Aln", "text": "The Aln is a river of Bor."},
    {"id": "b", "title": "", "text": "Mira Voss was born in Dorn [bold]."},
]
QUESTIONS = [
    {"id": "q1", "question": "Where?", "answers": ["Bor"], "supporting_ids": ["a"]},
    {"id": "q2", "question": "When?", "answers": ["1931"], "supporting_ids": ["b"]},
    {"id": "q3", "question": "Is it?", "answers": ["yes"], "supporting_ids": ["a"], "split": "dev"},
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["corpus", *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return call


def write(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write(tmp_path / "mine" / "passages.jsonl", PASSAGES)
    write(tmp_path / "mine" / "questions.jsonl", QUESTIONS)
    return tmp_path / "mine"


def test_list(run: Run) -> None:
    status, out, _ = run("list")
    assert status == 0
    assert "registered corpora: country" in out
    assert "PeterJinGo/wiki-18-corpus" in out
    known = json.loads(run("list", "--json")[1])
    assert {"jsonl", "hub"} <= set(known["corpora"])
    assert {"wiki-18", "nq", "musique"} <= {one["name"] for one in known["hub"]}


def test_info_of_ones_own_and_of_a_world(run: Run, mine: Path) -> None:
    status, out, _ = run("info", "mine")
    assert status == 0
    assert "The Aln is a river" in out
    facts = json.loads(run("info", "mine", "--json")[1])
    assert facts["questions"] == {"train": 2, "dev": 1}
    assert (facts["passages"], facts["questions_with_gold_passages"]) == (2, 3)
    world = '{"name": "country", "size": 1000, "train": 20, "dev": 5, "test": 5}'
    assert json.loads(run("info", world, "--json")[1])["questions"] == {"train": 20, "dev": 5, "test": 5}
    assert run("info", world)[0] == 0


def test_check(run: Run, mine: Path) -> None:
    status, out, _ = run("check", "mine")
    assert status == 0
    assert "mine: no errors" in out
    facts = json.loads(run("check", "mine", "--json")[1])
    assert facts["answer_is_in_a_gold_passage"] == 0.5  # yes and no are not looked for
    assert (facts["passages_without_title"], facts["identical_passages"]) == (1, 0)
    write(mine / "questions.jsonl", [{**QUESTIONS[0], "supporting_ids": ["zz"]}])
    status, _, err = run("check", "mine")
    assert status == 2
    assert err.rstrip().endswith(
        "line 1: supporting_ids contains 'zz', which is not the id of a passage. Add the passage, or remove the id."
    )
    assert run("check", "nowhere")[0] == 2


def test_fetch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="the hub's client comes with the extra 'hub'")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        data = "".join(json.dumps(row) + "\n" for row in PASSAGES).encode()
        hub.repos["me/mine"] = Repo({"passages.jsonl": data})
        commit = hub.repos["me/mine"].commit
        status, out, err = run("fetch", "me/mine", "--dry-run")
        assert (status, err) == (0, "")
        assert out.startswith(f"mine@{commit[:7]}: 1 file, {len(data)} B, {len(data)} B to download to ")
        assert hub.requests[-1].path.startswith("/api/")
        status, out, err = run("fetch", "me/mine")
        assert status == 0
        assert Path(out.splitlines()[1]).read_bytes() == data
        assert "downloading" in err
        (facts,) = json.loads(run("fetch", "me/mine", "--json")[1])
        assert (facts["commit"], facts["missing"]) == (commit, 0)
        assert "all there" in run("fetch", "me/mine")[1]
        spec = json.dumps({"name": "hub", "corpus": "me/mine"})
        status, out, _ = run("info", spec)
        assert status == 0
        assert f"me/mine@{commit}" in out
        status, _, err = run("fetch", "me/other")
        assert status == 2
        assert "has no such data set" in err


def test_import_dump(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("mwparserfromhell", reason="the parser of wikitext comes with the extra 'dump'")
    page = (
        "<page><title>Aln</title><ns>0</ns><id>7</id><revision><text>The [[Aln]]. {}</text></revision></page>"
    )
    text = f"<mediawiki>{page.format('word ' * 150)}</mediawiki>"
    (tmp_path / "tst.xml.bz2").write_bytes(bz2.compress(text.encode()))
    status, out, _ = run("import-dump", "tst.xml.bz2", "--out", "wiki", "--workers", "0")
    assert status == 0
    assert "the passages take at most" in out
    assert "wiki: 2 passages of 1 articles" in out
    assert json.loads(run("import-dump", "tst.xml.bz2", "--out", "wiki", "--json")[1])["articles"] == 1
    assert run("check", "wiki")[0] == 0
    data = Path("wiki/passages.jsonl.gz").read_bytes()
    Path("wiki/passages.jsonl.gz").write_bytes(data[:-1] + b"\1")
    status, _, err = run("check", "wiki")
    assert status == 2
    assert "passages.jsonl.gz has changed since it was written" in err
    status, _, err = run("import-dump", "nothing.bz2", "--out", "x")
    assert status == 2
    assert "is not a file: give a Wikipedia dump" in err
