"""Plots. matplotlib is an optional dependency, imported only when a plot is drawn."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import ConfigError, MissingExtraError
from .files import replacing

__all__ = ["check_format", "new_figure", "save_figure"]

_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}
"""The formats, with the entries that would differ between equal figures."""


def check_format(path: Path) -> str:
    """The format in which a figure is written to a path.

    Args:
        path: the file.

    Raises:
        ConfigError: its suffix is not that of a format.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        known = ", ".join(f".{one}" for one in _METADATA)
        raise ConfigError(f"plot {str(path)!r} has the suffix {path.suffix!r}: give one of {known}")
    return kind


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure without a window. The backend stays as it is, so that a notebook goes on showing its own figures.

    Args:
        width: inches.
        height: inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        return import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    except ModuleNotFoundError as error:
        raise MissingExtraError("a plot", "matplotlib", "train") from error


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure in the format of the file's suffix, in one step; equal figures give equal bytes.

    Args:
        figure: the figure.
        path: the file: .png, .pdf or .svg.
        dpi: dots per inch of a PNG.

    Raises:
        ConfigError: another suffix.
    """
    kind = check_format(path)
    style = import_module("matplotlib").rc_context({"svg.hashsalt": "searchgym"})
    with replacing(path, alone=True) as temporary, style:
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=_METADATA[kind])
