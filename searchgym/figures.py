"""Plots. matplotlib is an optional dependency, imported only when a plot is drawn."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import MissingExtraError
from .files import replacing

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure without a window.

    Args:
        width: inches.
        height: inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import_module("matplotlib").use("Agg")
        return import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    except ModuleNotFoundError as error:
        raise MissingExtraError("a plot", "matplotlib", "train") from error


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure as a PNG file in one step; equal figures give equal bytes.

    Args:
        figure: the figure.
        path: the file.
        dpi: dots per inch.
    """
    with replacing(path, alone=True) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
