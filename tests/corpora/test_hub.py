"""Data sets from the hub, against a server on this machine that answers as the hub does, and fails as it may."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import preloaded
import pytest
from fake_hub import FakeHub, Repo, close_after, corrupt, ignore_range, only, stall_after

from searchgym import specs
from searchgym.conformance import check_corpus
from searchgym.corpora.datasets import hub_files
from searchgym.corpora.datasets.hub import KNOWN, find_set, open_hub
from searchgym.errors import ConfigError, CorpusError, MissingExtraError

pytest.importorskip("huggingface_hub", reason="the hub's client comes with the extra 'hub'")

WIKI = [
    {"id": "0", "contents": '"Aln"\nThe Aln is a river of Bor.'},
    {"id": "1", "contents": '"Mira Voss"\nMira Voss was born in Bor.'},
    {"id": "2", "contents": '"Blank"\n  '},
]
HOTPOT = {
    "id": "dev_0",
    "question": "Which river?",
    "golden_answers": ["Aln", " "],
    "metadata": {"type": "bridge", "supporting_facts": {"title": ["Aln", "Mira Voss"], "sent_id": [0, 0]}},
}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def flashrag() -> Repo:
    nq = [{"id": "test_0", "question": "Who?", "golden_answers": ["Mira Voss"]}]
    nothing = [{"id": "test_1", "question": "Who?", "golden_answers": []}]
    return Repo(
        {
            "README.md": b"# FlashRAG",
            "nq/test.jsonl": lines(nq + nothing),
            "nq/train.jsonl": lines([{**nq[0], "id": "train_0"}]),
            "hotpotqa/dev.jsonl": lines([HOTPOT]),
            "bamboogle/test.jsonl": lines(nq),
            "retrieval-corpus/wiki.jsonl": lines(WIKI),
        },
        lfs={"nq/train.jsonl", "hotpotqa/dev.jsonl"},
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        server.repos["PeterJinGo/wiki-18-corpus"] = Repo(
            {"README.md": b"", "wiki-18.jsonl.gz": gzip.compress(lines(WIKI))}, lfs={"wiki-18.jsonl.gz"}
        )
        server.repos["RUC-NLPIR/FlashRAG_datasets"] = flashrag()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        # The client waits a second between attempts.
        monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
        yield server


def test_passages_and_questions_from_the_hub(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"name": "hub", "corpus": "wiki-18", "questions": ["nq", "hotpotqa"]}
    corpus = open_hub("wiki-18", ["nq", "hotpotqa"])
    check_corpus(corpus)
    wiki, flash = (repo.commit[:7] for repo in hub.repos.values())
    assert corpus.name == f"wiki-18@{wiki}+nq@{flash}+hotpotqa@{flash}"
    assert [passage.title for passage in corpus.passages] == ["Aln", "Mira Voss"]
    assert [question.id for question in corpus.questions("test")] == ["nq/test_0"]
    gold = corpus.question("hotpotqa/dev_0")
    assert (gold.supporting_ids, gold.answers, gold.hops, gold.type) == (("0", "1"), ("Aln",), 2, "bridge")
    assert corpus.facts["passages_passed_over"] == corpus.facts["questions_passed_over"] == 1
    assert corpus.facts["origin"]["passages"]["commit"] == hub.repos["PeterJinGo/wiki-18-corpus"].commit
    said = capsys.readouterr().err
    assert f"PeterJinGo/wiki-18-corpus@{wiki}: downloading" in said
    assert spec["name"] in said or hub.url not in said  # nothing else is said


def test_every_set_known_by_a_short_name_opens(hub: FakeHub) -> None:
    evidence = {"title": ["Aln"], "sent_id": [0]}
    by_content = {"supporting_facts": evidence, "context": {"title": ["Aln"], "content": [["The Aln is"]]}}
    step = {"support_paragraph": {"title": "Mira Voss", "paragraph_text": "Mira Voss was born in Bor."}}
    metadata: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "nq": ({}, ()),
        "triviaqa": ({}, ()),
        "popqa": ({"s_wiki_title": "Aln", "pop": 3}, ()),
        "hotpotqa": ({"type": "bridge", "supporting_facts": evidence}, ("0",)),
        "2wikimultihopqa": (by_content, ("0",)),
        "musique": ({"question_decomposition": [step]}, ("1",)),
        "bamboogle": ({}, ()),
    }
    sets = {name for name, (repository, path, _) in KNOWN.items() if path and "FlashRAG" in repository}
    assert sets == set(metadata)
    row = {"id": "test_0", "question": "Which?", "golden_answers": ["Aln"]}
    flash, joined = "RUC-NLPIR/FlashRAG_datasets", "PeterJinGo/nq_hotpotqa_train"
    hub.repos[flash] = Repo(
        {f"{name}/test.jsonl": lines([{**row, "metadata": known}]) for name, (known, _) in metadata.items()}
    )
    hub.repos[joined] = Repo({"train.jsonl": lines([{**row, "data_source": "nq"}])})
    corpus = open_hub("wiki-18", list(metadata))
    check_corpus(corpus)
    for name, (_, gold) in metadata.items():
        question = corpus.question(f"{name}/test_0")
        assert (question.supporting_ids, question.split) == (gold, "test")
    with pytest.raises(
        CorpusError, match=r"'nq/test_0' was already used in line 1 of .*open one of the two files"
    ):
        open_hub("wiki-18", ["nq", "nq_hotpotqa_train"])
    assert open_hub("wiki-18", "nq_hotpotqa_train").question("nq/test_0").split == "train"


def test_what_is_here_needs_no_network_and_stays_at_its_commit(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_hub("wiki-18", "nq")
    hub.repos["RUC-NLPIR/FlashRAG_datasets"].files["nq/test.jsonl"] = lines([HOTPOT])
    hub.repos["RUC-NLPIR/FlashRAG_datasets"].touch()
    count = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not even the client is needed
    again = open_hub("wiki-18", "nq")
    assert (again.name, again.hash) == (first.name, first.hash)
    assert list(pickle.loads(pickle.dumps(first)).questions("test")) == list(first.questions("test"))
    with pytest.raises(
        CorpusError, match=r"hotpotqa/dev.jsonl is not on this machine and HF_HUB_OFFLINE is set"
    ):
        open_hub("wiki-18", "hotpotqa")
    assert len(hub.requests) == count
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(MissingExtraError, match=r'needs the module .*: pip install "searchgym\[hub\]"'):
        open_hub("wiki-18", "hotpotqa")
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    updated = find_set("nq", update=True)
    assert updated.repository.commit == hub.repos["RUC-NLPIR/FlashRAG_datasets"].commit
    assert open_hub("wiki-18", "nq").question("nq/dev_0").answers == ("Aln",)
    old = first.name.rpartition("@")[2]
    full = first.facts["origin"]["questions"][0]["commit"]
    assert open_hub("wiki-18", f"nq@{full}").name.endswith(old)


def test_local_passages_with_questions_of_the_hub_and_the_other_way_round(
    hub: FakeHub, tmp_path: Path
) -> None:
    passages = tmp_path / "mine" / "passages.jsonl"
    passages.parent.mkdir()
    passages.write_bytes(lines(WIKI[:2]))
    corpus = specs.open_corpus({"name": "hub", "corpus": str(passages.parent), "questions": "hotpotqa"})
    assert corpus.name.startswith("mine+hotpotqa@")
    assert corpus.question("hotpotqa/dev_0").supporting_ids == ("0", "1")
    own = tmp_path / "own.jsonl"
    own.write_bytes(lines([{"id": "q", "question": "?", "answers": ["x"], "supporting_ids": ["1"]}]))
    corpus = open_hub("wiki-18", str(own))
    assert corpus.questions("train")[0].id == "q"
    other = open_hub("RUC-NLPIR/FlashRAG_datasets:retrieval-corpus/wiki.jsonl")
    assert other.hash == corpus.hash
    assert other.name.startswith("retrieval-corpus@")


def test_a_parquet_data_set(hub: FakeHub) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"id": "train_0", "question": "?", "golden_answers": ["x"], "data_source": source}
        for source in ("nq", "hotpotqa")
    ]
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    files = {"train.parquet": out.getvalue(), "README.md": b""}
    hub.repos["PeterJinGo/nq_hotpotqa_train"] = Repo(files, lfs={"train.parquet"})
    corpus = open_hub("wiki-18", "nq_hotpotqa_train")
    assert [question.id for question in corpus.questions("train")] == ["nq/train_0", "hotpotqa/train_0"]


def test_only_the_files_asked_for_are_downloaded_and_the_token_stays_on_the_hub(
    hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "let-me-in")
    find_set("hotpotqa").fetch()
    files = [path.name for path in (home / "hub").rglob("*") if path.is_file() and "files" in path.parts]
    assert files == ["dev.jsonl"]
    sent = [request for request in hub.requests if "/resolve/" in request.path]
    assert [request.headers.get("authorization") for request in sent] == ["Bearer let-me-in"]
    assert [request.headers.get("authorization") for request in hub.storage_requests] == [None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/nothing", "has no such data set, or it is private. Check the name"),
        ("wiki-18@v7", "PeterJinGo/wiki-18-corpus, revision v7: no such revision"),
        ("wiki_18", r"neither a path nor a data set of the hub. Did you mean 'wiki-18'"),
        ("no such thing", "neither a path nor a data set of the hub"),
        ("nq:test", "a short name cannot have a path. Write RUC-NLPIR/FlashRAG_datasets:test"),
        (
            "RUC-NLPIR/FlashRAG_datasets",
            "has files in 4 folders: name one, as in RUC-NLPIR/FlashRAG_datasets:",
        ),
        ("RUC-NLPIR/FlashRAG_datasets:nqq", r"file in 'nqq'. Did you mean 'nq'"),
        ("RUC-NLPIR/FlashRAG_datasets:retrieval-corpus", r"no file in retrieval-corpus is named train…"),
    ],
)
def test_names_that_lead_nowhere(hub: FakeHub, name: str, message: str, home: Path) -> None:
    with pytest.raises((CorpusError, ConfigError), match=message) as caught:
        find_set(name, questions=True)
    assert "\n" not in str(caught.value)
    assert not list(home.rglob("files"))


def test_a_gated_data_set_opens_with_a_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["PeterJinGo/wiki-18-corpus"].gated = True
    with pytest.raises(
        CorpusError, match=r"is gated: accept its conditions at http.*/datasets/PeterJinGo/wiki-18"
    ):
        open_hub("wiki-18")
    monkeypatch.setenv("HF_TOKEN", "let-me-in")
    assert len(open_hub("wiki-18").passages) == 2


def test_a_server_that_fails(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults["/api/datasets/PeterJinGo/wiki-18-corpus/revision/main"] = 503
    with pytest.raises(CorpusError, match=r"revision main: http://127.0.0.1:\d+ answered 503. Try again$"):
        open_hub("wiki-18")
    hub.faults.clear()
    hub.faults["wiki-18.jsonl.gz"] = 500
    with pytest.raises(CorpusError, match=r"wiki-18.jsonl.gz: .* answered 500. .*Try again$"):
        open_hub("wiki-18")
    hub.faults.clear()
    assert len(open_hub("wiki-18").passages) == 2
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(CorpusError, match=r"a request to http://127.0.0.1:9 failed \(.+\). Try again$"):
        open_hub("wiki-18", "nq")


def big() -> tuple[bytes, Repo]:
    data = lines([{"id": str(n), "title": "T", "text": os.urandom(500).hex()} for n in range(24_000)])
    assert len(data) > 24_000_000  # the client hands on 10 MB at a time
    return data, Repo({"passages.jsonl": data}, lfs={"passages.jsonl"})


def test_killed_in_the_middle_it_goes_on_where_it_was(hub: FakeHub, home: Path) -> None:
    data, hub.repos["a/big"] = big()
    hub.faults["passages.jsonl"] = stall_after(23_000_000)
    code = "from searchgym.corpora.datasets.hub import find_set; find_set('a/big').fetch()"
    process = preloaded.PreloadedPopen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (parts := [p for p in home.rglob("*.part") if p.stat().st_size >= 20_000_000]):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = parts[0].stat().st_size
    hub.faults.clear()
    hub.storage_requests.clear()
    (path,) = find_set("a/big").fetch()
    assert path.read_bytes() == data
    assert [request.headers["range"] for request in hub.storage_requests] == [f"bytes={there}-"]
    assert not list(home.rglob("*.part"))


def test_a_connection_that_breaks_again_and_again_is_taken_up_each_time(hub: FakeHub) -> None:
    data, hub.repos["a/big"] = big()
    hub.faults["passages.jsonl"] = close_after(11_000_000)
    (path,) = find_set("a/big").fetch()
    assert path.read_bytes() == data
    assert len(hub.storage_requests) == 3


def test_a_proxy_that_ignores_ranges_costs_a_new_start_only(hub: FakeHub, home: Path) -> None:
    data = lines(WIKI)
    hub.repos["a/small"] = Repo({"x.jsonl": data}, lfs={"x.jsonl"})
    found = find_set("a/small")
    part = hub_files.local_path(found.repository, found.files[0]).with_name("x.jsonl.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:20])
    hub.faults["x.jsonl"] = ignore_range
    assert found.fetch()[0].read_bytes() == data


@pytest.mark.parametrize("lfs", [True, False])
def test_a_file_that_is_not_what_was_announced_is_never_used(hub: FakeHub, home: Path, lfs: bool) -> None:
    data = lines(WIKI)
    hub.repos["a/small"] = Repo({"x.jsonl": data}, lfs={"x.jsonl"} if lfs else set())
    hub.faults["x.jsonl"] = corrupt
    with pytest.raises(CorpusError, match=r"x.jsonl arrived with other content .*removed: try again"):
        find_set("a/small").fetch()
    hub.faults["x.jsonl"] = only(50)
    with pytest.raises(
        CorpusError, match=r"failed \(Consistency check failed: .*50 B of \d+ B are kept. Try again"
    ):
        find_set("a/small").fetch()
    with pytest.raises(CorpusError, match=r"has fewer bytes than it announced. Try again from the start"):
        find_set("a/small").fetch()
    assert not [path for path in home.rglob("x.jsonl*") if path.is_file()]
    hub.faults.clear()
    assert find_set("a/small").fetch()[0].read_bytes() == data


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchgym.corpora.indexing.disk.free_disk", lambda _: 100 * 2**20 + 50)
    with pytest.raises(
        ConfigError,
        match=r"PeterJinGo/wiki-18-corpus: the download \(\d+ B\) and packing it needs .*beside 105 MB that stay free",
    ):
        open_hub("wiki-18")
    assert not list(home.rglob("*.part"))
    assert hub.storage_requests == []


@pytest.mark.parametrize(
    "commit",
    ["../../../evil", "..", "a/b", "main", "0" * 39, "G" * 40, "0" * 40 + "/..", "0" * 41, "\n" + "0" * 40],
)
def test_what_is_not_the_id_of_a_commit_never_becomes_a_directory(
    hub: FakeHub, home: Path, commit: str
) -> None:
    hub.repos["a/evil"] = Repo({"x.jsonl": lines(WIKI)})
    hub.repos["a/evil"].commit = commit
    for revision in ("", "@v2", f"@{commit}" if commit.isprintable() else ""):
        with pytest.raises((CorpusError, ConfigError)):
            find_set(f"a/evil{revision}")
    there = {path.name for path in home.parent.rglob("*") if path.is_file()}
    assert there <= {".lock"}


@pytest.mark.parametrize(
    "path",
    ["a\\b.jsonl", "a:b.jsonl", "/x.jsonl", "a//x.jsonl", "./x.jsonl", "a\x00.jsonl", "a\x1b[2J.jsonl"],
)
def test_names_that_are_not_plain_are_refused(hub: FakeHub, home: Path, path: str) -> None:
    hub.repos["a/evil"] = Repo({path: lines(WIKI)})
    with pytest.raises(CorpusError, match="which is outside the repository"):
        find_set("a/evil")


def test_a_path_that_leads_out_of_the_cache_is_refused(hub: FakeHub, home: Path) -> None:
    hub.repos["a/evil"] = Repo({"../../../x.jsonl": lines(WIKI)})
    with pytest.raises(CorpusError, match="which is outside the repository"):
        find_set("a/evil")


def test_a_home_that_cannot_be_written(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEARCHGYM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError, match=r"cannot be written .*set SEARCHGYM_HOME"):
        find_set("wiki-18")
