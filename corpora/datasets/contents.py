"""The field "contents" of Search-R1's and FlashRAG's documents: title and text in one string."""

from __future__ import annotations

from typing import Any

__all__ = ["split_contents"]


def split_contents(contents: str, given: Any = None) -> tuple[str, str]:
    """Title and text of "contents": the first line without one pair of quotes, and the rest.

    A single line is a text without a title.

    Args:
        contents: the string.
        given: the title, if it is known. Then "contents" is the text; a first line that repeats the title is removed.
    """
    first, newline, rest = contents.partition("\n")
    title = first.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1]
    if isinstance(given, str) and given.strip():
        return given, rest if newline and title == given.strip() else contents
    return (title, rest) if newline else ("", contents)
