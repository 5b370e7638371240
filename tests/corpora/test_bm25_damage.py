"""A damaged BM25 index: a typed error that names the file, also where checksums were made to fit the damage."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from list_corpus import ListCorpus

from searchgym.conformance import check_retriever
from searchgym.corpora import build_index, open_index
from searchgym.corpora.bm25 import index as module
from searchgym.corpora.bm25 import layout, loader
from searchgym.corpora.bm25.index import BM25, BM25_BACKEND
from searchgym.corpora.bm25.layout import BITMAP
from searchgym.corpora.indexing import sealed
from searchgym.corpora.indexing.checksums import BLOCK
from searchgym.errors import DamagedFileError, RetrievalError, SearchGymError

SEARCHES = [
    "numpy",
    pytest.param(
        "compiled",
        marks=pytest.mark.skipif(not loader.installed(), reason="needs numba: pip install searchgym[fast]"),
    ),
]
FILES = ("lengths.npy", "places.npy", "blocks.npy", "postings.bin")


@pytest.fixture(scope="module")
def corpus() -> ListCorpus:
    rng = random.Random(0)
    return ListCorpus(
        " ".join(f"w{int(rng.paretovariate(0.7)) % 900}" for _ in range(60)) for _ in range(3000)
    )


@pytest.fixture(scope="module", params=["plain", "packed"])
def intact(
    corpus: ListCorpus, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Postings as small indexes have them, and as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "packed":
            patch.setattr(layout, "_PLAIN_UP_TO", 0)
        yield build_index(BM25_BACKEND, corpus, tmp_path_factory.mktemp("index") / "i")


@pytest.fixture
def copy(intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sealed, "sync", lambda path: None)  # the disk need not have it
    return shutil.copytree(intact, tmp_path / "copy")


@pytest.fixture(params=SEARCHES)
def searched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compiled":
        assert loader.wait()
        monkeypatch.setattr(module, "_COMPILED_FROM", 0)
    else:
        monkeypatch.setattr(module, "_COMPILED_FROM", 10**9)


def reseal(place: Path) -> None:
    facts = json.loads((place / "manifest.json").read_text())
    sealed.seal(place, facts["name"], facts["key"], BM25_BACKEND.lazy)


def offset(file: Path) -> int:
    """Where the numbers of a file begin."""
    if file.suffix != ".npy":
        return 0
    array = np.load(file, mmap_mode="r")
    return file.stat().st_size - array.nbytes


QUERIES = ["w1 w2 w17", "w3 w3 w450", "w899 w5", "w1", "w77 w78 w79 w80"]


@pytest.mark.parametrize("name", [*FILES, "terms.txt"])
@pytest.mark.usefixtures("searched")
def test_every_flipped_bit_is_found_when_it_is_read(
    corpus: ListCorpus, intact: Path, copy: Path, name: str
) -> None:
    expected = open_index(intact, corpus).search(QUERIES, 5)
    file, rng = copy / name, random.Random(name)
    content = file.read_bytes()
    for _ in range(12):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        (copy / "damaged.txt").unlink(missing_ok=True)
        try:
            results = open_index(copy, corpus).search(QUERIES, 5)
        except DamagedFileError as error:
            assert name in str(error)  # noqa: PT017
            continue
        for found, right in zip(results, expected, strict=True):
            if isinstance(found, RetrievalError):
                assert name in str(found)
            else:  # what it needs lies in other blocks
                assert found == right


@pytest.mark.usefixtures("searched")
def test_other_queries_are_answered(corpus: ListCorpus, intact: Path, copy: Path) -> None:
    file = copy / "postings.bin"
    content = bytearray(file.read_bytes())
    assert len(content) > BLOCK
    content[-1] ^= 1
    file.write_bytes(content)
    index = open_index(copy, corpus)
    results = index.search([f"w{n}" for n in range(900)], 3)
    failed = [result for result in results if isinstance(result, RetrievalError)]
    assert 0 < len(failed) < 900
    assert all("postings.bin is damaged: bytes" in str(error) for error in failed)
    for found, right in zip(
        results, open_index(intact, corpus).search([f"w{n}" for n in range(900)], 3), strict=True
    ):
        assert isinstance(found, RetrievalError) or found == right
    with pytest.raises(SearchGymError, match=r"postings\.bin is damaged"):  # it is not opened again
        open_index(copy, corpus)


WRONG: dict[str, Callable[[Any], None]] = {
    "a passage beyond the corpus": lambda array: array.__setitem__(slice(-2, None), 255),
    "passages far beyond": lambda array: array.__setitem__(slice(None), 255),
    "descending": lambda array: array.__setitem__(slice(None), array[::-1].copy()),
    "all the same": lambda array: array.__setitem__(slice(None), 0),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.usefixtures("searched")
def test_postings_that_lead_out_of_the_corpus_are_refused_although_they_are_sealed(
    corpus: ListCorpus, intact: Path, copy: Path, wrong: str
) -> None:
    """Of every list of every form: the offsets, and the directory."""
    sound = open_index(intact, corpus)
    assert isinstance(sound, BM25)
    content = np.fromfile(copy / "postings.bin", np.uint8)
    forms = set()
    for number in range(900):
        for _, _, _, term in sound._query_terms(f"w{number}"):
            for one in term.entry.lists:
                forms.add(one.form)
                if one.form != BITMAP:
                    begin = one.start + 4 * ((3000 - 1) >> one.form)
                    WRONG[wrong](content[begin : begin + one.size * one.form // 8])
                else:
                    WRONG[wrong](content[one.start : one.start + 375])
    assert forms in ({16}, {BITMAP, 14})
    content.tofile(copy / "postings.bin")
    reseal(copy)
    index = open_index(copy, corpus)
    ids = {passage.id for passage in corpus.passages}
    for k in (1, 3000):
        for result in index.search([*QUERIES, " ".join(f"w{n}" for n in range(200))], k):
            if isinstance(result, RetrievalError):
                assert "postings.bin is damaged: postings are impossible" in str(result)
            else:
                assert all(hit.id in ids for hit in result)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("number", [-1, 2**62, -(2**62), 255])
@pytest.mark.usefixtures("searched")
def test_no_number_of_a_sealed_index_makes_it_read_elsewhere(
    corpus: ListCorpus, copy: Path, name: str, number: int
) -> None:
    file = copy / name
    content = bytearray(file.read_bytes())
    for place in (offset(file), (offset(file) + len(content)) // 2, len(content) - 8):
        content[place : place + 8] = number.to_bytes(8, "little", signed=True)
    file.write_bytes(content)
    reseal(copy)
    try:
        for result in open_index(copy, corpus).search([f"w{n}" for n in range(0, 900, 11)], 20):
            assert isinstance(result, list | RetrievalError)
    except SearchGymError as error:
        assert "damaged" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "facts", ["{", "[]", "{}", '{"passages": 10, "words": 5}', '{"passages": -1, "words": 5}', '{"passages": 3000, "words": 0}',
              '{"passages": "3000", "words": true}', '{"passages": 3000, "words": 5}', '{"passages": 3000, "words": 5, "documents": 0}',
              '{"passages": 3000, "words": 5, "documents": 3001}'],
)  # fmt: skip
def test_totals_that_do_not_fit_are_refused(corpus: ListCorpus, copy: Path, facts: str) -> None:
    (copy / "bm25.json").write_text(facts)
    reseal(copy)
    with pytest.raises(SearchGymError, match=r"bm25\.json|the BM25 index in|lengths\.npy|documents"):
        open_index(copy, corpus)


def test_an_index_without_checksums_is_compared_completely(corpus: ListCorpus, copy: Path) -> None:
    """As version 0.1.0 sealed it."""
    (copy / "checksums.u32").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["checksum"], manifest["files"]["checksums.u32"]
    for facts in manifest["files"].values():
        facts.pop("lazy", None)
    (copy / "manifest.json").write_text(json.dumps({**manifest, "schema": 1}))
    index = open_index(copy, corpus)
    assert isinstance(index, BM25)
    check_retriever(index, corpus)
    content = bytearray((copy / "postings.bin").read_bytes())
    content[-1] ^= 1
    (copy / "postings.bin").write_bytes(content)
    with pytest.raises(SearchGymError, match=r"postings\.bin has changed since it was written"):
        open_index(copy, corpus)


@pytest.mark.parametrize("name", ["manifest.json", "index.json", "bm25.json", "checksums.u32"])
def test_no_flipped_bit_of_a_small_file_is_overlooked(
    corpus: ListCorpus, intact: Path, copy: Path, name: str
) -> None:
    expected = open_index(intact, corpus).search(QUERIES, 5)
    content = (copy / name).read_bytes()
    rng = random.Random(1)
    for _ in range(25):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (copy / name).write_bytes(damaged)
        try:
            found = open_index(copy, corpus).search(QUERIES, 5)
        except SearchGymError:
            continue
        assert found == expected  # e.g. a space of JSON that became another one
