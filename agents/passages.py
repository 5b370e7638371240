"""Reads passages, names and numbers out of observations, for agents without a language model."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["FUNCTION_WORDS", "NUMBER", "SPAN", "YEAR", "ShownPassage", "contains_phrase", "read_passages"]

_HEAD = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)
_WRAPPING = re.compile(r"^</?(?:information|tool_response)>$", re.MULTILINE)

YEAR = re.compile(r"\b1[0-9]{3}\b|\b20[0-9]{2}\b")
"""A year from 1000 to 2099."""
NUMBER = re.compile(r"\b\d+(?:,\d{3})*(?:\.\d+)?\b")
"""A number in digits, with its thousands separators."""
FUNCTION_WORDS = frozenset(
    "a an and are as at be but by did do does for from had has have he her his how if in into is it its me name of "
    "on or she some that the their them then there these they this those to was were what when where which while who "
    "whom whose why with".split()
)
"""Words that carry no content and never begin a name."""
_CAPITAL = r"[A-ZÀ-ÖØ-Þ]"
_START = rf"(?!(?i:{'|'.join(sorted(FUNCTION_WORDS))})\b)"
_WORD = rf"(?:{_CAPITAL}\.(?= {_START}{_CAPITAL})|{_CAPITAL}[\w'’.&-]*(?<![.'’-]))"
SPAN = re.compile(
    rf"(?<![\w'’-]){_START}{_WORD}(?:(?: of the| of| the| in the| de| van| von)? {_WORD})*(?: \([^()]*\))?"
)
"""A name: capitalised words with short joining words between them, and its qualifier in parentheses."""


class ShownPassage(NamedTuple):
    """A passage as an observation shows it.

    Attributes:
        title: its title.
        text: its text, possibly truncated.
    """

    title: str
    text: str


def read_passages(observation: str) -> list[ShownPassage]:
    """The passages of a search result in order of rank; an empty list for any other observation.

    A passage starts at a line that begins with the next rank in square brackets, so a list inside a passage does not
    start a new one.
    """
    heads: list[re.Match[str]] = []
    for head in _HEAD.finditer(observation):
        if int(head[1]) == len(heads) + 1:
            heads.append(head)
    ends = [head.start() for head in heads[1:]] + [len(observation)] * bool(heads)
    return [
        ShownPassage(head[2].strip(), _WRAPPING.sub("", observation[head.end() : end]).strip())
        for head, end in zip(heads, ends, strict=True)
    ]


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether `phrase` occurs in `text` as whole words, ignoring case; False for an empty phrase."""
    phrase = phrase.strip()
    if not phrase:
        return False
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None
