"""Malformed lines of a corpus, by every way a user opens one: one error, and nothing half-built."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from fake_hub import FakeHub, Repo

import searchgym
from searchgym.cli import main
from searchgym.errors import CorpusError

assert searchgym  # importing it registers the environments

GOOD = b'{"id": "a", "title": "Aln", "text": "The Aln is a river."}\n'
FLASHRAG = b'{"id": "a", "contents": "\\"Aln\\"\\nThe Aln is a river."}\n'
BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (
        b"id,title,text\n",
        "not JSON (Expecting value: line 1 column 1 (char 0)). Write one JSON object",
    ),
    "lacks a field": (b'{"id": "b", "title": "T"}\n', "no field 'text'. Add it."),
    "repeats an id": (GOOD, "id 'a' was already used in line 1. Give each line its own id."),
    "empty": (b"\n", "empty. Remove the line."),
    "50 MB": (
        b'{"id": "b", "title": "", "text": "' + b"x" * 50_000_000 + b'"}\n',
        "longer than 10,000,000 bytes. Cut the text into passages.",
    ),
    "not UTF-8": (
        b'{"id": "b", "title": "caf\xe9", "text": "x"}\n',
        "not UTF-8 (byte 0xe9 at byte 26). Save",
    ),
}


def as_jsonl(data: bytes, tmp_path: Path, hub: FakeHub) -> tuple[Any, str]:
    (tmp_path / "my corpus").mkdir()
    file = tmp_path / "my corpus" / "passages.jsonl"
    file.write_bytes(data)
    return str(file.parent), str(file)


def as_hub_file(data: bytes, tmp_path: Path, hub: FakeHub) -> tuple[Any, str]:
    pytest.importorskip("huggingface_hub", reason="the hub's client comes with the extra 'hub'")
    repo = hub.repos["me/mine"] = Repo(
        {"passages.jsonl.gz": gzip.compress(data, 1)}, lfs={"passages.jsonl.gz"}
    )
    file = tmp_path / "home" / "hub" / "me--mine" / repo.commit / "files" / "passages.jsonl.gz"
    return {"name": "hub", "corpus": "me/mine"}, str(file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize("publish", [as_jsonl, as_hub_file])
@pytest.mark.parametrize("kind", BAD)
def test_one_error_and_nothing_half_built(
    kind: str,
    publish: Callable[..., tuple[Any, str]],
    tmp_path: Path,
    hub: FakeHub,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line, message = BAD[kind]
    spec, file = publish((FLASHRAG if publish is as_hub_file else GOOD) + line + GOOD, tmp_path, hub)
    out = tmp_path / "index"
    text = spec if isinstance(spec, str) else json.dumps(spec)
    status = main(["index", "build", "--corpus", text, "--out", str(out)])
    *_, said = capsys.readouterr().err.splitlines()
    assert (status, said[: len(file) + 21]) == (2, f"searchgym: {file}, line 2: "[: len(file) + 21])
    assert message in said
    assert len(said) < len(file) + 300
    with pytest.raises(CorpusError) as caught:
        gym.make("SearchQA-v0", corpus=spec)
    assert f"searchgym: {caught.value}" == said
    assert not out.exists()
    assert not list(tmp_path.glob(".index*"))
    cached = [path for path in (home / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in cached if path.suffix != ".lock"] == []
    assert not list(home.rglob("*.part"))
