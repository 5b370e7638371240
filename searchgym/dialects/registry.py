"""The dialects by name: the built-in ones, those of other packages, and those registered in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..errors import ConfigError, PluginError, UnknownIdError
from ..options import plugins
from ..records.acts import Act
from ..records.question import PLAIN_DESCRIPTION
from .dialect import Dialect
from .tags import TagsDialect
from .tools import ToolsDialect

__all__ = ["DIALECTS", "get_dialect", "register_dialect"]

_CLASSES: dict[str, Callable[[str], Dialect]] = {"tags": TagsDialect, "tools": ToolsDialect}
_ACTS = (Act("search", queries=("a query",)), Act("answer", answer="an answer"))


@lru_cache(maxsize=256)
def _open_dialect(name: str, corpus_description: str) -> Dialect:
    factory = _CLASSES.get(name)
    return _opened(name, factory or plugins.load("dialects", name), corpus_description)


def _opened(name: str, factory: Callable[[str], Any], corpus_description: str) -> Dialect:
    try:
        dialect = factory(corpus_description)
    except Exception as error:
        raise PluginError(f"dialect {name!r} cannot be opened: {type(error).__name__}: {error}") from error
    if not isinstance(dialect, Dialect):
        raise PluginError(f"dialect {name!r} is a {type(dialect).__name__}, which is not a searchgym Dialect")
    if dialect.name != name:
        raise PluginError(f"dialect {name!r} calls itself {dialect.name!r}: give both the same name")
    return dialect


DIALECTS: dict[str, Dialect] = {name: _open_dialect(name, PLAIN_DESCRIPTION) for name in _CLASSES}
"""The built-in dialects by name, for a corpus without a description."""


def get_dialect(name: str, corpus_description: str = PLAIN_DESCRIPTION) -> Dialect:
    """A dialect by name.

    Args:
        name: "tags", "tools", or a name that is registered here or under the entry-point group `searchgym.dialects`.
        corpus_description: how the system prompt names the corpus, a noun phrase.

    Raises:
        UnknownIdError: an unknown dialect.
        PluginError: the dialect of another package cannot be opened.
    """
    if isinstance(name, str) and name in _CLASSES:
        return _open_dialect(name, corpus_description)
    known = plugins.names("dialects")
    if not isinstance(name, str) or name not in known:
        raise UnknownIdError("dialect", name, {*_CLASSES, *known}, "searchgym.register_dialect adds one.")
    return _open_dialect(name, corpus_description)


def register_dialect(factory: Callable[[str], Dialect]) -> None:
    """Make a dialect known in this process; one of the same name that was registered here before is replaced.

    A package registers its dialects under the entry-point group `searchgym.dialects`.

    Subclass `TagsDialect`, `ToolsDialect` or `ScannedDialect`, or implement `Dialect`.

    Args:
        factory: called with the corpus description, a noun phrase; e.g. the class. Its attribute `name` is the dialect's.

    Raises:
        ConfigError: the name is that of a built-in dialect or of a package.
        PluginError: it is not a dialect, or it does not read the acts that it writes.
    """
    name = getattr(factory, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f"dialect {factory!r} has no name: give its class an attribute `name`, a string")
    if name in DIALECTS or name in plugins.names("dialects"):
        raise ConfigError(f"dialect {name!r} is built in or of a package: give yours another name")
    dialect = _opened(name, factory, PLAIN_DESCRIPTION)
    for act in _ACTS:
        read = dialect.parse(dialect.write(act), feedback=False, max_queries=1)
        if read != act:
            raise PluginError(f"dialect {name!r} reads {read} from the message that it writes for {act}")
    _CLASSES[name] = factory
    _open_dialect.cache_clear()
