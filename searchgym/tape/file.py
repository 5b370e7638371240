"""The file behind a tape: its format, and the player that answers calls from it. `recorder` writes it.

A tape is JSON lines, ASCII. The first line is the header: what the calls were made on. Then, in any order,

    {"passage": n, "id": …, "title": …, "text": …}      number n, counted from 0: stored once, referred to by number
    {"search": query, "k": k, "at": …, "hits": [[n, score], …]}                           or "error": message
    {"judge": digest, "at": …, "question": id, "round": r, "status": …, "utility": …, "reasoning": …, "reason": …}
    {"grade": digest, "at": …, "question": id, "status": …, "score": …, "reason": …}

"at" is the number of calls made before this one. A line is written when a call is made for the first time, and
when its result differs from the last one of the same call: a thousand repeats cost nothing, and the lines of a call
say from which position on each result held. "keep": m says that only the first m earlier lines of the call remain valid,
because a resumed run went back before the others.

Every line ends with "crc": the CRC-32 of what precedes it in the line, in hexadecimal digits. A line with another one is
damaged; the tapes of version 0.1.0 (schema 1) have none.

A batch of calls is appended in one write, before its results are used: a kill loses at most the batch in progress. A
last line that a kill cut off is ignored, and removed by the next recording.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ..errors import RetrievalError, TapeError, warn
from ..judges.protocol import Grade, Verdict
from ..records.retriever import Hit, SearchResult

__all__ = ["Content", "Key", "Line", "Player", "differences", "dump_line", "of_something_else", "read_tape"]

TAPE_SCHEMA = 2
_UNCHECKED = 1  # the schema whose lines have no checksums
_CHECKSUM = re.compile(rb'(.*),"crc":"([0-9a-f]{8})"\}\n', re.DOTALL)
VERDICT_FIELDS = ("status", "utility", "reasoning", "reason")
GRADE_FIELDS = ("status", "score", "reason")

Key: TypeAlias = tuple[str, str, int]
"""("search", query, k), ("judge", digest, 0) or ("grade", digest, 0)."""
CallResult: TypeAlias = SearchResult | Verdict | Grade


class Line(NamedTuple):
    """The result of a call from one position on. The first line of a call also applies before that position."""

    at: int
    value: Any  # an error's message; ((passage number, score), …); or the fields of a verdict or grade
    cost: Mapping[str, float]


@dataclass
class Content:
    """The contents of a tape."""

    tape_header: dict[str, Any]
    passages: list[tuple[str, str, str]] = field(default_factory=list)
    calls: dict[Key, list[Line]] = field(default_factory=dict)
    size: int = 0  # bytes of complete lines
    checked: bool = True  # whether every line has a checksum


class Player:
    """Answers calls from a tape, read once. Threads may share one.

    Attributes:
        path: the file.
        tape_header: the environment in which the calls were made.
        position: number of calls answered so far.
    """

    def __init__(self, path: str | os.PathLike[str], position: int = 0) -> None:
        self.path, self.position = os.path.abspath(path), position
        content = read_tape(self.path)
        self.tape_header = content.tape_header
        self._calls: dict[Key, list[tuple[int, CallResult]]] = {}
        for key, lines in content.calls.items():
            self._calls[key] = [(line.at, _result(key[0], line, content.passages)) for line in lines]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Player, (self.path, self.position))

    def rewind(self, position: int) -> None:
        """Go back to a position, when a run resumes."""
        self.position = position

    def recall(self, key: Key) -> CallResult | None:
        """The recorded result of a call; None if the call was not recorded."""
        lines = self._calls.get(key)
        if lines is None:
            return None
        position = self.position
        self.position += 1
        if len(lines) == 1:
            return lines[0][1]
        return lines[max(0, bisect_right(lines, position, key=lambda line: line[0]) - 1)][1]


def differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two headers differ: "top_k 3, here 5"; empty if they agree in what `here` names."""
    return "; ".join(f"{k} {recorded.get(k)!r}, here {v!r}" for k, v in here.items() if recorded.get(k) != v)


def of_something_else(path: str, difference: str) -> TapeError:
    """The error for a tape of other arguments."""
    return TapeError(
        f"tape {path!r} was recorded with {difference}: give the arguments it was recorded with, or another tape"
    )


def read_tape(path: str) -> Content:
    """Read a tape; a last line that was cut off is left out with a warning.

    Raises:
        TapeError: it cannot be read, is not a tape, has an unknown schema, or is damaged.
    """
    try:
        handle = open(path, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise TapeError(f"tape {path!r} cannot be read: {error.strerror or error}") from error
    content: Content | None = None
    with handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n") and content is not None:
                warn(f"tape {path!r}: its last line, {number}, is cut off and left out", stacklevel=2)
                break
            try:
                record = json.loads(line)
                if content is None:
                    content = Content(_read_header(record), checked=record["tape"] != _UNCHECKED)
                else:
                    _take(record, content)
                _check(line, content.checked)
            except _UnknownSchema as error:
                raise TapeError(f"tape {path!r} {error}") from None
            except (
                ValueError,
                KeyError,
                TypeError,
                IndexError,
                AttributeError,
                OverflowError,
                RecursionError,
            ) as error:
                cause = f"({type(error).__name__}: {error})"
                raise TapeError(
                    f"{path!r} is not a tape {cause}: give another path"
                    if content is None
                    else f"tape {path!r} is damaged in line {number} {cause}: record it again"
                ) from error
            content.size += len(line)
    if content is None:
        raise TapeError(f"tape {path!r} is empty: record it again")
    return content


class _UnknownSchema(Exception):
    """The schema of a tape that this version does not read."""


def _check(line: bytes, needed: bool) -> None:
    """Raise ValueError if a line is not the one that was written."""
    found = _CHECKSUM.fullmatch(line)
    if found is None:
        if needed:
            raise ValueError("it has no checksum")
    elif zlib.crc32(found[1]) != int(found[2], 16):
        raise ValueError("it has changed since it was written")


def _read_header(header: dict[str, Any]) -> dict[str, Any]:
    if header["tape"] not in (TAPE_SCHEMA, _UNCHECKED):
        raise _UnknownSchema(
            f"has schema {header['tape']!r}, this version reads {TAPE_SCHEMA}: replay it with the version of "
            f"searchgym that recorded it ({header.get('searchgym')})"
        )
    tape_header = header["card"]
    if not isinstance(tape_header, dict):
        raise TypeError(f"its header is {tape_header!r:.60}")
    return tape_header


def _take(record: dict[str, Any], content: Content) -> None:
    """Add one line to the content; raises what a damaged line makes Python raise."""
    if "passage" in record:
        if record["passage"] != len(content.passages):
            raise ValueError(f"passage {record['passage']!r} where {len(content.passages)} was due")
        passage = (record["id"], record["title"], record["text"])
        if not all(isinstance(part, str) for part in passage):
            raise TypeError("a passage without id, title and text")
        content.passages.append(passage)
        return
    value: Any
    key: Key
    if "search" in record:
        key = ("search", record["search"], record["k"])
        if "error" in record:
            value = str(record["error"])
        else:
            value = tuple([(number, float(score)) for number, score in record["hits"]])
            for number, _ in value:
                if type(number) is not int or not 0 <= number < len(content.passages):
                    raise IndexError(f"passage {number!r} is not on the tape")
    else:
        kind = "judge" if "judge" in record else "grade"
        key = (kind, record[kind], 0)
        value = tuple([record[name] for name in (VERDICT_FIELDS if kind == "judge" else GRADE_FIELDS)])
        _judgement(kind, value, {})
    lines = content.calls.setdefault(key, [])
    del lines[record.get("keep", len(lines)) :]
    lines.append(Line(int(record["at"]), value, record.get("cost", {})))


def _judgement(kind: str, value: Sequence[Any], cost: Mapping[str, float]) -> Verdict | Grade:
    status, first, *others, reason = value
    if status not in ("ok", "error"):
        raise ValueError(f"status {status!r}")
    if kind == "judge":
        if status == "error":
            return Verdict.error(reason, cost)
        return Verdict.ok(first, others[0], reason, cost)
    return Grade.error(reason, cost) if status == "error" else Grade.ok(first, reason, cost)


def _result(kind: str, line: Line, passages: Sequence[tuple[str, str, str]]) -> CallResult:
    if kind != "search":
        # A replay costs nothing; the recorded cost stays readable.
        return _judgement(kind, line.value, {f"replayed_{name}": n for name, n in line.cost.items()})
    if isinstance(line.value, str):
        return RetrievalError(line.value)
    hits: list[Hit] = []
    for number, score in line.value:
        id_, title, text = passages[number]
        hits.append(Hit(id_, title, text, score))
    return hits


def dump_line(record: Mapping[str, Any]) -> str:
    """The line of a record, with its checksum."""
    text = json.dumps(record, separators=(",", ":"))[:-1]
    return f'{text},"crc":"{zlib.crc32(text.encode("ascii")):08x}"}}\n'
