"""The fields of passage and question files: our own, or those of FlashRAG, Search-R1 and verl.

docs/corpora.md describes our own files, docs/datasets.md published question sets.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import did_you_mean
from searchgym.records.question import Hop, Passage, Question
from searchgym.scoring import exact_match

from .contents import split_contents
from .gold import count_hops
from .lines import Line, shorten

__all__ = ["SPLITS", "Notes", "Source", "read_passage", "read_question"]

SPLITS = ("train", "dev", "test")

Notes = Counter[str]
"""How many lines were skipped or read in another way than written, by reason."""

_QUESTION_FIELDS = {
    "id",
    "question",
    "answers",
    "golden_answers",
    "supporting_ids",
    "hops",
    "type",
    "split",
    "chain",
    "metadata",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file of passages or questions, with defaults for what its lines do not contain.

    Attributes:
        file: the file.
        split: the split of questions without one.
        set: the name of the question set; a prefix of the ids, because published sets number each split from 0. Empty:
            ids are used as they are.
        foreign: whether it is a published file, which the user cannot correct. Then blank passages and answers are
            skipped, numbers are accepted as ids, and a question without any answer is skipped too.
    """

    file: Path
    split: str = "train"
    set: str = ""
    foreign: bool = False


_PRINTED_LIST = re.compile(r"""\s*(?:\[\s*(['"]).*\1\s*\]|(?:np\.)?array\(\[.*\).*)\s*\Z""", re.DOTALL)
"""What `str` makes of a list of strings, or of an array: a table that was saved as text holds it in place of the list."""


def read_passage(line: Line, source: Source, notes: Notes) -> Passage | None:
    """A passage from `{id, title, text}` or `{id, title, contents}`; None for one to skip.

    Args:
        line: the line.
        source: its file.
        notes: what was skipped or read in another way is added here.

    Raises:
        CorpusError: the line cannot be used.
    """
    published = line.lacks("text") and not line.lacks("contents")
    id = _read_id(line, source, published)
    if published:
        title, text = _read_contents(line, notes)
        what = "field 'contents' after its first line, the title,"
    else:
        title, text = _read_title(line, source, notes), line.get("text", str)
        what = "field 'text'"
    if source.foreign and not text.strip():
        notes["passages without text: skipped"] += 1
        return None
    return Passage(id, title, line.check(text, what))


def _read_contents(line: Line, notes: Notes) -> tuple[str, str]:
    """Title and text of a line in FlashRAG's form."""
    contents = line.encodable(line.get("contents", str), "field 'contents'")
    given = line.get("title", str, "")
    title, text = split_contents(contents, given)
    if given.strip():
        notes["title beside contents: it is the title, contents the text"] += 1
        return line.encodable(given, "field 'title'"), text.strip()
    return title, text.strip() if "\n" in contents else text


def _read_title(line: Line, source: Source, notes: Notes) -> str:
    if line.lacks("title") and (source.foreign or "title" in line.fields):
        notes["title absent or null: read as no title"] += 1
        return ""
    title = line.fields.get("title")
    if source.foreign and (number := _whole(title)) is not None:
        notes["number as title: read as a string"] += 1
        return number
    return line.encodable(line.get("title", str), "field 'title'")


def read_question(line: Line, passage_ids: Container[str], source: Source, notes: Notes) -> Question | None:
    """A question from our fields, FlashRAG's `{id, question, golden_answers, metadata}`, or verl's; None for one to skip.

    Fields outside the schema are added to `metadata`.

    Args:
        line: the line.
        passage_ids: the ids of the corpus, which the question may refer to.
        source: its file.
        notes: what was skipped or read in another way is added here.

    Raises:
        CorpusError: the line cannot be used.
    """
    verl = _is_verl(line)
    answers = _read_answers(line, source, verl, notes)
    if answers is None:
        notes["questions without a usable answer: skipped"] += 1
        return None
    text = _verl_question(line, notes) if verl and line.lacks("question") else line.get("question", str, "")
    if source.foreign and "question" in line.fields and not text.strip():
        notes["questions without text: skipped"] += 1
        return None
    text = line.check(text, "field 'question'") if text else line.text("question")
    split = line.text("split", source.split)
    if split not in SPLITS:
        near = did_you_mean(split, SPLITS)
        raise line.error(f"split is {shorten(split)}", f"Use train, dev or test.{near}")
    hops = line.get("hops", int, 0)
    if hops < 0:
        raise line.error(f"hops is {hops}", "Use 0 if it is unknown, otherwise the number of hops.")
    metadata: dict[str, Any] = line.get("metadata", dict, {})
    kind = line.get("type", str, "")
    if not kind and isinstance(metadata.get("type"), str):
        kind = metadata["type"]
    published = source.foreign or verl or line.lacks("answers")
    return Question(
        id=_read_id(line, source, published, f"{source.split}_{_verl_index(line)}" if verl else None),
        text=text,
        answers=tuple(answers),
        split=split,
        type=line.encodable(kind, "field 'type'") or source.set or "unknown",
        hops=hops or count_hops(metadata),
        supporting_ids=_resolved(line, "supporting_ids", passage_ids, []),
        chain=tuple(
            _read_hop(line, position, entry, passage_ids)
            for position, entry in enumerate(line.get("chain", list, []))
        ),
        metadata={**metadata, **{k: v for k, v in line.fields.items() if k not in _QUESTION_FIELDS}},
    )


def _read_id(line: Line, source: Source, published: bool, default: str | None = None) -> str:
    number = _whole(line.fields.get("id")) if source.foreign or published else None
    id = line.text("id", default) if number is None else number
    # Files that combine several sets, like Search-R1's, name the set in `data_source` and number each from 0.
    name = line.fields.get("data_source") if source.set else None
    name = name if isinstance(name, str) and name else source.set
    return f"{line.encodable(name, 'the name of the set')}/{id}" if name else id


def _whole(value: object) -> str | None:
    """A whole number as the string that serves as an id or an answer; None for anything else."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    return None


def _read_answers(line: Line, source: Source, verl: bool, notes: Notes) -> list[str] | None:
    """The accepted answers; None if a line of a published file has none that can be used."""
    name = "answers"
    if line.fields.get("answers") in (None, []) and not line.lacks("golden_answers"):
        name = "golden_answers"
        if "answers" in line.fields:
            notes["answers empty or null beside golden_answers: those are read"] += 1
    given = line.fields.get(name)
    if verl and not given:
        name, given = "reward_model", line.fields["reward_model"]["ground_truth"]
        given = given.get("target") if isinstance(given, dict) else given
        notes["answers in reward_model: read from there"] += 1
    if name == "answers" and not source.foreign:
        answers = line.strings(name)
    else:
        found = list(dict.fromkeys(_strings(given)))
        if not (isinstance(given, list) and all(isinstance(answer, str) for answer in given)):
            notes["answers that are no list of strings: read as one"] += 1
        answers = [answer for answer in found if answer.strip() and exact_match(answer, [answer])]
        if source.foreign and any(map(_PRINTED_LIST.match, answers)):
            notes["answers that are the text of a Python list: passed over"] += 1
            return None
        if source.foreign and not answers:
            return None
        answers = [line.encodable(answer, f"an entry of field {name!r}") for answer in answers]
    if not answers:
        raise line.error("the list of answers is empty", "Give at least one accepted answer.")
    for answer in answers:
        if _PRINTED_LIST.match(answer):
            raise line.error(f"answer {shorten(answer)} is the text of a Python list", "Write a JSON list.")
        if not exact_match(answer, [answer]):
            raise line.error(
                f"answer {shorten(answer)} normalises to an empty string",
                "No agent could give it: remove it.",
            )
    return answers


def _strings(value: Any) -> Iterator[str]:
    """The strings in a published answer: a string, a number, a list of lists, an array, a list that is written as JSON."""
    if isinstance(value, str):
        listed = None
        if value.lstrip().startswith("["):
            try:
                listed = json.loads(value)
            except ValueError:
                listed = None
        if isinstance(listed, list):
            yield from _strings(listed)
        else:
            yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _strings(entry)
    elif hasattr(value, "tolist"):  # a numpy array
        yield from _strings(value.tolist())
    elif (number := _whole(value)) is not None:
        yield number
    elif type(value) is float and value == value:
        yield repr(value)


# -- verl's rows: {data_source, prompt: [{role, content}], reward_model: {ground_truth}, extra_info} -------------------


def _is_verl(line: Line) -> bool:
    rewarded = line.fields.get("reward_model")
    return (
        isinstance(line.fields.get("prompt"), list)
        and isinstance(rewarded, dict)
        and rewarded.get("ground_truth") is not None
    )


def _verl_question(line: Line, notes: Notes) -> str:
    """The question of a row without the field: in `extra_info`, else what follows "Question:" in the prompt."""
    extra = line.fields.get("extra_info")
    if isinstance(extra, dict) and isinstance(extra.get("question"), str):
        return str(extra["question"])
    messages = [m for m in line.fields["prompt"] if isinstance(m, dict) and m.get("role") == "user"]
    content = messages[-1].get("content") if messages else None
    if not isinstance(content, str):
        return ""
    notes["question in the prompt: read from there"] += 1
    return content.rpartition("Question:")[2].strip()


def _verl_index(line: Line) -> str:
    extra = line.fields.get("extra_info")
    index = _whole(extra.get("index")) if isinstance(extra, dict) else None
    return str(line.number - 1) if index is None else index


def _read_hop(line: Line, position: int, entry: object, passage_ids: Container[str]) -> Hop:
    if not isinstance(entry, dict):
        raise line.error(
            f"chain[{position}] is {shorten(entry)}", "Write objects: query, relation, passage_ids, bridge."
        )
    hop = Line(line.file, line.number, entry)
    return Hop(
        hop.text("query"),
        hop.text("relation"),
        _resolved(hop, "passage_ids", passage_ids),
        hop.text("bridge"),
    )


def _resolved(
    line: Line, name: str, passage_ids: Container[str], default: list[str] | None = None
) -> tuple[str, ...]:
    given = line.get(name, list, default)
    ids = [whole if (whole := _whole(id)) is not None else id for id in given]
    line = Line(line.file, line.number, {name: ids})
    for id in line.strings(name):
        if id not in passage_ids:
            raise line.error(
                f"{name} contains {shorten(id)}, which is not the id of a passage",
                "Add the passage, or remove the id.",
            )
    return tuple(ids)
