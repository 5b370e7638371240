"""Trainers by name: registered ones, classes in a file (`my_rule.py:MyRule`) or module, and classes handed in directly.

Torch is imported when a trainer is loaded, not before.
"""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from searchgym.errors import ConfigError, SearchGymError
from searchgym.options import plugins
from searchgym.options.sources import load_source, source_name

if TYPE_CHECKING:
    from .algorithm import Algorithm

__all__ = ["check_trainer_class", "load_trainer", "trainer_label", "trainer_name"]

_SESSION = re.compile(r"<(\w+)>")


def load_trainer(name: str) -> type[Algorithm]:
    """The class of a trainer.

    Args:
        name: a registered name, "file.py:Class" or "package.module:Class".

    Raises:
        UnknownIdError: no trainer is registered under the name.
        ConfigError: the file or the class does not exist, or the class is not a complete trainer.
        PluginError: the file or module cannot be imported.
    """
    if session := _SESSION.fullmatch(name):
        raise ConfigError(
            f"trainer {session[1]} is a class of the session that started the run: resume it there with "
            f"resume(run_dir, trainer={session[1]}), or move the class into a file"
        )
    if ":" not in name:
        return check_trainer_class(name, plugins.load("trainers", name))
    return check_trainer_class(name, load_source("trainer", "class", name, _is_trainer))


def _is_trainer(value: Any) -> bool:
    return inspect.isclass(value) and hasattr(value, "settings_class")


def check_trainer_class(name: str, kind: object) -> type[Algorithm]:
    """The class itself, if it is a trainer that can be instantiated.

    Args:
        name: the trainer, for the message.
        kind: what was found under that name.

    Raises:
        ConfigError: it is not a subclass of `Algorithm`, or lacks an abstract method.
    """
    from .algorithm import Algorithm

    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        raise ConfigError(f"trainer {name!r} is {kind!r}: give a subclass of Algorithm")
    missing = sorted(kind.__abstractmethods__)
    if missing:
        raise ConfigError(
            f"trainer {name!r} does not define {' and '.join(missing)}(): define it, or subclass GRPO, which defines both"
        )
    return kind


def trainer_name(kind: type[Algorithm]) -> str:
    """The name under which `load_trainer` finds a class again: registered, in a file or in a module.

    A class that cannot be found again (of a notebook, a script that is running, or defined inside a function) is named
    "<Class>".
    """
    for name in plugins.names("trainers"):
        with suppress(SearchGymError):
            if plugins.load("trainers", name) is kind:
                return name
    return source_name(kind)


def trainer_label(name: str) -> str:
    """A trainer's name without its file or module."""
    return name.rpartition(":")[2].strip("<>")
