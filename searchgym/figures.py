"""Pictures. matplotlib is an optional dependency and is imported only when one is drawn."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MissingExtraError

if TYPE_CHECKING:
    pass

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure in inches, on no screen.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import_module("matplotlib").use("Agg")
        return import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    except ModuleNotFoundError as error:
        raise MissingExtraError("a plot", "matplotlib", "train") from error


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a matplotlib figure as PNG: complete or not at all, and equal bytes for equal figures."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
