"""The dialects by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ..errors import UnknownIdError
from ..question import PLAIN_DESCRIPTION
from .dialect import Dialect
from .tags import TagsDialect
from .tools import ToolsDialect

__all__ = ["DIALECTS", "get_dialect"]

_CLASSES: dict[str, Callable[[str], Dialect]] = {"tags": TagsDialect, "tools": ToolsDialect}


@lru_cache(maxsize=256)
def _open_dialect(name: str, corpus_description: str) -> Dialect:
    return _CLASSES[name](corpus_description)


DIALECTS: dict[str, Dialect] = {name: _open_dialect(name, PLAIN_DESCRIPTION) for name in _CLASSES}
"""The dialects by name, as `gym.make(..., dialect=…)` takes them, for a corpus without a description."""


def get_dialect(name: str, corpus_description: str = PLAIN_DESCRIPTION) -> Dialect:
    """A dialect by name.

    Args:
        name: "tags" or "tools".
        corpus_description: how the system prompt names the corpus, a noun phrase.

    Raises:
        UnknownIdError: an unknown dialect.
    """
    if not isinstance(name, str) or name not in DIALECTS:
        raise UnknownIdError("dialect", name, DIALECTS)
    return _open_dialect(name, corpus_description)
