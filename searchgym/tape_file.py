"""The file behind a tape: its format, the recorder that appends to it and the player that reads it.

A tape is JSON lines, ASCII. The first line is the header: what the calls were made on. Then, in any order,

    {"passage": n, "id": …, "title": …, "text": …}      number n, counted from 0: stored once, referred to by number
    {"search": query, "k": k, "at": …, "hits": [[n, score], …]}                           or "error": message
    {"judge": digest, "at": …, "question": id, "round": r, "status": …, "utility": …, "reasoning": …, "reason": …}
    {"grade": digest, "at": …, "question": id, "status": …, "score": …, "reason": …}

"at" is the number of calls made before this one. A line is written when a call is made for the first time, and
when its result differs from the last one of the same call: a thousand repeats cost nothing, and the lines of a call
say from when on each result held. "keep": m says that only the first m earlier lines of the call stand, because a
resumed run went back before the others.

A batch of calls is appended in one write, before its results are used: a kill loses at most the batch in flight. A
last line that a kill cut off is ignored, and removed by whoever records next.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

import filelock

import searchgym

from .episode import check_writable
from .errors import EpisodeFileError, RetrievalError, TapeError
from .judges.protocol import Grade, Verdict
from .retriever import Hit, SearchResult

__all__ = ["Call", "Key", "Player", "Recorder", "differences"]

TAPE_SCHEMA = 1

Key: TypeAlias = tuple[str, str, int]
"""("search", query, k), ("judge", digest, 0) or ("grade", digest, 0)."""
CallResult: TypeAlias = SearchResult | Verdict | Grade

_VERDICT = ("status", "utility", "reasoning", "reason")
_GRADE = ("status", "score", "reason")


class Call(NamedTuple):
    """A call that was made: its key, its result, and what else its line says for people to read."""

    key: Key
    result: CallResult
    note: Mapping[str, Any] = {}


class _Line(NamedTuple):
    """What a call gave from one position on. The first line of a call also holds before that."""

    at: int
    value: Any  # an error's message; ((passage number, score), …); or the fields of a verdict or grade
    cost: Mapping[str, float]


@dataclass
class _Content:
    card: dict[str, Any]
    passages: list[tuple[str, str, str]] = field(default_factory=list)
    calls: dict[Key, list[_Line]] = field(default_factory=dict)
    size: int = 0  # bytes of complete lines


class Recorder:
    """Appends calls to a tape; open one with `Recorder.open`.

    One process may record to a file. In it, everybody who opens the file shares the recorder.

    Attributes:
        path: the file.
        card: what the calls are made on.
        position: number of calls made so far.
    """

    _opened: ClassVar[WeakValueDictionary[str, Recorder]] = WeakValueDictionary()

    def __init__(self, path: str, card: dict[str, Any]) -> None:
        self.path, self.card = path, card
        self._process = os.getpid()
        self._threads = threading.Lock()
        self._handle = -1
        self._broken = ""
        self._file_lock = _lock(path)
        try:
            content = _to_continue(path, card)
            self._passages = {passage: number for number, passage in enumerate(content.passages)}
            self._calls, self._size = content.calls, content.size
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.ftruncate(self._handle, self._size)
            if not self._size:
                header = {"tape": TAPE_SCHEMA, "searchgym": searchgym.__version__, "card": card}
                self._append(_dump(header))
        except OSError as error:
            self.close()
            raise TapeError(f"tape {path!r} cannot be written: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self.rewind(0)

    @classmethod
    def open(cls, path: str | os.PathLike[str], card: dict[str, Any]) -> Recorder:
        """Begin a tape, or go on with one whose card is the same.

        Raises:
            TapeError: the file is not a tape, of something else, damaged, in use, or cannot be written.
        """
        name = os.path.realpath(path)
        recorder = cls._opened.get(name)
        if recorder is None or recorder._process != os.getpid():
            recorder = cls._opened[name] = cls(os.path.abspath(path), card)
        elif recorder.card != card:
            raise _of_something_else(recorder.path, differences(recorder.card, card))
        return recorder

    def __reduce__(self) -> tuple[Any, ...]:
        return (Recorder.open, (self.path, self.card))  # the same one in this process, refused in another

    def __del__(self) -> None:
        if hasattr(self, "_file_lock"):
            self.close()

    def close(self) -> None:
        """Let go of the file. Every call is in it already."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._process == os.getpid():
            self._file_lock.release()

    def rewind(self, position: int) -> None:
        """Go back to a position, where a run resumes: the calls after it will be made again."""
        self.position = self._start = position
        self._stale = {key for key, lines in self._calls.items() if lines[-1].at >= position}

    def record(self, calls: Iterable[Call]) -> None:
        """Add a batch of calls in the order they were made, in one write.

        Raises:
            TapeError: another process opened the tape, or the file cannot be written.
        """
        if self._process != os.getpid():
            raise TapeError(
                f"tape {self.path!r} is recorded by process {self._process}, this is {os.getpid()}: record in one "
                "process, e.g. with SearchVectorEnv"
            )
        with self._threads:
            new: list[str] = []
            for call in calls:
                self._add(call, new)
                self.position += 1
            if new:
                self._append("".join(new))

    def _add(self, call: Call, new: list[str]) -> None:
        (kind, name, k), result = call.key, call.result
        value = self._value(result, new)
        lines = self._calls.setdefault(call.key, [])
        keep: int | None = None
        if call.key in self._stale:  # known from before, and later than where this run began
            self._stale.discard(call.key)
            if len(lines) > 1 or lines[0].value != value:
                keep = sum(line.at < self._start for line in lines)
                del lines[keep:]
        if keep is None and lines and lines[-1].value == value:
            return
        cost = dict(result.cost) if isinstance(result, Verdict | Grade) else {}
        lines.append(_Line(self.position, value, cost))
        record: dict[str, Any] = {kind: name, "k": k} if kind == "search" else {kind: name}
        record |= {"at": self.position, **call.note}
        if keep is not None:
            record["keep"] = keep
        if kind == "search":
            record |= {"error": value} if isinstance(value, str) else {"hits": value}
        else:
            record |= dict(zip(_VERDICT if kind == "judge" else _GRADE, value, strict=True))
            record |= {"cost": cost} if cost else {}
        new.append(_dump(record))

    def _value(self, result: CallResult, new: list[str]) -> Any:
        if isinstance(result, RetrievalError):
            return str(result)
        if isinstance(result, Verdict):
            return (result.status, result.utility, result.reasoning, result.reason)
        if isinstance(result, Grade):
            return (result.status, result.score, result.reason)
        return tuple([(self._number(hit, new), float(hit.score)) for hit in result])

    def _number(self, hit: Hit, new: list[str]) -> int:
        passage = (hit.id, hit.title, hit.text)
        number = self._passages.get(passage)
        if number is None:
            number = self._passages[passage] = len(self._passages)
            new.append(_dump({"passage": number, "id": hit.id, "title": hit.title, "text": hit.text}))
        return number

    def _append(self, text: str) -> None:
        """One write for all lines. After a failure the file ends where it did, and nothing more is taken."""
        if self._broken:
            raise TapeError(self._broken)
        data = memoryview(text.encode("ascii"))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._handle, data[written:])
        except OSError as error:
            self._broken = f"tape {self.path!r} cannot be written: {error.strerror or error}"
            os.ftruncate(self._handle, self._size)
            raise TapeError(self._broken) from error
        self._size += written


class Player:
    """Answers calls from a tape, read once. Threads may share one.

    Attributes:
        path: the file.
        card: what the calls were made on.
        position: number of calls answered so far.
    """

    def __init__(self, path: str | os.PathLike[str], position: int = 0) -> None:
        self.path, self.position = os.path.abspath(path), position
        content = _read(self.path)
        self.card = content.card
        self._calls: dict[Key, list[tuple[int, CallResult]]] = {}
        for key, lines in content.calls.items():
            self._calls[key] = [(line.at, _result(key[0], line, content.passages)) for line in lines]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Player, (self.path, self.position))

    def rewind(self, position: int) -> None:
        """Go back to a position, where a run resumes."""
        self.position = position

    def recall(self, key: Key) -> CallResult | None:
        """What the call gave when it was recorded; None: it was not."""
        lines = self._calls.get(key)
        if lines is None:
            return None
        position = self.position
        self.position += 1
        if len(lines) == 1:
            return lines[0][1]
        return lines[max(0, bisect_right(lines, position, key=lambda line: line[0]) - 1)][1]


def differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What two cards disagree in: "top_k 3, here 5"; empty where `here` says nothing else."""
    return "; ".join(f"{k} {recorded.get(k)!r}, here {v!r}" for k, v in here.items() if recorded.get(k) != v)


def _of_something_else(path: str, difference: str) -> TapeError:
    return TapeError(
        f"tape {path!r} was recorded with {difference}: give the arguments it was recorded with, or another tape"
    )


def _lock(path: str) -> filelock.BaseFileLock:
    try:
        check_writable(path)
        target = Path(path)
        lock = filelock.FileLock(target.parent / f".{target.name}.lock", timeout=0, thread_local=False)
        lock.acquire()
    except EpisodeFileError as error:
        raise TapeError(f"tape {error}") from error
    except filelock.Timeout:
        raise TapeError(
            f"tape {path!r} is being recorded by another process: wait for it, or give another path"
        ) from None
    except OSError as error:
        raise TapeError(f"tape {path!r} cannot be locked: {error.strerror or error}") from error
    return lock


def _to_continue(path: str, card: dict[str, Any]) -> _Content:
    """What a recorder goes on from; an empty content where the tape begins."""
    try:
        start = Path(path).read_bytes()[:1024] if os.path.exists(path) else b""
    except OSError as error:
        raise TapeError(f"tape {path!r} cannot be read: {error.strerror or error}") from error
    if b"\n" not in start and b'{"tape":'.startswith(start[:8]):
        return _Content(card)  # nothing, or a header that a kill cut off
    content = _read(path)
    if not content.calls:
        return _Content(card)  # nothing was recorded yet: it may become a tape of something else
    difference = differences(content.card, card)
    if difference:
        raise _of_something_else(path, difference)
    return content


def _read(path: str) -> _Content:
    try:
        handle = open(path, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise TapeError(f"tape {path!r} cannot be read: {error.strerror or error}") from error
    content: _Content | None = None
    with handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n") and content is not None:
                warnings.warn(
                    f"tape {path!r}: its last line, {number}, is cut off and left out", stacklevel=2
                )
                break
            try:
                record = json.loads(line)
                if content is None:
                    content = _Content(_card(record))
                else:
                    _take(record, content)
            except _UnknownSchema as error:
                raise TapeError(f"tape {path!r} {error}") from None
            except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
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
    pass


def _card(header: dict[str, Any]) -> dict[str, Any]:
    if header["tape"] != TAPE_SCHEMA:
        raise _UnknownSchema(
            f"has schema {header['tape']!r}, this version reads {TAPE_SCHEMA}: replay it with the version of "
            f"searchgym that recorded it ({header.get('searchgym')})"
        )
    card = header["card"]
    if not isinstance(card, dict):
        raise TypeError(f"its card is {card!r:.60}")
    return card


def _take(record: dict[str, Any], content: _Content) -> None:
    """Add one line to the content; raises what a damaged line makes Python raise."""
    if "passage" in record:
        if record["passage"] != len(content.passages):
            raise ValueError(f"passage {record['passage']!r} where {len(content.passages)} was due")
        content.passages.append((record["id"], record["title"], record["text"]))
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
                if not 0 <= number < len(content.passages):
                    raise IndexError(f"passage {number!r} is not on the tape")
    else:
        kind = "judge" if "judge" in record else "grade"
        key = (kind, record[kind], 0)
        value = tuple([record[name] for name in (_VERDICT if kind == "judge" else _GRADE)])
        _judgement(kind, value, {})
    lines = content.calls.setdefault(key, [])
    del lines[record.get("keep", len(lines)) :]
    lines.append(_Line(int(record["at"]), value, record.get("cost", {})))


def _judgement(kind: str, value: Sequence[Any], cost: Mapping[str, float]) -> Verdict | Grade:
    status, first, *others, reason = value
    if status not in ("ok", "error"):
        raise ValueError(f"status {status!r}")
    if kind == "judge":
        if status == "error":
            return Verdict.error(reason, cost)
        return Verdict.ok(first, others[0], reason, cost)
    return Grade.error(reason, cost) if status == "error" else Grade.ok(first, reason, cost)


def _result(kind: str, line: _Line, passages: Sequence[tuple[str, str, str]]) -> CallResult:
    if kind != "search":
        # Nothing was spent this time; what it had cost stays readable.
        return _judgement(kind, line.value, {f"replayed_{name}": n for name, n in line.cost.items()})
    if isinstance(line.value, str):
        return RetrievalError(line.value)
    hits: list[Hit] = []
    for number, score in line.value:
        id_, title, text = passages[number]
        hits.append(Hit(id_, title, text, score))
    return hits


def _dump(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"
