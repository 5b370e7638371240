"""Objects by the place of their code: in a file, "my_rule.py:MyRule", or in a module, "package.module:MyRule"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, PluginError, SearchGymError, did_you_mean

__all__ = ["absolute_name", "load_source", "source_name"]


def load_source(kind: str, noun: str, name: str, wanted: Callable[[Any], bool]) -> Any:
    """The object that a name like "file.py:Name" or "package.module:Name" stands for.

    A file is executed once in a process, as long as it does not change.

    Args:
        kind: what the object is, e.g. "trainer", for messages.
        noun: what it is in Python, e.g. "class".
        name: its name.
        wanted: whether another object of the same file is one, for suggestions.

    Raises:
        ConfigError: the file or the object does not exist.
        PluginError: the file or module cannot be imported.
    """
    source, _, attribute = name.rpartition(":")
    module = (
        _load_file(kind, name, Path(source)) if source.endswith(".py") else _load_module(kind, name, source)
    )
    if not hasattr(module, attribute):
        known = [
            found
            for found, value in vars(module).items()
            if wanted(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise ConfigError(
            f"{kind} {name!r}: {source} has no {noun} {attribute!r}.{did_you_mean(attribute, known)} It defines "
            f"{', '.join(known) or 'none'}."
        )
    return getattr(module, attribute)


def source_name(value: Any) -> str:
    """The name under which `load_source` finds a class or function again.

    One that cannot be found again (of a notebook, of a script that is running, or defined inside a function) is named
    "<Name>".
    """
    name: str = value.__name__
    module: Any = sys.modules.get(value.__module__)
    file = getattr(module, "__file__", None)
    if value.__module__ == "__main__" or not file or getattr(module, value.__qualname__, None) is not value:
        return f"<{name.strip('<>')}>"
    source = value.__module__ if "." in value.__module__ else os.path.abspath(file)
    return f"{source}:{name}"


def absolute_name(name: str, folder: Path | None = None) -> str:
    """The same name, with an absolute path if it is of something in a file.

    Args:
        name: see `load_source`; other names are returned as they are.
        folder: where a relative path is looked for first; default: the current directory.
    """
    source, _, attribute = name.rpartition(":")
    if not source.endswith(".py"):
        return name
    nearby = (folder or Path()) / source
    return f"{os.path.abspath(nearby if nearby.is_file() else source)}:{attribute}"


def _load_file(kind: str, name: str, path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{kind} {name!r}: {path} cannot be read ({error.strerror})") from error
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
        raise _import_error(kind, name, error) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _load_module(kind: str, name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except Exception as error:
        raise _import_error(kind, name, error) from error


def _import_error(kind: str, name: str, error: BaseException) -> BaseException:
    """What to raise for an error of foreign code: errors of our own, and interrupts, stay as they are."""
    if isinstance(error, SearchGymError) or not isinstance(error, Exception):
        return error
    return PluginError(f"{kind} {name!r} cannot be loaded: {type(error).__name__}: {error}")
