"""What the corpora tests share: a home of their own and a corpus made of plain lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from list_corpus import ListCorpus

from searchgym.records.question import Question


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache home that no other test sees."""
    directory = tmp_path / "home"
    monkeypatch.setenv("SEARCHGYM_HOME", str(directory))
    return directory


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a small sentence encoder."""
    pytest.importorskip("sentence_transformers", reason="the extra dense is not installed")
    from tiny_encoder import write_encoder

    return str(write_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


@pytest.fixture
def make_corpus() -> Any:
    return ListCorpus


@pytest.fixture
def small_corpus() -> ListCorpus:
    """Different passages and three groups of identical ones, of 2, 40 and 5."""
    towns = [
        f"Town number {i} lies on the river Aln{i % 7}, near the hills of Bor{i % 5}." for i in range(30)
    ]
    twins = ["The river Aln0 floods every spring."] * 2 + ["A silent copy of the same line."] * 40
    titled = [("Mira Voss", "An engineer born in Aln3, who built the bridge of Bor2.")] * 5
    return ListCorpus(
        [*towns, *twins, *titled],
        [
            Question(
                "q1", "Who built the bridge of Bor2?", ("Mira Voss",), "train", supporting_ids=("p072",)
            ),
            Question("q2", "When does the river Aln0 flood?", ("every spring", "spring"), "dev"),
        ],
    )
