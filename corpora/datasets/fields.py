"""The fields of passage and question files: our own, or those of FlashRAG and Search-R1.

docs/corpora.md describes our own files, docs/datasets.md published question sets.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import did_you_mean
from searchgym.question import Hop, Passage, Question
from searchgym.scoring import exact_match

from .gold import count_hops
from .lines import Line, shorten

__all__ = ["SPLITS", "Source", "read_passage", "read_question"]

SPLITS = ("train", "dev", "test")

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


def read_passage(line: Line, source: Source) -> Passage | None:
    """A passage from `{id, title, text}` or `{id, contents}`; None for one to skip."""
    id = _read_id(line, source)
    if "contents" in line.fields and "text" not in line.fields:
        contents: str = line.get("contents", str)
        if source.foreign and not contents.strip():
            return None
        title, newline, text = line.check(contents, "field 'contents'").partition("\n")
        if not newline:
            return Passage(id, "", title)
        title = title.strip()
        if len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1]
        if source.foreign and not text.strip():
            return None
        return Passage(
            id, title, line.check(text.strip(), "field 'contents' after its first line, the title,")
        )
    title = line.encodable(line.get("title", str), "field 'title'")
    if source.foreign and not line.get("text", str).strip():
        return None
    return Passage(id, title, line.text("text"))


def read_question(line: Line, passage_ids: Container[str], source: Source) -> Question | None:
    """A question from our fields, or from `{id, question, golden_answers, metadata}`; None for one to skip.

    Fields outside the schema are added to `metadata`.

    Args:
        line: the line.
        passage_ids: the ids of the corpus, which the question may refer to.
        source: its file.

    Raises:
        CorpusError: the line cannot be used.
    """
    answers = _read_answers(line, source)
    if answers is None:
        return None
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
    return Question(
        id=_read_id(line, source),
        text=line.text("question"),
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


def _read_id(line: Line, source: Source) -> str:
    number = line.fields.get("id")
    id = str(number) if source.foreign and type(number) is int else line.text("id")
    # Files that combine several sets, like Search-R1's, name the set in `data_source` and number each from 0.
    name = line.fields.get("data_source") if source.set else None
    name = name if isinstance(name, str) and name else source.set
    return f"{line.encodable(name, 'the name of the set')}/{id}" if name else id


def _read_answers(line: Line, source: Source) -> list[str] | None:
    flashrag = "golden_answers" in line.fields and "answers" not in line.fields
    name = "golden_answers" if flashrag else "answers"
    if source.foreign:
        given = line.get(name, list, [])
        return [a for a in given if isinstance(a, str) and a.strip() and exact_match(a, [a])] or None
    answers = line.strings(name)
    if not answers:
        raise line.error("the list of answers is empty", "Give at least one accepted answer.")
    for answer in answers:
        if not exact_match(answer, [answer]):
            raise line.error(
                f"answer {shorten(answer)} normalises to an empty string",
                "No agent could give it: remove it.",
            )
    return answers


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
    ids = line.strings(name, default)
    for id in ids:
        if id not in passage_ids:
            raise line.error(
                f"{name} contains {shorten(id)}, which is not the id of a passage",
                "Add the passage, or remove the id.",
            )
    return tuple(ids)
