"""Your own corpus: passages, and questions about them, from JSONL or Parquet files.

The files are checked and packed once, into the cache; after that a corpus of any size opens in milliseconds, and a
passage is read from disk when it is accessed. Passages and questions are packed separately, so that other questions
over the same passages take seconds. docs/corpora.md describes the files.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, CorpusError, UnknownIdError
from searchgym.files import replacing
from searchgym.options import choice
from searchgym.records.question import Hop, Passage, Question
from searchgym.scoring import DEFAULT_SEGMENTATION, SEGMENTATIONS

from ..indexing.cache import cached_directory, home
from ..indexing.disk import require_disk
from .fields import SPLITS, Notes, Source, read_passage, read_question
from .gold import gold_facts, gold_ids, passages_by_title
from .lines import SUFFIXES, Line, read_lines
from .packing import Packed, PassageIds, PassagePacker, content_hash, decode_passage, packed_size, save_rows

__all__ = ["JsonlCorpus", "find_passages", "find_questions", "open_jsonl", "split_of"]

_FORMAT = 3
_SUGGEST_AMONG = 5_000  # ids compared for a suggestion; comparing millions would take minutes
_CHECK_DISK_FROM = 100_000_000  # bytes to pack from which the free disk space is checked first


class JsonlCorpus:
    """A corpus read from files; implements `searchgym.Corpus`. Created by `open_jsonl` and `open_hub`.

    Attributes:
        name: the name of the passages' directory or file.
        hash: digest of the passages: ids, titles and texts, in order of id.
        passages: all passages, in order of id; each is read from disk when it is accessed.
        splits: the splits that have questions, in the order train, dev, test.
        segmentation: what F1 and substring match count as a word.
        facts: facts about the corpus, as JSON data: the numbers of passages, of questions, of questions with gold
            passages and of skipped lines, where the files come from, and in `notes` the numbers of lines that were
            skipped or read in another way than written, by reason.
    """

    def __init__(
        self,
        name: str,
        passages: Sequence[Source],
        questions: Sequence[Source],
        reopen: tuple[Any, ...],
        origin: dict[str, Any] | None = None,
        segmentation: str = DEFAULT_SEGMENTATION,
    ) -> None:
        """Open the packed files, after packing them at the first call.

        Args:
            name: the corpus's name.
            passages: files of passages, together one corpus.
            questions: files of questions about them.
            reopen: (function, arguments) with which another process opens it again.
            origin: where the files come from, as JSON data; part of `facts`.
            segmentation: what F1 and substring match count as a word; see `searchgym.scoring.SEGMENTATIONS`.

        Raises:
            CorpusError: a line is bad; says which, why and what to do. Nothing is kept.
            ConfigError: an unknown segmentation, or too little disk space.
        """
        self.segmentation = choice("segmentation", segmentation, SEGMENTATIONS)
        store = cached_directory(
            "passages", _key(passages), lambda at: _build_passages(passages, at), lazy=("passages.*",)
        )
        packed = json.loads((store / "corpus.json").read_text("utf-8"))
        self.name = name
        self.hash: str = packed["hash"]
        self._passages = Packed(store, "passages", decode_passage)
        key = {**_key(questions), "corpus": self.hash}
        self._store = cached_directory(
            "questions",
            key,
            lambda at: _build_questions(questions, self._passages, at),
            lazy=("questions.bin", "questions.npy"),
        )
        packed_questions = json.loads((self._store / "questions.json").read_text("utf-8"))
        self._ranges: dict[str, list[int]] = packed_questions["splits"]
        self._questions = Packed(self._store, "questions", _question)
        self._reopen = reopen
        self.facts: dict[str, Any] = {
            "name": name,
            "hash": self.hash,
            "passages": len(self._passages),
            "passages_passed_over": packed["passed_over"],
            "questions": {split: end - start for split, (start, end) in self._ranges.items()},
            "questions_with_gold_passages": packed_questions["supported"],
            "questions_passed_over": packed_questions["passed_over"],
            "notes": {"passages": packed["notes"], "questions": packed_questions["notes"]},
            "files": [str(source.file) for source in (*passages, *questions)],
            "origin": origin or {},
        }

    @property
    def passages(self) -> Sequence[Passage]:
        return self._passages

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._ranges)

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of a split, in the order of the files; raises `UnknownIdError`."""
        if split not in self._ranges:
            hint = "Add questions.jsonl[.gz], or name questions with the option `questions`."
            hint = "" if self._ranges else f"Corpus {self.name!r} was opened without questions. {hint}"
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

    def __reduce__(self) -> tuple[Any, ...]:  # a worker maps the same files
        return self._reopen


def open_jsonl(
    path: str | os.PathLike[str],
    split: str = "train",
    questions: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    segmentation: str = DEFAULT_SEGMENTATION,
) -> JsonlCorpus:
    """Open a corpus of files; the entry point `jsonl` of `searchgym.corpora`.

    Args:
        path: a directory with `passages.jsonl` and, optionally, `questions.jsonl`, or a file of passages. Files
            may be `.jsonl`, `.jsonl.gz` or `.parquet`.
        split: the split of questions without one: "train", "dev" or "test".
        questions: other questions, instead of those in the directory: a file, or a question set, which is a directory
            with files like `train.jsonl` and `dev.jsonl`; or several of these.
        segmentation: what F1 and substring match count as a word; see `searchgym.scoring.SEGMENTATIONS`.

    Raises:
        CorpusError: a file is missing or a line is bad; says which, why and what to do. Nothing is kept.
        ConfigError: an unknown split or segmentation, or too little disk space.
    """
    choice("split", split, SPLITS)
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"path is {path!r}: give the directory that contains passages.jsonl[.gz]")
    place = Path(path).expanduser().resolve()
    passages = find_passages(place)
    if questions is None:
        own = _find(place, "questions") if place.is_dir() else None
        sources = [Source(own, split)] if own is not None else []
    else:
        several = [questions] if isinstance(questions, str | os.PathLike) else questions
        sources = [source for one in several for source in find_questions(Path(one).expanduser(), split)]
    names = [place] if questions is None else [place, *(Path(one).expanduser().resolve() for one in several)]
    arguments = (str(place), split, None if questions is None else list(map(str, names[1:])), segmentation)
    label = "+".join(name.name.split(".")[0] for name in names)
    return JsonlCorpus(label, [passages], sources, (open_jsonl, arguments), segmentation=segmentation)


def find_passages(place: Path) -> Source:
    """The file of passages at a path; raises `CorpusError` if there is none."""
    if place.is_file() and place.name.endswith(SUFFIXES):
        return Source(place)
    if not place.is_dir():
        raise CorpusError(
            f"{place} is not a directory or a {', '.join(SUFFIXES)} file: give one with passages"
        )
    found = _find(place, "passages")
    if found is None:
        near = ", ".join(sorted(file.name for file in place.glob("passages*")))
        there = f" It has {near}, which is not read." if near else ""
        raise CorpusError(f"{place} has no passages.jsonl or passages.jsonl.gz: put one there.{there}")
    return Source(found)


def find_questions(
    place: Path, split: str = "train", *, name: str = "", foreign: bool = False
) -> list[Source]:
    """The files of questions at a path: a file, or a set of them in a directory, one for each split.

    Args:
        place: the path.
        split: the split of questions without one, if the file is not named after a split.
        name: of the set; "" for the directory's name. Only the ids of a set begin with it.
        foreign: see `Source`.

    Raises:
        CorpusError: there are none.
    """
    place = place.resolve()
    if place.is_file() and place.name.endswith(SUFFIXES):
        return [Source(place, split_of(place.name) or split, "", foreign)]
    if place.is_dir():
        own = _find(place, "questions")
        if own is not None:
            return [Source(own, split, "", foreign)]
        files = [f for f in sorted(place.iterdir()) if f.name.endswith(SUFFIXES) and split_of(f.name)]
        files.sort(key=lambda file: SPLITS.index(split_of(file.name)))
        if files:
            return [Source(file, split_of(file.name), name or place.name, foreign) for file in files]
    raise CorpusError(
        f"{place} contains no questions: give a {', '.join(SUFFIXES)} file, or a directory with questions.jsonl or "
        "with train.jsonl, dev.jsonl, test.jsonl"
    )


def split_of(name: str) -> str:
    """The split that a file's name begins with ("validation-00000-of-00001.parquet": dev); "" for none."""
    for start, split in (("train", "train"), ("dev", "dev"), ("valid", "dev"), ("test", "test")):
        if name.lower().startswith(start):
            return split
    return ""


def _key(sources: Sequence[Source]) -> dict[str, Any]:
    """The cache key of packed files: sizes and modification times, as hashing all texts at each start takes a minute."""
    files = []
    for source in sources:
        facts = source.file.stat()
        about = [source.split, source.set, source.foreign]
        files.append([str(source.file), facts.st_size, facts.st_mtime_ns, *about])
    return {"format": _FORMAT, "files": files}


def _question(data: bytes | mmap.mmap, row: list[int]) -> Question:
    return _decode(data[row[0] : row[1]])


def _decode(data: bytes) -> Question:
    fields = json.loads(data)
    fields["chain"] = tuple(
        Hop(query, relation, tuple(passage_ids), bridge)
        for query, relation, passage_ids, bridge in fields["chain"]
    )
    return Question(**{**fields, **{name: tuple(fields[name]) for name in ("answers", "supporting_ids")}})


def _encode(question: Question) -> bytes:
    fields = dataclasses.asdict(question)
    fields["chain"] = [list(dataclasses.astuple(hop)) for hop in question.chain]
    return json.dumps(fields, default=str).encode()  # a Parquet file may contain dates


def _build_passages(sources: Sequence[Source], store: Path) -> None:
    need = packed_size((source.file.name, source.file.stat().st_size) for source in sources)
    if need >= _CHECK_DISK_FROM:
        require_disk(home(), need, f"packing {sources[0].file.name}")
    packer, notes, passed_over = PassagePacker(store), Notes(), 0
    first: Line | None = None
    for source in sources:
        for line in read_lines(source.file, by_content=source.foreign):
            first = first or line
            passage = read_passage(line, source, notes)
            if passage is None:
                passed_over += 1
            else:
                packer.add(passage, line)
    if packer.finish() == 0:
        raise _nothing(sources[0].file, "passages", first, notes)
    facts = {
        "hash": content_hash(Packed(store, "passages", decode_passage)),
        "passed_over": passed_over,
        "notes": notes,
    }
    (store / "corpus.json").write_text(json.dumps(facts), "utf-8")


def _build_questions(sources: Sequence[Source], passages: Packed[Passage], store: Path) -> None:
    """Check the questions and pack them by split."""
    lines: dict[str, Line] = {}
    ids = PassageIds(passages)
    titles: set[str] = set()
    splits: list[str] = []
    notes = Notes()
    # What belongs together, a file or the files of a set: its first line, and how many questions it has.
    firsts: dict[Path, Line | None] = {}
    counts: Counter[Path] = Counter()
    supported = passed_over = 0
    file = store / "questions.bin"
    with _Writer(file) as out:
        for source in sources:
            place = source.file.parent if source.set else source.file
            firsts.setdefault(place, None)
            for line in read_lines(source.file, by_content=source.foreign):
                firsts[place] = firsts[place] or line
                question = read_question(line, ids, source, notes)
                if question is None:
                    passed_over += 1
                    continue
                counts[place] += 1
                _note(lines, question.id, line)
                splits.append(question.split)
                if question.supporting_ids:
                    supported += 1
                else:
                    titles.update(fact.title for fact in gold_facts(question.metadata))
                out.write(_encode(question))
    for place, first in firsts.items():
        if not counts[place]:
            raise _nothing(place, "questions", first, notes)
    if titles:
        out, found = _find_gold(file, out, titles, passages)
        supported += found
    order = sorted(range(len(splits)), key=lambda position: SPLITS.index(splits[position]))
    save_rows(store / "questions.npy", out.offsets, 2, order)
    tasks = list(lines)
    (store / "task_ids.json").write_text(json.dumps([tasks[position] for position in order]), "utf-8")
    ranges = _ranges([splits[position] for position in order])
    facts = {"splits": ranges, "supported": supported, "passed_over": passed_over, "notes": notes}
    (store / "questions.json").write_text(json.dumps(facts), "utf-8")


def _nothing(place: Path, what: str, first: Line | None, notes: Notes) -> CorpusError:
    """The error for files without a single usable line."""
    if first is None:
        return CorpusError(f"{place} has no {what}: put at least one line in it")
    reasons = "; ".join(f"{reason} ({count:,})" for reason, count in notes.items() if "skipped" in reason)
    fields = ", ".join(sorted(first.fields)[:20])
    wanted = "text or contents" if what == "passages" else "question, and answers or golden_answers"
    return CorpusError(
        f"{place} has no usable {what}: {reasons}. Its first line has the fields {fields}: give lines with {wanted}"
    )


def _find_gold(
    file: Path, written: _Writer, titles: set[str], passages: Packed[Passage]
) -> tuple[_Writer, int]:
    """Write the questions again, with gold passages for those that name articles; returns the number of these."""
    by_title = passages_by_title(passages, titles)
    found = 0
    with replacing(file, alone=True) as again, file.open("rb") as first, _Writer(again) as out:
        for start, end in written.rows():
            question = _decode(first.read(end - start))
            if not question.supporting_ids:
                gold = gold_ids(gold_facts(question.metadata), by_title, passages)
                question = dataclasses.replace(question, supporting_ids=gold)
                found += bool(gold)
            out.write(_encode(question))
    return out, found


class _Writer:
    """Appends records to a file and remembers where each begins and ends."""

    def __init__(self, file: Path) -> None:
        self._out = file.open("wb")
        self._end = 0
        self.offsets = array("q")

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self.offsets.extend((self._end, self._end + len(data)))
        self._end += len(data)

    def rows(self) -> Iterable[tuple[int, int]]:
        return zip(self.offsets[::2], self.offsets[1::2], strict=True)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()


def _find(directory: Path, stem: str) -> Path | None:
    found = [file for suffix in SUFFIXES if (file := directory / f"{stem}{suffix}").exists()]
    if len(found) > 1:
        raise CorpusError(f"{directory} has both {found[0].name} and {found[1].name}: remove one")
    return found[0] if found else None


def _note(lines: dict[str, Line], id: str, line: Line) -> None:
    here = Line(line.file, line.number, {})  # without the fields, because these objects stay in memory
    first = lines.setdefault(id, here)
    if first is not here:
        where = "" if first.file == line.file else f" of {first.file}"
        reason = f"id {id[:100]!r} was already used in {first.unit} {first.number}{where}"
        either = ", or open one of the two files" if where else ""
        raise line.error(reason, f"Give each line its own id{either}.")


def _ranges(splits: list[str]) -> dict[str, list[int]]:
    """[first, end) of every split in a list of splits that is grouped by split."""
    return {
        split: [splits.index(split), splits.index(split) + splits.count(split)]
        for split in SPLITS
        if split in splits
    }
