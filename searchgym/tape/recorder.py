"""Writes tapes; `file` describes the format.

One process records to a file, and all its users of the file share one recorder. Each batch of calls is one write, done
before the results are used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import filelock

from .._version import __version__
from ..errors import EpisodeFileError, RetrievalError, TapeError
from ..judges.protocol import Grade, Verdict
from ..records.episode import check_writable
from ..records.retriever import Hit
from .file import (
    GRADE_FIELDS,
    TAPE_SCHEMA,
    VERDICT_FIELDS,
    CallResult,
    Content,
    Key,
    Line,
    differences,
    dump_line,
    of_something_else,
    read_tape,
)

__all__ = ["Call", "Recorder"]


class Call(NamedTuple):
    """A call that was made: its key, its result, and notes for human readers."""

    key: Key
    result: CallResult
    note: Mapping[str, Any] = {}


class Recorder:
    """Appends calls to a tape; open one with `Recorder.open`.

    One process may record to a file; all its users of the file share the recorder.

    Attributes:
        path: the file.
        tape_header: the environment in which the calls are made.
        position: number of calls made so far.
    """

    _opened: ClassVar[WeakValueDictionary[str, Recorder]] = WeakValueDictionary()

    def __init__(self, path: str, tape_header: dict[str, Any]) -> None:
        self.path, self.tape_header = path, tape_header
        self._process = os.getpid()
        self._threads = threading.Lock()
        self._handle = -1
        self._broken = ""
        self._file_lock = _lock(path)
        try:
            content = _to_continue(path, tape_header)
            self._passages = {passage: number for number, passage in enumerate(content.passages)}
            self._calls, self._size = content.calls, content.size
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.ftruncate(self._handle, self._size)
            if not self._size:
                header = {"tape": TAPE_SCHEMA, "searchgym": __version__, "card": tape_header}
                self._append(dump_line(header))
        except OSError as error:
            self.close()
            raise TapeError(f"tape {path!r} cannot be written: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self.rewind(0)

    @classmethod
    def open(cls, path: str | os.PathLike[str], tape_header: dict[str, Any]) -> Recorder:
        """Begin a tape, or continue one with the same header.

        Raises:
            TapeError: the file is not a tape, of something else, damaged, in use, or cannot be written.
        """
        name = os.path.realpath(path)
        recorder = cls._opened.get(name)
        if recorder is None or recorder._process != os.getpid():
            recorder = cls._opened[name] = cls(os.path.abspath(path), tape_header)
        elif recorder.tape_header != tape_header:
            raise of_something_else(recorder.path, differences(recorder.tape_header, tape_header))
        return recorder

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            Recorder.open,
            (self.path, self.tape_header),
        )  # the same one in this process, refused in another

    def __del__(self) -> None:
        if hasattr(self, "_file_lock"):
            self.close()

    def close(self) -> None:
        """Close the file. It already holds every call."""
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
        lines.append(Line(self.position, value, cost))
        record: dict[str, Any] = {kind: name, "k": k} if kind == "search" else {kind: name}
        record |= {"at": self.position, **call.note}
        if keep is not None:
            record["keep"] = keep
        if kind == "search":
            record |= {"error": value} if isinstance(value, str) else {"hits": value}
        else:
            record |= dict(zip(VERDICT_FIELDS if kind == "judge" else GRADE_FIELDS, value, strict=True))
            record |= {"cost": cost} if cost else {}
        new.append(dump_line(record))

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
            new.append(dump_line({"passage": number, "id": hit.id, "title": hit.title, "text": hit.text}))
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


def _to_continue(path: str, tape_header: dict[str, Any]) -> Content:
    """What a recorder continues from; empty content for a new tape."""
    try:
        with open(path, "rb") as handle:
            header = handle.readline()
    except FileNotFoundError:
        return Content(tape_header)
    except OSError as error:
        raise TapeError(f"tape {path!r} cannot be read: {error.strerror or error}") from error
    start = b'{"tape":'
    if not header.endswith(b"\n") and header[: len(start)] == start[: len(header)]:
        return Content(tape_header)  # empty, or a header that a kill cut off
    content = read_tape(path)
    if not content.calls:
        return Content(tape_header)  # nothing was recorded yet: it may become a tape of something else
    difference = differences(content.tape_header, tape_header)
    if difference:
        raise of_something_else(path, difference)
    return content
