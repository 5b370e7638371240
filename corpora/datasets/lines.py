"""Reads JSON objects from `.jsonl`, `.jsonl.gz` and `.parquet` files and refuses the first bad line.

Every refusal is one `CorpusError`: file, line, what is wrong, what to do. `fields.py` checks the content of the objects.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from searchgym.errors import CorpusError, MissingExtraError, did_you_mean

__all__ = ["MAX_LINE", "SUFFIXES", "Line", "read_lines", "shorten"]

MAX_LINE = 10_000_000
"""Bytes of a line at most; a longer one is a damaged file or a whole book."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
"""The kinds of files that can be read."""

_PROGRESS_FROM = 50_000_000  # bytes of a file from which reading takes long enough to show progress
# The first bytes of compressed files.
_GZIP = b"\x1f\x8b"
_PACKED = {_GZIP: "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_TYPES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON object with its place: the number of its line, or of its row in a Parquet file."""

    file: Path
    number: int
    fields: dict[str, Any]

    @property
    def unit(self) -> str:
        """What `number` counts: "line" or "row"."""
        return "row" if self.file.suffix == ".parquet" else "line"

    def error(self, reason: str, move: str) -> CorpusError:
        """An error that names file, line, reason and next move."""
        return CorpusError(f"{self.file}, {self.unit} {self.number}: {reason}. {move}")

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """A field of the given JSON type; without a default it is required.

        Null counts as absent, and so does NaN, which pandas writes for it. A float that is a whole number is one.
        """
        value = default if self.lacks(name) else self.fields[name]
        if kind is int and type(value) is float:
            if not value.is_integer():
                raise self.error(
                    f"field {name!r} is {value}, not a whole number", "Write it as a whole number."
                )
            value = int(value)
        if value is None and name in self.fields:
            raise self.error(f"field {name!r} is null", "Write a value, or remove the line.")
        if value is None:
            there = ", ".join(sorted(self.fields)[:12]) or "none"
            near = did_you_mean(name, self.fields) or f" It has {there}."
            raise self.error(f"no field {name!r}", f"Add it.{near}")
        if type(value) is not kind:
            wrong, right = _TYPES.get(type(value), "null"), _TYPES[kind]
            raise self.error(f"field {name!r} is {wrong}, not {right}", f"Write it as {right}.")
        return value

    def lacks(self, name: str) -> bool:
        """Whether a field is absent, null or NaN."""
        value = self.fields.get(name)
        return value is None or value != value

    def text(self, name: str, default: str | None = None) -> str:
        """A string field that is not blank."""
        value: str = self.get(name, str, default)
        return self.check(value, f"field {name!r}")

    def check(self, value: str, what: str) -> str:
        """A string; raises `CorpusError` if it is blank or cannot be encoded."""
        if not value.strip():
            raise self.error(f"{what} is empty", "Fill it in, or remove the line.")
        return self.encodable(value, what)

    def encodable(self, value: str, what: str) -> str:
        """A string; raises `CorpusError` if it has lone surrogates."""
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise self.error(
                f"{what} has a lone surrogate", "Write whole characters, or U+FFFD in its place."
            )
        return value

    def strings(self, name: str, default: list[str] | None = None) -> list[str]:
        """A field that is a list of non-blank strings."""
        values: list[Any] = self.get(name, list, default)
        for value in values:
            if not isinstance(value, str):
                raise self.error(f"field {name!r} contains {shorten(value)}", "Write a list of strings.")
            self.check(value, f"an entry of field {name!r}")
        return values


def read_lines(file: Path, *, by_content: bool = False) -> Iterator[Line]:
    """The lines of a `.jsonl` or `.jsonl.gz` file, or the rows of a `.parquet` file, each a JSON object.

    Args:
        file: the file.
        by_content: whether the first bytes of a file tell if it is compressed, instead of its name.

    Raises:
        CorpusError: the file cannot be read, or a line is not a JSON object of reasonable length in UTF-8.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    if file.suffix == ".parquet":
        yield from _read_parquet(file)
        return
    number = 0
    try:
        with _open(file, by_content) as stream:
            while raw := stream.readline(MAX_LINE + 1):
                number += 1
                if number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)  # some editors write a byte order mark
                yield Line(file, number, _parse(Line(file, number, {}), raw))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = Line(file, number + 1, {})
        raise where.error(
            f"the compressed data ends or is damaged here ({error})", "Copy the file again."
        ) from None
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}. Check the path.") from None


def _raw(file: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    """The bytes of a file; reading a large one in a terminal shows a progress bar."""
    if file.stat().st_size < _PROGRESS_FROM or not sys.stderr.isatty():
        return file.open("rb")
    from rich import markup, progress  # only where something is shown

    from searchgym.cli.console import Console

    return progress.open(file, "rb", description=markup.escape(file.name), console=Console(stderr=True))


@contextlib.contextmanager
def _open(file: Path, by_content: bool) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(_raw(file))
        packed = file.suffix == ".gz"
        if by_content:
            with file.open("rb") as start:
                packed = start.read(2) == _GZIP
        stream: Any = gzip.GzipFile(fileobj=raw, mode="rb") if packed else raw
        yield stack.enter_context(stream)


def _read_parquet(file: Path) -> Iterator[Line]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the Parquet file {file}", error.name or "pyarrow", "hub") from error
    number = 0
    try:
        with parquet.ParquetFile(file) as rows:
            for batch in rows.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Line(file, number, fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{file}, row {number + 1}: not a Parquet file, or damaged ({error}). Copy the file again."
        ) from None


def _parse(line: Line, raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE:
        raise line.error(f"longer than {MAX_LINE:,} bytes", "Cut the text into passages.")
    if not raw.strip():
        raise line.error("empty", "Remove the line.")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        packed = next(
            (name for start, name in _PACKED.items() if line.number == 1 and raw.startswith(start)), ""
        )
        if packed:
            move = (
                "Name it ….jsonl.gz."
                if packed == "gzip"
                else "Decompress it, or use gzip and name it ….jsonl.gz."
            )
            raise line.error(f"compressed with {packed}", move) from None
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


def shorten(value: object) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
