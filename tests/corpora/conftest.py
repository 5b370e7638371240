"""What the corpora tests share: a home of their own and a corpus made of plain lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from searchgym.corpora.cache import digest
from searchgym.errors import UnknownIdError
from searchgym.question import Passage, Question


class ListCorpus:
    """A corpus held in memory; ids are p000, p001, … in the order given."""

    def __init__(self, texts: Iterable[str | tuple[str, str]], questions: Iterable[Question] = ()) -> None:
        pairs = [("", text) if isinstance(text, str) else text for text in texts]
        self.name = "list"
        width = max(3, len(str(len(pairs))))
        self.passages: Sequence[Passage] = [Passage(f"p{i:0{width}}", *pair) for i, pair in enumerate(pairs)]
        self.hash = digest([[p.id, p.title, p.text] for p in self.passages])
        self._questions = list(questions)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(question.split for question in self._questions))

    def questions(self, split: str) -> Sequence[Question]:
        if split not in self.splits:
            raise UnknownIdError("split", split, self.splits)
        return [question for question in self._questions if question.split == split]

    def question(self, task_id: str) -> Question:
        for question in self._questions:
            if question.id == task_id:
                return question
        raise UnknownIdError("task", task_id, [question.id for question in self._questions])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache home that no other test sees."""
    directory = tmp_path / "home"
    monkeypatch.setenv("SEARCHGYM_HOME", str(directory))
    return directory


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
