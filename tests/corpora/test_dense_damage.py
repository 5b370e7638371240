"""Dense indexes that are damaged, and encoders that name code: refused, never run."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import skip_without
from list_corpus import ListCorpus

skip_without("sentence_transformers", "the extra dense is not installed")
pytest.importorskip("faiss", reason="the extra dense is not installed")

from tiny_encoder import write_encoder  # noqa: E402

from searchgym.corpora.dense.index import DENSE_BACKEND  # noqa: E402
from searchgym.corpora.indexing import sealed  # noqa: E402
from searchgym.corpora.indexing.backend import build_index, open_index  # noqa: E402
from searchgym.errors import ConfigError, SearchGymError  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_encoder(tmp_path_factory.mktemp("encoder") / "model"))


@pytest.fixture(scope="module")
def large_corpus() -> ListCorpus:
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdkl" for b in "aeiou" for c in "mnrs"]
    return ListCorpus(" ".join(rng.choices(words, k=rng.randint(2, 20))) for _ in range(250))


# -- code beside a model -----------------------------------------------------------------------------------------


def evil(model: str, place: Path, file: str, content: Any) -> Path:
    """A copy of a model that names code, which writes a file when it is imported."""
    copy = shutil.copytree(model, place / "evil")
    (copy / "evil_code.py").write_text(f"open({str(place / 'ran')!r}, 'w').close()\nclass Module: pass\n")
    (copy / file).parent.mkdir(exist_ok=True)
    (copy / file).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "evil_code.Module"}]),
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers_evil.Module"}]),
        ("modules.json", [{"idx": 0, "name": "0", "path": ""}]),
        ("modules.json", {"type": "evil_code.Module"}),
        ("router_config.json", {"types": {"query_0": "evil_code.Module"}}),
        ("1_Router/router_config.json", {"types": {"query_0": "os.path"}}),
        ("2_Dense/config.json", {"in_features": 3, "activation_function": "evil_code.Module"}),
    ],
)
def test_code_that_lies_beside_a_model_is_never_run(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Any, file: str, content: Any
) -> None:
    copy = evil(model, tmp_path, file, content)
    monkeypatch.syspath_prepend(str(copy))
    with pytest.raises(
        ConfigError,
        match=r"names the code .*: only models whose code is part of (sentence_transformers|torch)",
    ):
        DENSE_BACKEND(small_corpus, encoder=str(copy))
    assert not (tmp_path / "ran").exists()
    assert not [name for name in sys.modules if "evil" in name]


# -- damaged indexes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_links_and_sizes_that_lead_out_of_the_index_are_refused(
    kind: str, model: str, large_corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when checksums and manifest were made to fit the damage."""
    monkeypatch.setattr(sealed, "sync", lambda path: None)
    place = build_index(
        DENSE_BACKEND,
        large_corpus,
        tmp_path / "i",
        {"encoder": model, "kind": kind, "nlist": 4 if kind == "ivf" else None},
    )
    expected = open_index(place, large_corpus).search(["bam", "repeated line 1"], 3)
    file = place / "index-00000.faiss"
    content = file.read_bytes()
    rng = random.Random(0)
    for turn in range(8):
        damaged = bytearray(content)
        if turn % 2:
            at = rng.randrange(len(content) - 8)
            damaged[at : at + 8] = rng.choice((2**31 - 1, -(2**31), 2**62)).to_bytes(8, "little", signed=True)
        else:
            damaged[rng.randrange(400)] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        facts = json.loads((place / "manifest.json").read_text())
        for resealed in (False, True):
            if resealed:
                sealed.seal(place, facts["name"], facts["key"], DENSE_BACKEND.lazy)
            (place / "damaged.txt").unlink(missing_ok=True)
            try:
                found = open_index(place, large_corpus).search(["bam", "repeated line 1"], 3)
            except SearchGymError:
                continue
            assert resealed or found == expected
        file.write_bytes(content)
        (place / "damaged.txt").unlink(missing_ok=True)
        sealed.seal(place, facts["name"], facts["key"], DENSE_BACKEND.lazy)
