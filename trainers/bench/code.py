"""Which code a run was made with: a hash over the sources of the package, of plug-ins and of the numeric libraries."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from searchgym import plugins
from searchgym.errors import MissingExtraError, PluginError

__all__ = ["fingerprint", "versions"]

_WINGS = ("corpora", "agents", "trainers")
_SUFFIXES = {".py", ".json", ".safetensors", ".txt"}
_LIBRARIES = ("gymnasium", "numpy", "safetensors", "tokenizers", "torch", "transformers")
_MEASURES = {"worker.py", "probe.py"}  # of this folder: the rest only reads what runs have left behind


def versions() -> dict[str, str]:
    """Of Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("searchgym", *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def fingerprint(trainer: str, agent: str) -> str:
    """Hash of everything a run of this trainer and agent can depend on: any change of it is another version.

    Covers the package's sources and data (of the benchmark only what runs and measures), the packages of plug-ins
    that trainer and agent come from, and `versions`. It is of the code this process has loaded: what runs need is
    imported first, and what is edited afterwards does not reach it.
    """
    plugin = _digest(_plugin_files(trainer, agent))
    return hashlib.sha256(f"{_own_code()} {plugin}".encode()).hexdigest()[:16]


@cache
def _own_code() -> str:
    importlib.import_module("searchgym.trainers.training")
    for group, names in (("corpora", None), ("judges", None), ("retrievers", ["bm25"])):
        for name in names or plugins.names(group):
            with suppress(MissingExtraError, PluginError):  # then no run can use it either
                plugins.load(group, name)
    return f"{sorted(versions().items())} {_digest(_own_files())}"


def _digest(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _own_files() -> dict[str, Path]:
    files = {}
    for wing in ("", *_WINGS):
        root = _folder(".".join(filter(None, ("searchgym", wing))))
        for path in _sources(root):
            inside = path.relative_to(root)
            if not wing and inside.parts[0] in _WINGS:  # an installed wheel has the wings in here
                continue
            if wing == "trainers" and inside.parts[0] == "bench" and inside.name not in _MEASURES:
                continue
            files[f"{wing or 'searchgym'}/{inside.as_posix()}"] = path
    return files


def _plugin_files(trainer: str, agent: str) -> dict[str, Path]:
    """The top-level modules, as files or whole folders, of classes that are not ours."""
    files: dict[str, Path] = {}
    for group, name in (("trainers", trainer), ("agents", agent)):
        for base in getattr(plugins.load(group, name), "__mro__", ()):
            top = base.__module__.partition(".")[0]
            if top in ("searchgym", "builtins", "abc", "typing", "torch", "gymnasium"):
                continue
            file = Path(str(sys.modules[top].__file__ or base.__module__))
            found = _sources(file.parent) if file.name == "__init__.py" else [file]
            files |= {f"{top}/{p.relative_to(file.parent).as_posix()}": p for p in found}
    return files


def _folder(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__)).parent


def _sources(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.suffix in _SUFFIXES and "__pycache__" not in path.parts and path.is_file():
            yield path
