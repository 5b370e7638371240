"""Packing holds one run of ids at a time: the merged runs are what one sort would give, and repeated ids are found."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from searchgym.corpora.datasets import packing
from searchgym.corpora.datasets.jsonl import open_jsonl
from searchgym.corpora.datasets.lines import Line
from searchgym.corpora.datasets.packing import Packed, PassageIds, PassagePacker, content_hash, decode_passage
from searchgym.errors import CorpusError
from searchgym.records.question import Passage


def some_passages(count: int, seed: int = 0) -> list[Passage]:
    """Ids of many lengths and scripts, in no order; some hold what a text format would trip over."""
    draw = random.Random(seed)
    ids = [str(number) for number in range(count - 4)] + ["a\nb", "a\tb", "ç", "東京\0"]
    draw.shuffle(ids)
    return [Passage(id, f"Title {n % 7}", "word " * draw.randrange(1, 9) + "é") for n, id in enumerate(ids)]


def pack(store: Path, passages: list[Passage]) -> Packed[Passage]:
    store.mkdir()
    packer = PassagePacker(store)
    for number, passage in enumerate(passages, 1):
        packer.add(passage, Line(Path("p.jsonl"), number, {}))
    assert packer.finish() == len(passages)
    return Packed(store, "passages", decode_passage)


@pytest.mark.parametrize("run", [1, 7, 50, 99, 100, 1_000])
def test_runs_merge_to_what_one_sort_gives(run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RUN", run)
    passages = some_passages(100)
    packed = pack(tmp_path / "store", passages)
    assert list(packed) == sorted(passages, key=lambda passage: passage.id)
    assert sorted(file.name for file in (tmp_path / "store").iterdir()) == ["passages.bin", "passages.npy"]
    monkeypatch.undo()
    assert content_hash(packed) == content_hash(pack(tmp_path / "whole", passages[::-1]))


def test_ids_are_found_by_bisection(tmp_path: Path) -> None:
    passages = some_passages(200)
    packed = pack(tmp_path / "store", passages)
    ids = PassageIds(packed)
    for passage in passages:
        assert packed[ids.position(passage.id) or 0] == passage
    for absent in ("", "196", "zz", "0\0", 7, None):
        assert absent not in ids


@pytest.mark.parametrize("run", [3, 1_000])
def test_a_repeated_id_is_found_within_a_run_and_across_runs(
    run: int, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "RUN", run)
    rows: list[dict[str, Any]] = [{"id": f"p{n:02d}", "title": "", "text": "x"} for n in range(20)]
    file = tmp_path / "passages.jsonl"
    for position in (0, 1, 2, 10, 19):
        file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[position]]))
        with pytest.raises(CorpusError) as caught:
            open_jsonl(tmp_path)
        assert str(caught.value) == (
            f"{file}, line 21: id 'p{position:02d}' was already used in line {position + 1}. Give each line its own id."
        )
    assert [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_repeated_id_of_another_file_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RUN", 2)
    packer = PassagePacker(tmp_path)
    # Files of 3 and 2 lines, with a line passed over: the numbers of lines and passages part.
    for name, number in (("a", 1), ("a", 3), ("b", 1)):
        packer.add(Passage(f"{name}{number}", "", "x"), Line(Path(name), number, {}))
    packer.add(Passage("a3", "", "x"), Line(Path("b"), 2, {}))
    with pytest.raises(CorpusError, match=r"^b, line 2: id 'a3' was already used in line 3 of a\."):
        packer.finish()


def test_memory_does_not_grow_with_the_number_of_passages(tmp_path: Path) -> None:
    """The ids of a million passages in a dictionary take 150 MB; a run of 10,000 takes a few."""
    import subprocess
    import sys

    code = """
import resource, sys
from pathlib import Path
from searchgym.corpora.datasets import packing
from searchgym.corpora.datasets.lines import Line
from searchgym.records.question import Passage
packing.RUN = 10_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
packer = packing.PassagePacker(Path(sys.argv[1]))
line = Line(Path("p"), 1, {})
for number in range(300_000):
    packer.add(Passage(str(number), "", "x"), Line(line.file, number + 1, {}))
packer.finish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 45, f"{done.stdout.strip()} MB for 300,000 passages"
