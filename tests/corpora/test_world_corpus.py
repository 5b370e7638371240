"""The generated world as a corpus: lazy, cached, the same everywhere, written to disk whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searchgym.conformance import check_corpus
from searchgym.corpora.world import World, open_country, open_country_hard, open_country_terse, write_world
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.records.question import Corpus

SMALL = {"size": 1_000, "train": 100, "dev": 30, "test": 30}
SCRIPT = """
import hashlib, json, sys
from searchgym.corpora.world import World
out = []
for arguments in json.loads(sys.argv[1]):
    world = World(**arguments)
    digest = hashlib.sha256()
    for p in world.passages:
        digest.update(json.dumps([p.id, p.title, p.text]).encode())
    passages = digest.hexdigest()
    for split in world.splits:
        for q in world.questions(split):
            digest.update(repr(q).encode())
    out.append([world.hash, passages, digest.hexdigest()])
print(json.dumps(out))
"""
GOLDEN = {
    "encyclopedia": "f4d43d1f2f556fe6",
    "terse": "ee44ce85e56dfde9",
    "hard": "c5ed4e76ba99a581",
}
"""Passages and questions of seed 0. A change means another world: raise `corpus.VERSION` with it."""


@pytest.mark.parametrize("opener", [open_country, open_country_terse, open_country_hard])
def test_worlds_keep_the_contract_of_corpora(opener: Callable[..., World]) -> None:
    world = opener(**SMALL)
    assert isinstance(world, Corpus)
    check_corpus(world)


def test_the_entry_points_differ_as_they_should() -> None:
    plain, terse, hard = (opener(**SMALL) for opener in (open_country, open_country_terse, open_country_hard))
    assert len({plain.hash, terse.hash, hard.hash}) == 3
    assert [w.name for w in (plain, terse, hard)] == ["country", "country-terse", "country-hard"]
    assert plain.passages[5].title == terse.passages[5].title
    assert plain.passages[5].text != terse.passages[5].text
    assert {q.hops for q in hard.questions("train")} == {3, 4}


def test_passages_are_a_lazy_sequence() -> None:
    passages = World(10_000_000).passages
    assert len(passages) == 10_000_000
    assert passages[9_999_999] == passages[-1]
    assert passages[123:126] == [passages[123], passages[124], passages[125]]
    ids = [passages[i].id for i in (0, 9, 10, 999_999, 9_999_999)]
    assert ids == sorted(ids)
    assert [int(id_) for id_ in ids] == [0, 9, 10, 999_999, 9_999_999]
    for outside in (10_000_000, -10_000_001):
        with pytest.raises(IndexError, match=f"passage {outside} of 10000000"):
            passages[outside]


def test_memory_does_not_grow_with_the_size() -> None:
    def peak(size: int) -> int:
        tracemalloc.start()
        passages = World(size).passages
        for i in range(0, size, size // 100):
            passages[i]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1_000)  # templates and tables are parsed once
    assert peak(10_000_000) < 1.5 * peak(100_000) + 100_000


def test_a_world_survives_pickling() -> None:
    world = World(**SMALL, seed=5, style="terse", hard=True)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(world))
    assert copy.hash == world.hash
    assert copy.name == world.name
    assert copy.questions("dev") == world.questions("dev")


def test_a_second_world_reads_its_questions_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = World(**SMALL).questions("train")  # type: ignore[arg-type]

    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(World, "_drawn", refuse)
    assert World(**SMALL).questions("train") == first  # type: ignore[arg-type]


def test_seed_size_and_style_change_the_hash_and_counts_do_not() -> None:
    base = World(**SMALL)  # type: ignore[arg-type]
    assert World(1_000, train=7, dev=1, test=1).hash == base.hash
    assert World(1_000, seed=1).hash != base.hash
    assert World(1_001).hash != base.hash
    assert World(1_000, style="terse").hash != base.hash
    assert World(1_000, hard=True).hash != base.hash


def _run(arguments: list[dict[str, Any]], hash_seed: str, home: Path) -> list[list[str]]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "SEARCHGYM_HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_twin_processes_agree(tmp_path: Path) -> None:
    small: list[dict[str, Any]] = [{**SMALL, "seed": 9}, {**SMALL, "style": "terse", "hard": True}]
    assert _run(small, "1", tmp_path / "one") == _run(small, "2", tmp_path / "two")


def test_seed_0_is_the_world_it_always_was(tmp_path: Path) -> None:
    found = _run([{}, {"style": "terse"}, {"hard": True}], "3", tmp_path)
    assert {name: digests[2][:16] for name, digests in zip(GOLDEN, found, strict=True)} == GOLDEN


# -- on disk --------------------------------------------------------------------------------------------------


def test_a_written_world_is_the_world(tmp_path: Path) -> None:
    world = World(**SMALL)  # type: ignore[arg-type]
    directory = write_world(tmp_path / "out", **SMALL)
    rows = [json.loads(line) for line in (directory / "passages.jsonl").read_text("utf-8").splitlines()]
    assert [(r["id"], r["title"], r["text"]) for r in rows] == [
        (p.id, p.title, p.text) for p in world.passages
    ]
    rows = [json.loads(line) for line in (directory / "questions.jsonl").read_text("utf-8").splitlines()]
    questions = [q for split in world.splits for q in world.questions(split)]
    assert [r["id"] for r in rows] == [q.id for q in questions]
    assert rows[0]["question"] == questions[0].text
    assert sorted(path.name for path in directory.iterdir()) == ["passages.jsonl", "questions.jsonl"]


def test_a_written_world_can_be_opened_as_ones_own_corpus(tmp_path: Path) -> None:
    from searchgym.corpora.datasets.jsonl import open_jsonl

    world = World(**SMALL)  # type: ignore[arg-type]
    corpus = open_jsonl(path=str(write_world(tmp_path / "out", **SMALL)))
    assert [p.title for p in corpus.passages] == [p.title for p in world.passages]
    for split in world.splits:
        mine, theirs = world.questions(split), corpus.questions(split)
        assert [(q.id, q.text, q.answers, q.supporting_ids) for q in mine] == [
            (q.id, q.text, q.answers, q.supporting_ids) for q in theirs
        ]


def test_nothing_is_left_of_a_world_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has only .* of the 5,000 train questions requested"):
        write_world(tmp_path / "new" / "out", size=1_000, train=5_000)
    assert list((tmp_path / "new").iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty directory"):
        write_world(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (write_world(empty, **SMALL) / "passages.jsonl").exists()


# -- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10}, "world size is 10: give a whole number from 1000 to 10000000"),
        ({"size": "5000"}, "world size is '5000'"),
        ({"seed": None}, "world seed is None"),
        ({"train": -1}, "number of train questions is -1"),
        ({"dev": 1.5}, "number of dev questions is 1.5"),
        ({"sise": 5_000}, "unknown option of the corpus 'country' 'sise'. Did you mean 'size'"),
        ({"style": "terse"}, "unknown option of the corpus 'country' 'style'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_country(**options)
    assert message in str(caught.value)


def test_unknown_names_are_refused() -> None:
    world = World(**SMALL)  # type: ignore[arg-type]
    with pytest.raises(UnknownIdError, match="Did you mean 'train'"):
        world.questions("trian")
    with pytest.raises(UnknownIdError, match="unknown task id 'country-0-train-999999'"):
        world.question("country-0-train-999999")
    with pytest.raises(UnknownIdError, match=r"unknown style 'verse'\. Did you mean 'terse'"):
        World(style="verse")
    with pytest.raises(UnknownIdError, match="split"):
        World(1_000, train=10, dev=0, test=0).questions("dev")
