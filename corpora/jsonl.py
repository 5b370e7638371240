"""Bring your own corpus: a directory with `passages.jsonl[.gz]` and, optionally, `questions.jsonl[.gz]`.

The files are checked and packed once, into the cache; after that a corpus opens in milliseconds whatever its
size, and a passage is read from disk when it is asked for. docs/corpora.md has the schema.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, CorpusError, UnknownIdError
from searchgym.question import Hop, Passage, Question

from .cache import cached_directory
from .jsonl_lines import SPLITS, Line, read_lines, read_passage, read_question

__all__ = ["JsonlCorpus", "open_jsonl"]

_FORMAT = 1
_SUGGEST_AMONG = 5_000  # ids compared for a "did you mean"; comparing millions would take minutes
T = TypeVar("T")


class JsonlCorpus:
    """A corpus read from JSONL files; implements `searchgym.Corpus`. Made by `open_jsonl`.

    Attributes:
        name: the name of the directory.
        hash: digest of the passages: ids, titles and texts, in order of id.
        path: the directory of the JSONL files.
        passages: all passages, in order of id; each is read from disk when it is asked for.
        splits: those of train, dev and test that have questions.
    """

    def __init__(self, path: Path, default_split: str, store: Path) -> None:
        facts = json.loads((store / "corpus.json").read_text("utf-8"))
        self.name = path.name
        self.hash: str = facts["hash"]
        self.path = path
        self._default_split = default_split
        self._store = store
        self._ranges: dict[str, list[int]] = facts["splits"]
        self._questions = _Packed(store, "questions", _question)
        self._passages = _Packed(store, "passages", _passage)

    @property
    def passages(self) -> Sequence[Passage]:
        return self._passages

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._ranges)

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of a split, in the order of the file; raises `UnknownIdError`."""
        if split not in self._ranges:
            hint = "" if self._ranges else f"{self.path} has no questions.jsonl[.gz]."
            raise UnknownIdError("split", split, self._ranges, hint)
        return self._questions[slice(*self._ranges[split])]

    def question(self, task_id: str) -> Question:
        """One question of any split; raises `UnknownIdError`."""
        position = self._positions.get(task_id)
        if position is None:
            raise UnknownIdError("task", task_id, list(self._positions)[:_SUGGEST_AMONG])
        return self._questions[position]

    @cached_property
    def _positions(self) -> dict[str, int]:
        ids = json.loads((self._store / "task_ids.json").read_text("utf-8"))
        return {id: position for position, id in enumerate(ids)}

    def __reduce__(self) -> tuple[Any, ...]:  # a worker maps the files itself
        return (open_jsonl, (self.path, self._default_split))


def open_jsonl(path: str | os.PathLike[str], split: str = "train") -> JsonlCorpus:
    """Open a corpus of JSONL files; the entry point `jsonl` of `searchgym.corpora`.

    Args:
        path: a directory with `passages.jsonl` and, optionally, `questions.jsonl`, plain or as `.jsonl.gz`.
        split: the split of questions that name none: "train", "dev" or "test".

    Raises:
        CorpusError: a file is missing or a line is bad; says which, why and what to do. Nothing is kept.
        ConfigError: no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}: use train, dev or test")
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"path={path!r}: give the directory that holds passages.jsonl[.gz]")
    directory = Path(path).expanduser().resolve()
    if not directory.is_dir():
        raise CorpusError(f"{directory} is not a directory: give one that holds passages.jsonl[.gz]")
    passages, questions = _find(directory, "passages"), _find(directory, "questions")
    if passages is None:
        raise CorpusError(f"{directory} has no passages.jsonl or passages.jsonl.gz: put one there")
    files = [file for file in (passages, questions) if file is not None]
    key = {
        "format": _FORMAT,
        "split": split,
        # What `make` goes by. Hashing the content at every start would cost a minute on a large corpus.
        "files": [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
    }

    def build(store: Path) -> None:
        _build(passages, questions, split, store)

    return JsonlCorpus(directory, split, cached_directory("jsonl", key, build))


class _Packed(Sequence[T], Generic[T]):
    """A read-only sequence of records in a memory-mapped file, decoded one at a time.

    `NAME.bin` has the bytes, `NAME.npy` one row of offsets per record: where its fields begin, and its end.
    """

    def __init__(self, store: Path, name: str, decode: Callable[[mmap.mmap, list[int]], T]) -> None:
        self._rows: NDArray[np.int64] = np.asarray(np.load(store / f"{name}.npy", mmap_mode="r"))
        self._decode = decode
        if len(self._rows):
            with (store / f"{name}.bin").open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[T]: ...
    def __getitem__(self, position: int | slice) -> T | Sequence[T]:
        if isinstance(position, slice):
            part: _Packed[T] = _Packed.__new__(_Packed)
            part.__dict__ |= self.__dict__
            part._rows = self._rows[position]
            return part
        return self._decode(self._bytes, self._rows[position].tolist())


def _passage(data: mmap.mmap, row: list[int]) -> Passage:
    id, title, text, end = row
    return Passage(data[id:title].decode(), data[title:text].decode(), data[text:end].decode())


def _question(data: mmap.mmap, row: list[int]) -> Question:
    fields = json.loads(data[slice(*row)])
    fields["chain"] = tuple(
        Hop(query, relation, tuple(passage_ids), bridge)
        for query, relation, passage_ids, bridge in fields["chain"]
    )
    return Question(**{**fields, **{name: tuple(fields[name]) for name in ("answers", "supporting_ids")}})


def _build(passages: Path, questions: Path | None, split: str, store: Path) -> None:
    """Check both files and pack them. Only ids and offsets are held in memory."""
    passage_lines: dict[str, int] = {}
    offsets = array("q")
    with (store / "passages.bin").open("wb") as out:
        for line in read_lines(passages):
            passage = read_passage(line)
            _note(passage_lines, passage.id, line)
            for field in (passage.id, passage.title, passage.text):
                offsets.append(out.tell())
                out.write(field.encode())
            offsets.append(out.tell())
    if not passage_lines:
        raise CorpusError(f"{passages} has no passages: put at least one line in it")
    ids = list(passage_lines)
    _save_rows(store / "passages.npy", offsets, 4, sorted(range(len(ids)), key=ids.__getitem__))

    task_lines: dict[str, int] = {}
    task_splits: list[str] = []
    offsets = array("q")
    with (store / "questions.bin").open("wb") as out:
        for line in read_lines(questions) if questions is not None else ():
            question = read_question(line, passage_lines, split)
            _note(task_lines, question.id, line)
            task_splits.append(question.split)
            offsets.append(out.tell())
            out.write(_question_json(question))
            offsets.append(out.tell())
    order = sorted(range(len(task_splits)), key=lambda position: SPLITS.index(task_splits[position]))
    _save_rows(store / "questions.npy", offsets, 2, order)
    tasks = list(task_lines)
    (store / "task_ids.json").write_text(json.dumps([tasks[position] for position in order]), "utf-8")
    facts = {
        "hash": _content_hash(_Packed(store, "passages", _passage)),
        "splits": _ranges([task_splits[position] for position in order]),
    }
    (store / "corpus.json").write_text(json.dumps(facts), "utf-8")


def _find(directory: Path, stem: str) -> Path | None:
    found = [file for suffix in ("jsonl", "jsonl.gz") if (file := directory / f"{stem}.{suffix}").exists()]
    if len(found) > 1:
        raise CorpusError(f"{directory} has both {found[0].name} and {found[1].name}: remove one")
    return found[0] if found else None


def _note(lines: dict[str, int], id: str, line: Line) -> None:
    first = lines.setdefault(id, line.number)
    if first != line.number:
        raise line.error(f"id {id[:100]!r} was already used in line {first}", "Give each line its own id.")


def _save_rows(file: Path, offsets: array[int], width: int, order: list[int]) -> None:
    rows = np.frombuffer(offsets, np.int64).reshape(-1, width) if offsets else np.empty((0, width), np.int64)
    np.save(file, rows[order], allow_pickle=False)


def _question_json(question: Question) -> bytes:
    fields = dataclasses.asdict(question)
    fields["chain"] = [list(dataclasses.astuple(hop)) for hop in question.chain]
    return json.dumps(fields).encode()


def _ranges(splits: list[str]) -> dict[str, list[int]]:
    """[first, end) of every split in a list of splits that is grouped by split."""
    return {
        split: [splits.index(split), splits.index(split) + splits.count(split)]
        for split in SPLITS
        if split in splits
    }


def _content_hash(passages: Iterable[Passage]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for passage in passages:
        for field in (passage.id, passage.title, passage.text):
            data = field.encode()
            state.update(len(data).to_bytes(8, "little"))
            state.update(data)
    return state.hexdigest()
