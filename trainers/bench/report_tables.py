"""Cells and tables of reports in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["interval", "share", "table"]


def interval(data: Mapping[str, float], signed: bool = False, digits: int = 3) -> str:
    """A figure with its interval.

    Args:
        data: value, low and high.
        signed: show a plus sign.
        digits: after the point.
    """
    sign = "+" if signed else ""
    value, low, high = (f"{data[k]:{sign}.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def share(value: float | None) -> str:
    """A percentage; a dash for None.

    Args:
        value: the share.
    """
    return "–" if value is None else f"{value:.1%}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    Args:
        header: of the columns.
        rows: their cells.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
