"""The rows of a file of recorded rollouts, whatever its container: JSON lines, one JSON document, parquet, a text log.

The content decides, not the name: gzip and parquet by their first bytes, JSON by parsing it, a log by its "Question:" and
"Thought 1:" lines. A line that cannot be read becomes a reason, not the end of the import.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EpisodeFileError, MissingExtraError

__all__ = ["TRANSCRIPT", "read_rows"]

TRANSCRIPT = "transcript"
"""The field of a row that stands for one question of a text log."""

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_QUESTION = re.compile(
    r"^(?:\d+ )?(?=Question: .*\n(?:(?!Question: ).*\n){0,3}?(?:Thought|Action)(?: 1)?:)", re.MULTILINE
)
# What a log prints after a question: a separator, the head of the next trial, or the result of the episode.
_RESULT = re.compile(r"^(?:-{5,}|#{5,}|BEGIN TRIAL\b|\{'steps': )", re.MULTILINE)

Row = tuple[int, str, dict[str, Any] | str]
"""Number of the line or element from 1, its own name ("" if it has none), and the row or why there is none."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Args:
        path: the file.

    Raises:
        EpisodeFileError: the file cannot be read.
        MissingExtraError: a parquet file without pyarrow.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz" or content.startswith(_GZIP):
            content = gzip.decompress(content)
        if content.startswith(_PARQUET):
            return _parquet(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EpisodeFileError(f"{path} cannot be read as a file of rollouts: {reason}") from error
    first = next((line for line in text.split("\n") if line.strip()), "")
    if not isinstance(_json(first), dict) or _is_table(_json(first)):
        whole = _json(text)
        if isinstance(whole, list) and whole:
            return [(number, "", _row(element)) for number, element in enumerate(whole, 1)]
        if isinstance(whole, dict):
            elements = whole.items() if _is_table(whole) else [("", whole)]
            return [(number, name, _row(element)) for number, (name, element) in enumerate(elements, 1)]
        if transcripts := list(_transcripts(text)):
            return transcripts
    return [
        (number, "", _row(_json(line))) for number, line in enumerate(text.split("\n"), 1) if line.strip()
    ]


def _parquet(content: bytes) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("a parquet file of rollouts", "pyarrow", "hub") from error
    try:
        rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    except ArrowException as error:
        raise ValueError(str(error)) from error
    return [(number, "", row) for number, row in enumerate(rows, 1)]


def _transcripts(text: str) -> Iterator[Row]:
    """One row per question of a text log."""
    starts = [match.end() for match in _QUESTION.finditer(text)]
    ends = [*starts[1:], len(text)]  # one more than starts where there are none
    for number, (start, end) in enumerate(zip(starts, ends, strict=False), 1):
        block = text[start:end]
        result = _RESULT.search(block)
        end_of_text = result.start() if result else len(block)
        yield number, "", {TRANSCRIPT: block[:end_of_text], "result": block[end_of_text:]}


def _json(text: str) -> Any:
    """A JSON value; `_NOT_JSON` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _is_table(value: Any) -> bool:
    """Whether an object maps names to trajectories, as FireAct's files do."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(v, dict) and "traj" in v for v in value.values())
    )


def _row(value: Any) -> dict[str, Any] | str:
    if value is _NOT_JSON:
        return "not JSON"
    return value if isinstance(value, dict) else "a rollout without format: it is not an object"


_NOT_JSON = object()
