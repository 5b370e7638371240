"""The wordings of the encyclopedia: tables of text in `text/*.txt`, read when they are first used."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["wordings"]


@cache
def wordings(table: str) -> dict[str, tuple[str, ...]]:
    """The lines under each [heading] of a table, in the order of the file; a line that begins with "#" is a comment.

    Args:
        table: the name of a file in `text`, without ".txt". The head of each file explains its fields.
    """
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in files(__package__).joinpath("text", f"{table}.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return {heading: tuple(lines) for heading, lines in found.items()}
