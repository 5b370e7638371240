"""Trainers by name: registered ones, classes in a file (`my_rule.py:MyRule`) or module, and classes handed in directly.

Torch is imported when a trainer is loaded, not before.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from searchgym import plugins
from searchgym.errors import ConfigError, PluginError, SearchGymError, did_you_mean

if TYPE_CHECKING:
    from .algorithm import Algorithm

__all__ = ["absolute_name", "check_trainer_class", "load_trainer", "trainer_label", "trainer_name"]

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
    source, colon, attribute = name.rpartition(":")
    if not colon:
        return check_trainer_class(name, plugins.load("trainers", name))
    module = _load_file(name, Path(source)) if source.endswith(".py") else _load_module(name, source)
    if not hasattr(module, attribute):
        known = [n for n, v in vars(module).items() if inspect.isclass(v) and hasattr(v, "settings_class")]
        raise ConfigError(
            f"trainer {name!r}: {source} has no class {attribute!r}.{did_you_mean(attribute, known)} Its trainers: "
            f"{', '.join(known) or 'none'}."
        )
    return check_trainer_class(name, getattr(module, attribute))


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
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if kind.__module__ == "__main__" or not file or getattr(module, kind.__qualname__, None) is not kind:
        return f"<{kind.__name__}>"
    source = kind.__module__ if "." in kind.__module__ else os.path.abspath(file)
    return f"{source}:{kind.__name__}"


def trainer_label(name: str) -> str:
    """A trainer's name without its file or module."""
    return name.rpartition(":")[2].strip("<>")


def absolute_name(name: str, folder: Path | None = None) -> str:
    """The same trainer, with an absolute path if it is in a file.

    Args:
        name: see `load_trainer`.
        folder: where a relative path is looked for first; default: the current directory.
    """
    source, _, attribute = name.rpartition(":")
    if not source.endswith(".py"):
        return name
    nearby = (folder or Path()) / source
    return f"{os.path.abspath(nearby if nearby.is_file() else source)}:{attribute}"


def _load_file(name: str, path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"trainer {name!r}: {path} cannot be read ({error.strerror})") from error
    path = path.resolve()
    digest = hashlib.sha256(os.fsencode(path) + content).hexdigest()[:8]
    module_name = f"searchgym_file_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))  # like a script, it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        raise _import_error(name, error) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _load_module(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except Exception as error:
        raise _import_error(name, error) from error


def _import_error(name: str, error: BaseException) -> BaseException:
    """What to raise for an error of foreign code: errors of our own, and interrupts, stay as they are."""
    if isinstance(error, SearchGymError) or not isinstance(error, Exception):
        return error
    return PluginError(f"trainer {name!r} cannot be loaded: {type(error).__name__}: {error}")
