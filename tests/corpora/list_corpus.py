"""A corpus held in memory, in a module of its own so that it pickles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from searchgym.corpora.indexing.sealed import digest
from searchgym.errors import UnknownIdError
from searchgym.records.question import Passage, Question


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
