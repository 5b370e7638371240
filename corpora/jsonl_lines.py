"""Reads `passages.jsonl` and `questions.jsonl` line by line and refuses the first bad line.

Every refusal is one `CorpusError`: file, line, what is wrong, what to do. docs/corpora.md has the schema.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from searchgym.errors import CorpusError, did_you_mean
from searchgym.question import Hop, Passage, Question
from searchgym.scoring import exact_match

__all__ = ["MAX_LINE", "SPLITS", "Line", "read_lines", "read_passage", "read_question"]

MAX_LINE = 10_000_000
"""Bytes. A longer line is a damaged file or a whole book, and neither is a passage."""
SPLITS = ("train", "dev", "test")

_PROGRESS_FROM = 50_000_000  # bytes of a file from which reading takes long enough to show progress
_TYPES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
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
class Line:
    """One JSON object and where it stands."""

    file: Path
    number: int
    fields: dict[str, Any]

    def error(self, reason: str, move: str) -> CorpusError:
        return CorpusError(f"{self.file}, line {self.number}: {reason}. {move}")

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """A field of the given JSON type; without a default it must be there. Null is as good as absent."""
        value = self.fields.get(name)
        if value is None:
            value = default
        if value is None:
            there = ", ".join(sorted(self.fields)[:12]) or "none"
            near = did_you_mean(name, self.fields) or f" It has {there}."
            raise self.error(f"no field {name!r}", f"Add it.{near}")
        if type(value) is not kind:
            wrong, right = _TYPES.get(type(value), "null"), _TYPES[kind]
            raise self.error(f"field {name!r} is {wrong}, not {right}", f"Write it as {right}.")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string field that is not blank."""
        value: str = self.get(name, str, default)
        return self.check(value, f"field {name!r}")

    def check(self, value: str, what: str) -> str:
        if not value.strip():
            raise self.error(f"{what} is empty", "Fill it in, or remove the line.")
        return self.encodable(value, what)

    def encodable(self, value: str, what: str) -> str:
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise self.error(f"{what} has half a surrogate pair", "Write whole characters, or U+FFFD for it.")
        return value

    def strings(self, name: str, default: list[str] | None = None) -> list[str]:
        """A field that is a list of non-blank strings."""
        values: list[Any] = self.get(name, list, default)
        for value in values:
            if not isinstance(value, str):
                raise self.error(f"field {name!r} holds {_short(value)}", "Write a list of strings.")
            self.check(value, f"an entry of field {name!r}")
        return values


def read_lines(file: Path) -> Iterator[Line]:
    """The lines of a `.jsonl` or `.jsonl.gz` file, each a JSON object.

    Raises:
        CorpusError: the file cannot be read, or a line is not a JSON object of reasonable length in UTF-8.
    """
    number = 0
    try:
        with _open(file) as stream:
            while raw := stream.readline(MAX_LINE + 1):
                number += 1
                yield Line(file, number, _parse(Line(file, number, {}), raw))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = Line(file, number + 1, {})
        raise where.error(
            f"the compressed data ends or breaks here ({error})", "Copy the file again."
        ) from None
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}. Check the path.") from None


def read_passage(line: Line) -> Passage:
    """A passage from `{id, title, text}`, or from FlashRAG's `{id, contents}`."""
    id = line.text("id")
    if "contents" in line.fields and "text" not in line.fields:
        title, newline, text = line.text("contents").partition("\n")
        if not newline:
            return Passage(id, "", title)
        title = title.strip()
        if len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1]
        return Passage(
            id, title, line.check(text.strip(), "field 'contents' after its first line, the title,")
        )
    title = line.get("title", str)
    return Passage(id, line.encodable(title, "field 'title'"), line.text("text"))


def read_question(line: Line, passage_ids: Container[str], default_split: str) -> Question:
    """A question from our fields, or from FlashRAG's `{id, question, golden_answers, metadata}`.

    Fields that are not in the schema go to `metadata`.
    """
    flashrag = "golden_answers" in line.fields and "answers" not in line.fields
    answers = line.strings("golden_answers" if flashrag else "answers")
    if not answers:
        raise line.error("the list of answers is empty", "Give at least one accepted answer.")
    for answer in answers:
        if not exact_match(answer, [answer]):
            raise line.error(
                f"answer {_short(answer)} normalises to nothing", "No agent could give it: remove it."
            )
    split = line.text("split", default_split)
    if split not in SPLITS:
        near = did_you_mean(split, SPLITS)
        raise line.error(f"split is {_short(split)}", f"Use train, dev or test.{near}")
    hops = line.get("hops", int, 0)
    if hops < 0:
        raise line.error(f"hops is {hops}", "Use 0 when unknown, else the number of hops.")
    metadata = line.get("metadata", dict, {})
    return Question(
        id=line.text("id"),
        text=line.text("question"),
        answers=tuple(answers),
        split=split,
        type=line.encodable(line.get("type", str, ""), "field 'type'") or "unknown",
        hops=hops,
        supporting_ids=_resolved(line, "supporting_ids", passage_ids, []),
        chain=tuple(
            _read_hop(line, position, entry, passage_ids)
            for position, entry in enumerate(line.get("chain", list, []))
        ),
        metadata={**metadata, **{k: v for k, v in line.fields.items() if k not in _QUESTION_FIELDS}},
    )


def _read_hop(line: Line, position: int, entry: object, passage_ids: Container[str]) -> Hop:
    if not isinstance(entry, dict):
        raise line.error(
            f"chain[{position}] is {_short(entry)}", "Write objects: query, relation, passage_ids, bridge."
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
                f"{name} names {_short(id)}, which no passage has", "Add the passage, or remove the id."
            )
    return tuple(ids)


@contextlib.contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    from rich import console, progress  # only building needs them

    quiet = file.stat().st_size < _PROGRESS_FROM or not sys.stderr.isatty()
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(
            progress.open(
                file, "rb", description=file.name, console=console.Console(stderr=True), disable=quiet
            )
        )
        stream: Any = gzip.GzipFile(fileobj=raw, mode="rb") if file.suffix == ".gz" else raw
        yield stack.enter_context(stream)


def _parse(line: Line, raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE:
        raise line.error(f"longer than {MAX_LINE:,} bytes", "Cut the text into passages.")
    if not raw.strip():
        raise line.error("empty", "Remove the line.")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise line.error(
            f"not UTF-8 (byte 0x{raw[error.start]:02x} at byte {error.start + 1})", "Save the file as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        raise line.error(f"not JSON ({error})", "Write one JSON object on each line.") from None
    if not isinstance(value, dict):
        raise line.error(
            f"{_TYPES.get(type(value), 'null')}, not an object", "Write one JSON object on each line."
        )
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
