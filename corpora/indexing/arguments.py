"""The arguments of `search`, checked the same way by every retriever."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from searchgym.errors import ConfigError

__all__ = ["check_k", "check_queries"]


def check_k(k: object) -> int:
    """A number of hits, also one of numpy's integers; raises `ConfigError` unless it is whole and >= 1."""
    try:
        number = operator.index(k)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(k, bool):
        raise ConfigError(f"k={k!r}: use a whole number >= 1")
    return number


def check_queries(queries: Sequence[str]) -> list[str]:
    """The queries as a list; raises `ConfigError` for one string in place of a list, or for no string in it."""
    if isinstance(queries, str):
        raise ConfigError(f"queries is one string ({queries[:40]!r}): pass a list of strings")
    for query in queries:
        if not isinstance(query, str):
            raise ConfigError(f"query {query!r:.60} is of type {type(query).__name__}: pass a string")
    return list(queries)
