"""Parts that the tests of tapes share: a bare corpus, prepared results, and tapes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchgym.judges import Grade, Judge, Trace
from searchgym.records.question import Corpus, Passage, Question
from searchgym.records.retriever import Retriever, SearchResult
from searchgym.tape.recording import recording, replaying

QUESTION = Question("q", "Who?", ("Anna",), "dev", supporting_ids=("p0",))


class Pages:
    """A corpus of nothing but its name and hash."""

    def __init__(self, hash: str = "h") -> None:
        self.name, self.hash, self.splits = "pages", hash, ("dev",)
        self.passages: Sequence[Passage] = ()

    def questions(self, split: str) -> list[Question]:
        return [QUESTION]

    def question(self, task_id: str) -> Question:
        return QUESTION


class Scripted:
    """A retriever and judge that gives prepared results, in order."""

    name, index_hash = "scripted", "s"

    def __init__(self, *results: Any) -> None:
        self.results = list(results)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return [self.results.pop(0) for _ in queries]

    def judge(self, traces: Sequence[Trace]) -> list[Any]:
        return [self.results.pop(0) for _ in traces]


class ScriptedGrader(Scripted):
    """The same, with grades."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        return [self.results.pop(0) for _ in questions]


def record(path: Path, retriever: Retriever, judge: Judge | None = None, corpus: Corpus | None = None) -> Any:
    return recording(path, corpus or Pages(), retriever, judge, top_k=3)


def replay(
    path: Path, retriever: Any = "fixed", judge: Any = None, corpus: Corpus | None = None, top_k: int = 3
) -> Any:
    return replaying(path, corpus or Pages(), top_k=top_k, retriever_spec=retriever, judge_spec=judge)
