"""The BM25 table: the same bytes however it was cut, merged, interrupted and continued."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest
from list_corpus import ListCorpus

from searchgym.corpora.bm25 import build as bm25_build
from searchgym.corpora.bm25 import shards
from searchgym.corpora.bm25.build import build_table, estimate_table
from searchgym.corpora.bm25.index import BM25, BM25_BACKEND, open_bm25
from searchgym.corpora.bm25.shards import LENGTHS
from searchgym.corpora.indexing.backend import quiet
from searchgym.errors import ConfigError, CorpusError
from searchgym.home import home
from searchgym.specs import open_corpus

SETTINGS = BM25_BACKEND.checked({})


def mixed_corpus(count: int = 300) -> ListCorpus:
    """Texts of 0 to 60 words; every third passage is one of five, so that identical ones lie far apart."""
    rng = random.Random(11)
    texts = []
    for i in range(count):
        words = [f"w{int(rng.paretovariate(0.6)) % 400}é" for _ in range(rng.randrange(60))]
        texts.append(f"the river of twin {i % 5}" if i % 3 == 0 else " ".join(words))
    return ListCorpus(texts)


def files(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*")}


def built(corpus: Any, directory: Path, **options: Any) -> dict[str, bytes]:
    directory.mkdir()
    build_table(corpus, BM25_BACKEND.checked(options), directory, quiet)
    return files(directory)


@pytest.mark.parametrize("options", [{}, {"k1": 2, "b": 1}, {"shuffle": 4}])
def test_the_same_bytes_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    corpus = mixed_corpus(100)
    whole = built(corpus, tmp_path / "whole", **options)
    assert "shards" not in whole
    for words, at_once in ((1, 2**22), (40, 1), (350, 100), (1700, 2**22)):
        monkeypatch.setattr(shards, "SHARD_WORDS", words)
        monkeypatch.setattr(bm25_build, "_MERGED_AT_ONCE", at_once)
        assert built(corpus, tmp_path / f"{words}", **options) == whole


@pytest.mark.parametrize("options", [{}, {"shuffle": 4}])
def test_the_same_bytes_from_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    corpus = mixed_corpus()
    corpus.passages = [
        *corpus.passages[:-1],
        replace(corpus.passages[-1], text="a lone \ud800 surrogate \n\x00 end"),
    ]
    whole = built(corpus, tmp_path / "whole", processes=1, **options)
    monkeypatch.setattr(shards, "_PARALLEL_FROM", 0)
    monkeypatch.setattr(shards, "_CHARACTERS", 10_000)
    started = []
    monkeypatch.setattr(
        shards, "_Worker", lambda worker=shards._Worker: started.append(worker()) or started[-1]
    )
    assert built(corpus, tmp_path / "parallel", processes=2, **options) == whole
    assert len(started) == 2
    assert all(worker._process.returncode is not None for worker in started)


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PARALLEL_FROM", 0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="ended with status"):
        built(mixed_corpus(), tmp_path / "t", processes=2)


def test_what_was_built_before_a_process_died_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PARALLEL_FROM", 0)
    monkeypatch.setattr(shards, "_CHARACTERS", 10_000)
    corpus, build = mixed_corpus(), shards._Worker.build

    def dies_at_the_third(worker: Any, request: bytes) -> shards.Shard:
        if Path(json.loads(request)[0]).name == "00002":
            worker._process.kill()
        return build(worker, request)

    monkeypatch.setattr(shards._Worker, "build", dies_at_the_third)
    with pytest.raises(ConfigError, match="start again to continue"):
        BM25_BACKEND(corpus, processes=2)
    monkeypatch.setattr(shards._Worker, "build", build)
    continued = shards._finished_shards(next(home().rglob("shards")))
    assert [shard.directory.name for shard in continued] == ["00000", "00001"]
    index = BM25_BACKEND(corpus, processes=2)
    assert index.search(["river"], 100) == BM25.build(corpus).search(["river"], 100)


def test_ties_do_not_know_where_shards_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = mixed_corpus(120)
    queries = ["twin 3", "river", "w1é w2é w3é river twin 0"]
    expected = BM25.build(corpus).search(queries, 120)
    twins = [hit.id for hit in expected[0] if hit.text == "the river of twin 3"]  # type: ignore[union-attr]
    assert len(twins) == 8
    assert twins == sorted(twins)
    for words in (1, 7, 30, 200):
        monkeypatch.setattr(shards, "SHARD_WORDS", words)
        index = BM25.build(corpus)
        for k in (1, 2, 3, 7, 8, 9, 120):
            assert index.search(queries, k) == [hits[:k] for hits in expected]  # type: ignore[index]


class Reads(Sequence[Any]):
    """Passages that note which of them were read."""

    def __init__(self, passages: Sequence[Any], first: int = 0, seen: list[int] | None = None) -> None:
        self._passages, self._first, self.seen = passages, first, [] if seen is None else seen

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Reads(self._passages[at], self._first + (at.start or 0), self.seen)
        self.seen.append(self._first + at)
        return self._passages[at]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


@pytest.mark.parametrize(("phase", "after"), [("reading", 200), ("merging", 1)])
def test_killed_it_goes_on_after_the_last_shard(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, phase: str, after: int
) -> None:
    corpus = mixed_corpus()
    (tmp_path / "corpus.pickle").write_bytes(pickle.dumps(corpus))
    code = f"""
        import os, pickle, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from searchgym.corpora.bm25 import build as bm25_build
        from searchgym.corpora.bm25 import shards
        from searchgym.corpora.indexing import backend
        from searchgym.corpora.bm25.index import open_bm25
        shards.SHARD_WORDS, shards._REPORT_EVERY, bm25_build._MERGED_AT_ONCE = 800, 1, 500
        def die(phase, done, total):
            if phase == {phase!r} and done >= {after}:
                os.kill(os.getpid(), signal.SIGKILL)
        backend.quiet = die
        open_bm25(pickle.load(open({str(tmp_path / "corpus.pickle")!r}, "rb")))
    """
    done = preloaded.run([sys.executable, "-c", textwrap.dedent(code)], env=os.environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (work,) = (home / "cache" / "bm25").glob(".*.part")
    finished = sorted(work.glob("shards/?????"))
    assert len(finished) > 3
    end = json.loads((finished[-1] / "shard.json").read_text())["end"]
    monkeypatch.setattr(shards, "SHARD_WORDS", 800)
    monkeypatch.setattr(bm25_build, "_SAMPLE", 3)  # passages 0, 100 and 200 are read for the estimate
    plain, corpus.passages = corpus.passages, Reads(corpus.passages)
    index = open_bm25(corpus)
    assert set(corpus.passages.seen) == {
        0,
        100,
        200,
        end - 1,
        *range(end, 300),
    }  # one before, to see the order
    assert not work.exists()
    corpus.passages = plain
    (entry,) = (path.parent for path in home.rglob("bm25.json"))
    monkeypatch.undo()
    expected = built(corpus, tmp_path / "whole")
    assert {name: content for name, content in files(entry).items() if name in expected} == expected
    assert index.search(["river w1é"], 300) == BM25.build(corpus).search(["river w1é"], 300)


@pytest.mark.parametrize("name", ["positions", "counts", "lengths", "frequencies", "shard.json"])
def test_a_torn_shard_and_those_after_it_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    corpus = mixed_corpus()
    whole = built(corpus, tmp_path / "whole")
    monkeypatch.setattr(shards, "SHARD_WORDS", 1000)
    place = tmp_path / "again"
    place.mkdir()

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "merging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_table(corpus, SETTINGS, place, stop)
    torn = place / "shards" / "00002" / name
    torn.write_bytes(torn.read_bytes()[:-3])
    (place / "shards" / "00007.tmp").mkdir()
    build_table(corpus, SETTINGS, place, quiet)
    assert files(place) == whole


def test_a_border_between_shards_hides_no_disorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = mixed_corpus(40)
    swapped = [*corpus.passages]
    swapped[20], swapped[21] = swapped[21], swapped[20]
    corpus.passages = swapped
    for words in (1, 50):
        monkeypatch.setattr(shards, "SHARD_WORDS", words)
        with pytest.raises(CorpusError, match="not sorted by id: 'p020' follows 'p021'"):
            built(corpus, tmp_path / f"{words}")


def test_lengths_are_lucenes() -> None:
    """Some values of `SmallFloat.byte4ToInt`, as Lucene 9 gives them."""
    known = {
        0: 0,
        1: 1,
        23: 23,
        24: 24,
        39: 39,
        40: 40,
        41: 42,
        47: 54,
        48: 56,
        49: 60,
        56: 88,
        64: 152,
        80: 536,
    }
    assert {code: int(LENGTHS[code]) for code in known} == known
    assert LENGTHS[255] == 2_013_265_944
    assert (np.diff(LENGTHS) > 0).all()


def test_a_word_counts_255_times_at_most(make_corpus: Any) -> None:
    filler = " ".join(f"x{i}" for i in range(300))
    corpus = make_corpus([f"word {filler}", *(f"{'word ' * n}{filler}" for n in (2, 254, 255, 256, 300))])
    index = BM25.build(corpus, k1=1000, b=0)
    scores = {hit.id: hit.score for hit in index.search(["word"], 9)[0]}  # type: ignore[union-attr]
    assert (
        scores["p000"] < scores["p001"] < scores["p002"] < scores["p003"] == scores["p004"] == scores["p005"]
    )


@pytest.mark.parametrize("name", ["mixed", "country"])
def test_the_estimate_is_on_the_safe_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    corpus: Any = mixed_corpus() if name == "mixed" else open_corpus({"name": "country", "size": 1000})
    estimate = estimate_table(corpus)
    monkeypatch.setattr(shards, "SHARD_WORDS", 10_000)
    most = 0

    def look(phase: str, done: int, total: int) -> None:
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in (tmp_path / "t").rglob("*") if path.is_file()))

    (tmp_path / "t").mkdir()
    build_table(corpus, SETTINGS, tmp_path / "t", look)
    assert most < estimate.disk < 20 * most + 2**21
    assert estimate.memory < 2**28
    assert estimate.seconds is not None
    assert 0 < estimate.seconds < 60
