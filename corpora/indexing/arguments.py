"""Checks of the arguments of `search`, for every retriever."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from searchgym.errors import ConfigError

__all__ = ["check_k", "check_queries"]


def check_k(k: object) -> int:
    """The number of hits as an int; numpy's integers are accepted too.

    Raises:
        ConfigError: k is not a whole number of at least 1.
    """
    try:
        number = operator.index(k)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(k, bool):
        raise ConfigError(f"k is {k!r}: give a whole number of at least 1")
    return number


def check_queries(queries: Sequence[str]) -> list[str]:
    """The queries as a list.

    Raises:
        ConfigError: `queries` is a single string, or an element is not a string.
    """
    if isinstance(queries, str):
        raise ConfigError(f"queries is a single string ({queries[:40]!r}): pass a list of strings")
    for query in queries:
        if not isinstance(query, str):
            raise ConfigError(f"query {query!r:.60} is of type {type(query).__name__}: pass a string")
    return list(queries)
