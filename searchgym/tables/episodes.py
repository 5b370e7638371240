"""Recorded episodes as a table in Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingExtraError, UnknownIdError
from ..records.episode import Episode, load_episodes
from .columns import COLUMNS, LEVELS, rows
from .statistics import FailureStats, failure_statistics

__all__ = ["Episodes"]

_PANDAS = {"int": "Int64", "float": "float64", "bool": "bool"}


class Episodes:
    """Episodes as rows and columns: a list that is in memory, or files that are read whenever they are iterated.

    `Episodes("eval.jsonl")["em"]` is a column. A row is an episode, or a round with `level="rounds"`;
    `searchgym.tables.columns.COLUMNS` names the columns with their types.

    Args:
        source: a file of episodes, several of them, or episodes.

    Raises:
        ConfigError: the source is none of these.
    """

    def __init__(self, source: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | Episode]) -> None:
        parts: list[Any] = [source] if isinstance(source, str | os.PathLike) else list(source)
        for part in parts:
            if not isinstance(part, str | os.PathLike | Episode):
                raise ConfigError(f"source holds {part!r:.60}: give files of episodes, or episodes")
        self._parts = [part if isinstance(part, Episode) else Path(part) for part in parts]

    @property
    def paths(self) -> list[Path]:
        """The files that are read."""
        return [part for part in self._parts if isinstance(part, Path)]

    def __iter__(self) -> Iterator[Episode]:
        for part in self._parts:
            if isinstance(part, Episode):
                yield part
            else:
                yield from load_episodes(part)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        held = len(self._parts) - len(self.paths)
        return f"<Episodes: {', '.join(map(str, self.paths)) or f'{held} in memory'}>"

    def columns(self, level: str = "episodes") -> list[str]:
        """The names of the columns.

        Args:
            level: what a row is: "episodes" or "rounds".
        """
        return list(_types(level))

    def rows(self, level: str = "episodes") -> Iterator[dict[str, Any]]:
        """The rows, one at a time.

        Args:
            level: what a row is: "episodes" or "rounds".
        """
        return rows(self, level)

    def column(self, name: str, level: str = "episodes") -> list[Any]:
        """One column.

        Args:
            name: its name.
            level: what a row is: "episodes" or "rounds".

        Raises:
            UnknownIdError: there is no such column.
        """
        if name not in _types(level):
            raise UnknownIdError(f"column of {level}", name, _types(level))
        return [row[name] for row in self.rows(level)]

    def __getitem__(self, name: str) -> list[Any]:
        return self.column(name)

    def to_pandas(self, level: str = "episodes") -> Any:
        """A `pandas.DataFrame`; integers that may be missing are of pandas' type Int64.

        Args:
            level: what a row is: "episodes" or "rounds".

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = _import("pandas", "a data frame")
        values = _by_column(self.rows(level), list(_types(level)))
        return pandas.DataFrame(
            {
                name: pandas.Series(values[name], dtype=_PANDAS.get(kind))
                for name, kind in _types(level).items()
            }
        )

    def to_dataset(self, level: str = "episodes") -> Any:
        """A Hugging Face `datasets.Dataset` in memory; for files larger than memory use `searchgym export --to hf`.

        Args:
            level: what a row is: "episodes" or "rounds".

        Raises:
            MissingExtraError: datasets is not installed.
        """
        datasets = _import("datasets", "a Hugging Face dataset")
        from .files import arrow_table

        return datasets.Dataset(arrow_table(self.rows(level), level))

    def failures(self, examples: int = 3) -> FailureStats:
        """Why the episodes failed; see `searchgym.tables.failure_statistics`.

        Args:
            examples: ids to keep for each cause.
        """
        return failure_statistics(self, examples)


def _types(level: str) -> dict[str, str]:
    if level not in LEVELS:
        raise UnknownIdError("level", level, LEVELS)
    return COLUMNS[level]


def _by_column(source: Iterable[dict[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in source:
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _import(module: str, feature: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(feature, module, "export") from error
