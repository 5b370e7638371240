"""Indexes in directories of their own: built, continued, refused, opened again; with BM25 and with a toy."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import gymnasium as gym
import pytest
from list_corpus import ListCorpus

import searchgym
from searchgym.conformance import check_retriever
from searchgym.corpora import Estimate, IndexBackend, build_index, open_index
from searchgym.corpora.bm25.index import BM25_BACKEND, open_bm25
from searchgym.corpora.indexing import backend as indexes
from searchgym.corpora.indexing.sealed import verify_directory
from searchgym.errors import (
    ConfigError,
    CorpusError,
    DamagedFileError,
    IndexMismatchError,
    PluginError,
    RetrievalError,
    UnknownIdError,
)
from searchgym.options import plugins
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, Retriever


class ToyBackend(IndexBackend):
    """Writes two files, the first of which an interrupted build leaves; finds the first passage always."""

    name = "toy"
    version = 1
    fails: BaseException | None = None
    needs = Estimate(disk=10, memory=10)
    written = 0

    def settings(self, *, size: int = 1) -> dict[str, Any]:
        if size < 1:
            raise ConfigError(f"size={size}: use 1 or more")
        return {"size": size}

    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "format": self.version,
            "backend": self.name,
            "corpus": corpus.hash,
            "settings": dict(settings),
        }

    def estimate(self, corpus: Corpus, settings: Mapping[str, Any]) -> Estimate:
        return self.needs

    def build(
        self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: indexes.Progress
    ) -> None:
        if not (directory / "first").exists():
            (directory / "first").write_text("1" * settings["size"])
            self.written += 1
        progress("writing", 1, 2)
        if self.fails is not None:
            raise self.fails
        (directory / "second").write_text("2")
        progress("writing", 2, 2)

    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> Retriever:
        return ToyIndex(corpus)


class ToyIndex:
    name, index_hash = "toy", "toy"

    def __init__(self, corpus: Corpus) -> None:
        self._first = corpus.passages[0]

    def search(self, queries: Any, k: int) -> list[Any]:
        return [[Hit(self._first.id, self._first.title, self._first.text, 1.0)] for _ in queries]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyBackend:
    backend, load = ToyBackend(), plugins.load
    monkeypatch.setattr(plugins, "load", lambda group, name: backend if name == "toy" else load(group, name))
    return backend


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_built_index_is_the_cached_one_in_another_place(small_corpus: ListCorpus, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    place = build_index(
        BM25_BACKEND,
        small_corpus,
        tmp_path / "new" / "index",
        {"k1": 1.5},
        progress=lambda *p: seen.append(p),
    )
    assert names(place.parent) == ["index"]  # neither lock nor unfinished work
    assert {phase for phase, _, _ in seen} == {"reading", "merging"}
    assert all(0 <= done <= total for _, done, total in seen)
    assert verify_directory(place) == []
    assert indexes.read_index(place) == {
        "backend": "bm25",
        "settings": {"k1": 1.5, "b": 0.4, "shuffle": None},
        "corpus": None,
        "corpus_name": "list",
        "passages": 77,
    }
    cached, opened = open_bm25(small_corpus, k1=1.5), open_index(place, small_corpus)
    queries = ["river Aln3", "Mira Voss bridge", "the"]
    for index in (opened, pickle.loads(pickle.dumps(opened)), pickle.loads(pickle.dumps(cached))):
        assert index.search(queries, 50) == cached.search(queries, 50)
        assert index.index_hash == cached.index_hash
    check_retriever(opened, small_corpus)


def test_building_again_leaves_the_same_index_alone_and_refuses_another(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend
) -> None:
    (tmp_path / "index").mkdir()  # an empty directory will do
    build_index(toy, small_corpus, tmp_path / "index")
    build_index(toy, small_corpus, tmp_path / "index", {"size": 1})
    assert toy.written == 1
    with pytest.raises(ConfigError, match="is not empty: give a new directory"):
        build_index(toy, small_corpus, tmp_path / "index", {"size": 2})
    (tmp_path / "thesis.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigError, match="is not empty"):
            build_index(toy, small_corpus, taken)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("stop", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), ConfigError),
    ],
)
def test_what_stopped_is_continued(
    small_corpus: ListCorpus,
    tmp_path: Path,
    home: Path,
    toy: ToyBackend,
    stop: BaseException,
    raised: type[BaseException],
) -> None:
    for build in (lambda: build_index(toy, small_corpus, tmp_path / "index"), lambda: toy(small_corpus)):
        toy.written, toy.fails = 0, stop
        with pytest.raises(
            raised, match=None if raised is KeyboardInterrupt else "became full while writing toy"
        ):
            build()
        assert not (tmp_path / "index").exists() or toy.written == 1
        toy.fails = None
        build()
        assert toy.written == 1
    assert sorted(path.name for path in home.rglob("*.part")) == []
    assert [name for name in names(tmp_path) if "index" in name] == ["index"]


def test_bad_input_leaves_nothing(
    small_corpus: ListCorpus, tmp_path: Path, home: Path, toy: ToyBackend
) -> None:
    toy.fails = CorpusError("no words")
    with pytest.raises(CorpusError):
        build_index(toy, small_corpus, tmp_path / "place" / "index")
    with pytest.raises(CorpusError):
        toy(small_corpus)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_work_begun_with_other_settings_is_cleared(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend
) -> None:
    toy.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build_index(toy, small_corpus, tmp_path / "index", {"size": 5})
    toy.fails = None
    build_index(toy, small_corpus, tmp_path / "index", {"size": 6})
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "first").read_text() == "111111"


def test_killed_between_the_seal_and_the_rename(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(toy, small_corpus, tmp_path / "index")
    place = build_index(toy, small_corpus, tmp_path / "index")
    assert verify_directory(place) == []
    whole = build_index(toy, small_corpus, tmp_path / "whole")
    assert (place / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_builds_next_to_it_and_odd_names_are_left_alone(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend
) -> None:
    toy.fails = KeyboardInterrupt()
    for name in ("wiki.v2", "wiki[1]"):
        with pytest.raises(KeyboardInterrupt):
            build_index(toy, small_corpus, tmp_path / name, {"size": 5})
    begun = sorted(path for path in tmp_path.iterdir() if path.suffix == ".part")
    assert len(begun) == 2
    toy.fails = None
    build_index(toy, small_corpus, tmp_path / "wiki")
    assert all(path.exists() for path in begun)  # ".wiki.v2.….part" is not begun for "wiki"
    build_index(toy, small_corpus, tmp_path / "wiki[1]", {"size": 6})
    assert [path.exists() for path in begun] == [True, False]


def test_what_was_begun_outlives_a_refusal(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of work must not go because something else takes the memory when it is continued."""
    toy.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build_index(toy, small_corpus, tmp_path / "index")
    toy.needs = Estimate(disk=1, memory=5_000_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(indexes, "available_memory", lambda: 4_000_000_000)
        with pytest.raises(ConfigError, match=r"but 4\.0 GB are"):
            build_index(toy, small_corpus, tmp_path / "index")
    toy.fails, toy.written = None, 0
    build_index(toy, small_corpus, tmp_path / "index")
    assert toy.written == 0  # the first file was there


def test_where_nothing_can_be_written(small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "index", tmp_path / "file" / "deeper" / "index"):
        with pytest.raises(
            ConfigError, match=r"index cannot be written \((File exists|Not a directory)\): choose another"
        ):
            build_index(toy, small_corpus, place)


def test_one_waited_and_the_other_finished(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look before either builds; the second finds what the first made."""
    acquire = filelock.FileLock.acquire

    def other_first(lock: filelock.FileLock, *args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        build_index(toy, small_corpus, tmp_path / "index")
        return acquire(lock, *args, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", other_first)
    build_index(toy, small_corpus, tmp_path / "index")
    assert toy.written == 1
    assert names(tmp_path) == ["index"]


def test_verify_names_everything_that_differs(small_corpus: ListCorpus, tmp_path: Path) -> None:
    place = build_index(BM25_BACKEND, small_corpus, tmp_path / "index")
    assert verify_directory(place) == []
    (place / "terms.txt").write_bytes((place / "terms.txt").read_bytes()[:-1])
    changed = bytearray((place / "postings.bin").read_bytes())
    changed[-1] ^= 1
    (place / "postings.bin").write_bytes(changed)
    (place / "places.npy").unlink()
    (place / "sub").mkdir()
    (place / "sub" / "notes.txt").write_text("mine")
    size = (place / "terms.txt").stat().st_size
    assert sorted(verify_directory(place)) == [
        f"{place / 'places.npy'} cannot be read (No such file or directory)",
        f"{place / 'postings.bin'} has changed since it was written",
        f"{place / 'sub' / 'notes.txt'} is not part of it: remove it",
        f"{place / 'terms.txt'} has {size} bytes instead of {size + 1}",
    ]
    for text in (
        "",
        "[]",
        "{}",
        '{"schema": 9}',
        '{"schema": 1, "files": {"a": {}}}',
        '{"schema": 1, "files": 3}',
    ):
        (place / "manifest.json").write_text(text)
        (problem,) = verify_directory(place)
        assert "manifest.json" in problem


def test_foreign_parts_need_no_corpus(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchgym.corpora.bm25 import index as bm25

    place = build_index(BM25_BACKEND, small_corpus, tmp_path / "index")
    assert indexes.foreign_parts(place) == []
    monkeypatch.setattr(bm25, "TOKENIZER", "letters/9")
    monkeypatch.setattr(bm25, "_FORMAT", 99)
    first, second = indexes.foreign_parts(place)
    assert first.startswith("format: ")
    assert second.startswith("tokenizer: ")
    assert second.endswith(", not 'letters/9'")
    build_index(toy, small_corpus, tmp_path / "toy")
    monkeypatch.setattr(ToyBackend, "settings", lambda self, *, other: {})
    (version,) = indexes.foreign_parts(tmp_path / "toy")
    assert version.startswith("version: unknown option")


def test_two_do_not_build_in_one_place(small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend) -> None:
    with (
        filelock.FileLock(tmp_path / ".index.lock"),
        pytest.raises(ConfigError, match=r"another process is building .*index: wait"),
    ):
        build_index(toy, small_corpus, tmp_path / "index")


def test_what_cannot_fit_is_refused_before_anything_is_written(
    small_corpus: ListCorpus, tmp_path: Path, home: Path, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    toy.needs = Estimate(disk=free * 1000, memory=1)
    message = r"the toy index of 'list' \(77 passages\) needs \d.* TB of disk to build, but .* has \d"
    for build in (lambda: build_index(toy, small_corpus, tmp_path / "index"), lambda: toy(small_corpus)):
        with pytest.raises(ConfigError, match=message):
            build()
    toy.needs = Estimate(disk=1, memory=5_000_000_000)
    monkeypatch.setattr(indexes, "available_memory", lambda: 4_000_000_000)
    with pytest.raises(ConfigError, match=r"needs 5.0 GB of memory to build, but 4.0 GB are available"):
        build_index(toy, small_corpus, tmp_path / "index")
    assert toy.written == 0
    assert [name for name in names(tmp_path) if "index" in name and not name.endswith(".lock")] == []
    monkeypatch.setattr(indexes, "available_memory", lambda: None)  # unknown: nothing is refused for it
    build_index(toy, small_corpus, tmp_path / "index")


def test_a_long_build_is_announced(
    small_corpus: ListCorpus, toy: ToyBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.needs = Estimate(disk=2_000_000, memory=3_000_000, seconds=29)
    toy(small_corpus)
    assert capsys.readouterr().err == ""
    toy.needs = Estimate(disk=2_000_000, memory=3_000_000, seconds=400)
    for _ in range(2):  # once: the second time it is there
        toy(small_corpus, size=2)
    assert capsys.readouterr().err == (
        "building the toy index of list (77 passages): about 400 s, 2.0 MB of disk, 3.0 MB of memory\n"
    )


def test_the_machines_memory_is_known() -> None:
    found = indexes.available_memory()
    assert found is None or 2**24 < found < 2**50


def test_unknown_and_bad_options(small_corpus: ListCorpus, tmp_path: Path) -> None:
    for build in (
        lambda options: build_index(BM25_BACKEND, small_corpus, tmp_path / "index", options),
        lambda options: BM25_BACKEND(small_corpus, **options),
    ):
        with pytest.raises(
            UnknownIdError, match=r"unknown option of retriever 'bm25': 'k2'. Did you mean 'k1'"
        ):
            build({"k2": 1})
        with pytest.raises(ConfigError, match="k1 is -1: give a number"):
            build({"k1": -1})
    assert names(tmp_path) == []


def test_open_refuses_what_would_answer_wrongly(
    small_corpus: ListCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchgym.corpora.bm25 import index as bm25

    place = build_index(BM25_BACKEND, small_corpus, tmp_path / "index")
    with pytest.raises(IndexMismatchError, match=r"bm25 index in .* is of another corpus: .*Build it again"):
        open_index(place, ListCorpus(["another text"]))
    with monkeypatch.context() as patch:
        patch.setattr(bm25, "TOKENIZER", "letters/9")
        with pytest.raises(IndexMismatchError, match=r"another tokenizer: .*'letters/9'.*Build it again"):
            open_index(place, small_corpus)
    with monkeypatch.context() as patch:
        patch.setattr(bm25, "_FORMAT", 99)
        with pytest.raises(IndexMismatchError, match=r"another format: \d, not 99"):
            open_index(place, small_corpus)
    with pytest.raises(IndexMismatchError, match=r"manifest.json cannot be read.*Build it again"):
        open_index(tmp_path / "nowhere", small_corpus)
    with pytest.raises(ConfigError, match="does not record how to open its corpus 'list'"):
        open_index(place)
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    for name, content in whole.items():
        (place / name).write_bytes(content[:-4])
        with pytest.raises(IndexMismatchError, match=r"no usable index in .*Build it again"):
            open_index(place, small_corpus)
        if name != "manifest.json":
            changed = bytearray(content)
            changed[-1] ^= 1
            (place / name).write_bytes(changed)
            if (
                name in BM25_BACKEND.lazy
            ):  # compared when it is read, which for some of them is when it is opened
                found: Any
                try:
                    (found,) = open_index(place, small_corpus).search(["river Aln3"], 3)
                except DamagedFileError as error:
                    found = error
                assert isinstance(found, RetrievalError | DamagedFileError)
                (place / "damaged.txt").unlink()
            else:
                with pytest.raises(IndexMismatchError, match="has changed since it was written"):
                    open_index(place, small_corpus)
        (place / name).unlink()
        with pytest.raises(IndexMismatchError, match=r"manifest.json cannot be read|cannot be read"):
            open_index(place, small_corpus)
        (place / name).write_bytes(content)
    open_index(place, small_corpus)


def test_a_directory_that_something_else_sealed(
    small_corpus: ListCorpus, tmp_path: Path, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = build_index(toy, small_corpus, tmp_path / "toy")
    monkeypatch.setattr(ToyBackend, "settings", lambda self, *, other: {})
    with pytest.raises(IndexMismatchError, match=r"of another version: unknown option .*'size'"):
        open_index(place, small_corpus)
    monkeypatch.setattr(plugins, "load", lambda group, name: open_bm25)
    with pytest.raises(PluginError, match=r"'toy' of the index in .* is not an IndexBackend"):
        open_index(place, small_corpus)
    (tmp_path / "cached").mkdir()
    from searchgym.corpora.indexing.sealed import seal

    seal(tmp_path / "cached", "country", {"format": 1})
    with pytest.raises(IndexMismatchError, match=r"index.json does not describe an index"):
        open_index(tmp_path / "cached", small_corpus)


@pytest.fixture
def alps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "alps").mkdir()
    lines = [{"id": name, "title": name, "text": f"{name} is a river"} for name in ("Aare", "Inn", "Rhone")]
    (tmp_path / "alps" / "passages.jsonl").write_text("\n".join(map(json.dumps, lines)))
    question = {"id": "q", "question": "Which river is Inn?", "answers": ["Inn"], "split": "train"}
    (tmp_path / "alps" / "questions.jsonl").write_text(json.dumps(question))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "alps"


@pytest.mark.parametrize("spec", ["alps", {"name": "jsonl", "path": "alps"}])
def test_the_recorded_corpus_is_found_from_anywhere(
    alps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Any
) -> None:
    build_index(BM25_BACKEND, searchgym.open_corpus(spec), "index", corpus_spec=spec)
    place = Path("index").absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [hit.id for hit in open_index(place).search(["Inn"], 3)[0]] == ["Inn"]  # type: ignore[union-attr]


def test_an_environment_takes_the_path_of_an_index(alps: Path) -> None:
    build_index(BM25_BACKEND, searchgym.open_corpus("alps"), "index", {"b": 0.1})
    env = gym.make("SearchQA-v0", corpus="alps", retriever="index")
    env.reset(options={"task_id": "q"})
    _, _, _, _, info = env.step("<search> Inn </search>")
    corpus = env.unwrapped.corpus  # type: ignore[attr-defined]
    assert [hit["id"] for hit in info["hits"]] == ["Inn"]
    assert info["retrieval"]["index_hash"] == open_bm25(corpus, b=0.1).index_hash
    retriever = searchgym.open_retriever("index", corpus)
    assert retriever is searchgym.open_retriever(
        {"name": "index-directory", "path": str(Path("index").absolute())}, corpus
    )
    shutil.rmtree("index")
    build_index(BM25_BACKEND, corpus, "index", {"b": 0.2})  # built anew in the same place: opened anew
    assert searchgym.open_retriever("index", corpus).index_hash == open_bm25(corpus, b=0.2).index_hash
    os.remove("index/postings.bin")
    with pytest.raises(IndexMismatchError, match=r"postings\.bin"):
        gym.make("SearchQA-v0", corpus="alps", retriever="index")
    with pytest.raises(IndexMismatchError, match=r"no usable index in .*alps"):
        gym.make("SearchQA-v0", corpus="alps", retriever="alps")
