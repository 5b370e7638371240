"""Tables as files: CSV, Parquet, and a directory that `datasets.load_dataset` reads. pyarrow is imported when it is needed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from ..records.episode import Episode
from .columns import COLUMNS, LEVELS, rows

__all__ = [
    "ParquetFiles",
    "arrow_table",
    "import_pyarrow",
    "write_csv",
    "write_hub_directory",
    "write_parquet",
]

_BATCH = 500  # rows held in memory; a record is some 10 kB


def import_pyarrow() -> Any:
    """The module pyarrow, with its module for Parquet.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise MissingExtraError("a table in Parquet or Arrow", "pyarrow", "export") from error


def _schema(level: str) -> Any:
    pa = import_pyarrow()
    types = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
    }
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS[level].items()])


def arrow_table(source: Iterable[dict[str, Any]], level: str) -> Any:
    """The rows as a `pyarrow.Table` whose types do not depend on the values.

    Args:
        source: rows of `columns.rows`.
        level: what a row is.
    """
    return import_pyarrow().Table.from_pylist(list(source), schema=_schema(level))


def _batches(source: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(source)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def write_parquet(path: Path, source: Iterable[dict[str, Any]], level: str) -> int:
    """Write rows as Parquet, one row group per 500 rows.

    Args:
        path: the file.
        source: rows of `columns.rows`.
        level: what a row is.

    Returns:
        The number of rows.
    """
    written = 0
    with import_pyarrow().parquet.ParquetWriter(path, _schema(level), compression="zstd") as writer:
        for batch in _batches(source):
            writer.write_table(arrow_table(batch, level))
            written += len(batch)
    return written


def write_csv(path: Path, source: Iterable[dict[str, Any]], level: str) -> int:
    """Write rows as CSV: UTF-8, all but numbers quoted, lists as JSON, None empty. The column `record` is left out.

    Args:
        path: the file.
        source: rows of `columns.rows`.
        level: what a row is.

    Returns:
        The number of rows.
    """
    names = [name for name in COLUMNS[level] if name != "record"]
    written = 0
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(names)
        for row in source:
            writer.writerow([_cell(row[name]) for name in names])
            written += 1
    return written


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


class ParquetFiles:
    """Several Parquet files of one directory that are written side by side, as rows arrive; use `with`.

    Args:
        directory: exists.

    Attributes:
        rows: number of rows by file name.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._stack = directory, ExitStack()
        self._writers: dict[str, Any] = {}
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._levels: dict[str, str] = {}
        self.rows: dict[str, int] = {}

    def add(self, name: str, level: str, new: Sequence[dict[str, Any]]) -> None:
        """Add rows.

        Args:
            name: file name, relative to the directory.
            level: what a row is; one per file.
            new: rows of `columns.rows`.
        """
        self._levels[name] = level
        waiting = self._waiting.setdefault(name, [])
        waiting += new
        self.rows[name] = self.rows.get(name, 0) + len(new)
        if len(waiting) >= _BATCH:
            self._flush(name)

    def _flush(self, name: str) -> None:
        level = self._levels[name]
        if name not in self._writers:
            path = self._directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = import_pyarrow().parquet.ParquetWriter(path, _schema(level), compression="zstd")
            self._writers[name] = self._stack.enter_context(writer)
        self._writers[name].write_table(arrow_table(self._waiting[name], level))
        self._waiting[name] = []

    def __enter__(self) -> ParquetFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                for name in self._waiting:
                    self._flush(name)


def write_hub_directory(path: Path, episodes: Iterable[Episode]) -> int:
    """Write a directory as the Hugging Face Hub stores data sets: two configurations, `episodes` and `rounds`, by split.

    Args:
        path: the directory; exists and is empty.
        episodes: the records.

    Returns:
        The number of episodes.
    """
    written = 0
    with ParquetFiles(path) as files:
        for episode in episodes:
            written += 1
            split = re.sub(r"\W", "_", episode.split) or "all"  # what datasets allows in the name of a split
            for level in LEVELS:
                files.add(f"{level}/{split}.parquet", level, list(rows([episode], level)))
    lines = ["---", "configs:"]
    for level in LEVELS:
        lines.append(f"- config_name: {level}")
        lines += ["  default: true"] if level == "episodes" else []
        lines.append("  data_files:")
        for name in sorted(files.rows):
            if name.startswith(f"{level}/"):
                lines += [f"  - split: {Path(name).stem}", f"    path: {name}"]
    lines += ["---", "", "# Episodes", "", "Recorded with SearchGym: one row per episode, or per round."]
    (path / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written
