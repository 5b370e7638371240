"""The two renderings of a micro-world.

terse, for the tiny language model and the candidate policy; a page, a question:

    Mira Vogack is painter ; mentor Jan Kerberg ; members Otto Barberg , Vera Nyleth ; founded 1931
    Mira Vogack : mentor : founded , 1893 ?

natural:

    Mira Vogack was a painter. Her mentor was Jan Kerberg. Her friends were Otto Barberg and Vera Nyleth. Her debut was in 1931.
    When was the debut of the mentor of Mira Vogack? Was it in 1893?

Terse relations are words of the terse country, because the vocabulary of the tiny language model ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..world.words import MALE_NAMES

__all__ = ["STYLES", "Style"]


class Style(NamedTuple):
    """A rendering.

    Attributes:
        relations: the word of each relation that leads to one page.
        list_relation: the word of the relation that leads to several pages.
        years: words of the relation that gives a year; each question draws one.
        text: (name, profession, [(relation, values)]) -> the text of a page.
        question: (names, the start last; relations in the order to follow; suggested year or "") -> the question.
    """

    relations: tuple[str, ...]
    list_relation: str
    years: tuple[str, ...]
    text: Callable[[str, str, Sequence[tuple[str, Sequence[str]]]], str]
    question: Callable[[Sequence[str], Sequence[str], str], str]


def _terse_text(name: str, profession: str, facts: Sequence[tuple[str, Sequence[str]]]) -> str:
    return " ; ".join(
        [f"{name} is {profession}", *(f"{relation} {' , '.join(values)}" for relation, values in facts)]
    )


def _terse_question(starts: Sequence[str], path: Sequence[str], year: str) -> str:
    return " : ".join([" , ".join(starts), *path]) + (f" , {year} ?" if year else " ?")


def _natural_text(name: str, profession: str, facts: Sequence[tuple[str, Sequence[str]]]) -> str:
    whose = "His" if name.split()[0] in MALE_NAMES else "Her"
    sentences = [f"{name} was a {profession}."]
    for relation, values in facts:
        *most, last = values
        if relation == _NATURAL.list_relation:
            listed = f"{', '.join(most)} and {last}" if most else last
            sentences.append(f"{whose} {relation} were {listed}.")
        elif relation in _NATURAL.years:
            sentences.append(f"{whose} {relation} was in {last}.")
        else:
            first, *others = values
            sentences.append(f"{whose} {relation} was {first}.")
            sentences += [f"{whose} other {relation} was {other}." for other in others]
    return " ".join(sentences)


def _natural_question(starts: Sequence[str], path: Sequence[str], year: str) -> str:
    described = " of ".join(f"the {relation}" for relation in reversed(path))
    *detour, start = starts
    opening = f"From {detour[0]} to {start}: when" if detour else "When"
    return f"{opening} was {described} of {start}?" + (f" Was it in {year}?" if year else "")


_NATURAL = Style(
    tuple(
        "mentor cousin neighbour guardian rival patron teacher biographer pupil agent editor partner".split()
    ),
    "friends",
    tuple("debut retirement arrival election voyage graduation".split()),
    _natural_text,
    _natural_question,
)
STYLES: dict[str, Style] = {
    "terse": Style(
        tuple(
            "mentor spouse mayor governor climber founder principal author laureate curator editor captain".split()
        ),
        "members",
        tuple("born founded opened launched released published".split()),
        _terse_text,
        _terse_question,
    ),
    "natural": _NATURAL,
}
"""The renderings by name."""
