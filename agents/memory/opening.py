"""Opens a memory by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import mapping

from .experience import Experience
from .protocol import Memory
from .reflections import Reflections
from .skills import SkillBank

__all__ = ["MEMORIES", "open_memory"]

MEMORIES: dict[str, Callable[..., Memory]] = {
    kind.name: kind for kind in (Reflections, SkillBank, Experience)
}
"""The memories by name."""


def open_memory(memory: Any) -> Memory:
    """Open a memory; one that is open is returned as it is.

    Args:
        memory: a name, {"name": …, **options}, or a `Memory`.

    Raises:
        UnknownIdError: an unknown name.
        ConfigError: an option it does not take, or a value that cannot be used.
    """
    if isinstance(memory, Memory):
        return memory
    options: dict[str, Any] = {"name": memory} if isinstance(memory, str) else {}
    if isinstance(memory, Mapping):
        options = mapping("memory", memory)
    name = options.pop("name", None)
    if name not in MEMORIES:
        raise UnknownIdError("memory", name if isinstance(name, str) else memory, MEMORIES)
    try:
        return MEMORIES[name](**options)
    except TypeError as error:
        raise ConfigError(f"memory {name!r} does not take these options: {error}") from None
