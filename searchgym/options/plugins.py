"""Plug-in registry: finds corpora, retrievers, judges, agents, reward terms, trainers and commands through Python entry points.

Built-in parts are declared in pyproject.toml exactly like those of a third-party plug-in. The core imports no higher
package; it loads what it needs by name.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any

from ..errors import MissingExtraError, PluginError, UnknownIdError

__all__ = ["load", "names"]

_SINGULAR = {
    "corpora": "corpus",
    "retrievers": "retriever",
    "judges": "judge",
    "agents": "agent",
    "rewards": "reward term",
    "dialects": "dialect",
    "trainers": "trainer",
    "commands": "command",
    "functions": "function",
}
_EXTRAS = {
    "train": {"torch", "transformers", "peft", "accelerate", "safetensors", "matplotlib"},
    "judge": {"openai", "lmdb", "aiolimiter"},
}


@cache
def _entry_points(group: str) -> dict[str, list[importlib.metadata.EntryPoint]]:
    """The declarations of a group by name; more than one if packages disagree."""
    points: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=f"searchgym.{group}"):
        same = points.setdefault(point.name, [])
        if point.value not in [other.value for other in same]:
            same.append(point)
    return points


def names(group: str) -> list[str]:
    """The registered names of a group ("corpora", "retrievers", "judges", "agents", "rewards", "trainers", …)."""
    return sorted(_entry_points(group))


def load(group: str, name: str) -> Any:
    """Load the object registered as `name` in `group`.

    Raises:
        UnknownIdError: the name is not registered.
        MissingExtraError: it needs an optional dependency that is not installed.
        PluginError: it cannot be loaded, whatever it raised, or is registered twice.
    """
    points = _entry_points(group)
    if name not in points:
        hint = "A plug-in added to pyproject.toml appears only after its package is installed again."
        raise UnknownIdError(_SINGULAR[group], name, points, hint)
    if len(points[name]) > 1:
        values = " and ".join(point.value for point in points[name])
        raise PluginError(
            f"{_SINGULAR[group]} {name!r} is registered twice, as {values}: uninstall one package"
        )
    try:
        return points[name][0].load()
    except MissingExtraError:  # already names the extra
        raise
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in _EXTRAS.items() if missing in modules), None)
        if extra is not None:
            raise MissingExtraError(f"{_SINGULAR[group]} {name!r}", missing, extra) from error
        raise PluginError(f"{_SINGULAR[group]} {name!r} cannot be loaded: {error}") from error
    except Exception as error:  # a third-party module may raise anything; it must not break the others
        raise PluginError(
            f"{_SINGULAR[group]} {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
