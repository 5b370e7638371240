"""The one door through which the core finds corpora, retrievers, judges, agents, trainers and commands.

Built-in parts are declared in pyproject.toml exactly as a stranger's plug-in is. The core never imports a
wing; it asks here by name.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any

from .errors import MissingExtraError, PluginError, UnknownIdError

__all__ = ["load", "names"]

_SINGULAR = {
    "corpora": "corpus",
    "retrievers": "retriever",
    "judges": "judge",
    "agents": "agent",
    "trainers": "trainer",
    "commands": "command",
}
_TRAIN_MODULES = {"torch", "transformers", "peft", "accelerate", "safetensors", "matplotlib"}


@cache
def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {e.name: e for e in importlib.metadata.entry_points(group=f"searchgym.{group}")}


def names(group: str) -> list[str]:
    """The registered names of a group ("corpora", "retrievers", "judges", "agents", "trainers", "commands")."""
    return sorted(_entry_points(group))


def load(group: str, name: str) -> Any:
    """Load the object registered as `name` in `group`.

    Raises:
        UnknownIdError: nobody registered the name.
        MissingExtraError: it needs an optional dependency that is not installed.
        PluginError: it is registered but its module or attribute cannot be loaded.
    """
    points = _entry_points(group)
    if name not in points:
        hint = "A plug-in added to pyproject.toml appears only after its package is installed again."
        raise UnknownIdError(_SINGULAR[group], name, points, hint)
    try:
        return points[name].load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _TRAIN_MODULES:
            raise MissingExtraError(f"{_SINGULAR[group]} {name!r}", missing, "train") from error
        raise PluginError(f"{_SINGULAR[group]} {name!r} cannot be loaded: {error}") from error
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{_SINGULAR[group]} {name!r} cannot be loaded: {error}") from error
