"""The families: what the pages of one question link to.

A question starts at one page and follows relations from page to page; the last relation gives a year, the answer. Which
other pages there are is what a family is about. Pages have names in this file ("start", "right"); the corpus gives each of
them the name of a person. Families use three kinds of links, which a policy can tell apart by what the question says:

- the relation whose turn it is: the right way;
- another relation of the question: looks right to a policy that does not count;
- a relation that the question does not mention.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from searchgym.errors import UnknownIdError
from searchgym.options import checks

__all__ = ["FAMILIES", "LIST", "YEAR", "Family", "MicroWorld", "Parameter", "check_parameters"]

RELATIONS = 12
"""Relations that lead to one page; each question draws their order."""
LIST, YEAR = -1, -2
"""The relation that leads to several pages, and the one that gives a year."""
Links = list[tuple[int, tuple[str, ...]]]


@dataclass(slots=True)
class MicroWorld:
    """The pages of one question.

    Attributes:
        path: the relations of the question, by number; `YEAR` is the last.
        gold: the pages to read, in order, one for each relation.
        pages: page -> its links: a relation by number, `LIST` or `YEAR`, and the pages it leads to, or a name for the year.
        hint: a year that the question suggests, by name; "" for none.
        detour: a page that the question names before the start page; "" for none.
    """

    path: tuple[int, ...]
    gold: tuple[str, ...]
    pages: dict[str, Links] = field(default_factory=dict)
    hint: str = ""
    detour: str = ""

    @property
    def unused(self) -> list[int]:
        """The relations that the question does not mention."""
        return [r for r in range(RELATIONS) if r not in self.path]

    def page(self, name: str, *links: tuple[int, str | tuple[str, ...]]) -> None:
        """Add a page; a link to nothing is left out."""
        self.pages[name] = [(r, (to,) if isinstance(to, str) else to) for r, to in links if to]

    def wrong_pages(self, kind: str, count: int) -> tuple[str, ...]:
        """Add pages that state a wrong year; returns their names."""
        names = tuple(f"{kind}{i}" for i in range(count))
        for name in names:
            self.page(name, (YEAR, f"year of {name}"))
        return names


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a family takes.

    Attributes:
        default: its default; an int parameter takes whole numbers, a float one shares of the questions.
        low: the least value.
        high: the largest value.
        text: its meaning.
    """

    default: int | float
    low: int | float
    high: int | float
    text: str

    def check(self, name: str, value: object) -> int | float:
        """The value; raises `ConfigError`."""
        if isinstance(self.default, int):
            return checks.integer(name, value, int(self.low), int(self.high))
        return checks.number(name, value, float(self.low), float(self.high))


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question.

    Attributes:
        build: makes the micro-world of the i-th question from the parameters.
        parameters: what it takes; the first one sets the difficulty.
        text: what it isolates.
    """

    build: Callable[[int, Mapping[str, Any]], MicroWorld]
    parameters: Mapping[str, Parameter]
    text: str


def _is_in_share(i: int, share: float) -> bool:
    """Whether the i-th question belongs to a share of all questions; every prefix has its share, rounded down."""
    # Floating point must not decide: 0.3 * 10 is below 3.
    millionths = round(share * 1_000_000)
    return (i + 1) * millionths // 1_000_000 > i * millionths // 1_000_000


def _hops(*pages: str) -> MicroWorld:
    """A world whose gold pages are `pages`; the last one states the answer."""
    world = MicroWorld((*range(len(pages) - 1), YEAR), pages)
    world.page(pages[-1], (YEAR, "answer"))
    return world


def _via_middle() -> MicroWorld:
    """Three gold pages; a link on the start page by relation 1, whose turn comes later, looks right and is wrong."""
    world = _hops("start", "middle", "right")
    world.page("middle", (1, "right"))
    return world


def _decoys(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _via_middle()
    twins = world.wrong_pages("twin", 1)
    decoys = world.wrong_pages("decoy", given["decoys"])
    world.page("start", (0, "middle"), (1, twins), *zip(world.unused, decoys, strict=False))
    return world


def _idle(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _hops("start", "right")
    wrong = world.wrong_pages("wrong", given["wrong"])
    world.page("start", (0, "right"), *zip(world.unused, wrong, strict=False))
    idle = [f"idle{k}" for k in range(given["idle"])]
    for name, following in itertools.pairwise([*idle, "start"]):
        world.page(name, (0, following))
    world.detour = "idle0" if idle else ""
    return world


def _guess(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _decoys(i, given)
    world.hint = "answer" if _is_in_share(i, given["guess"]) else "rumour"
    return world


def _trap(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _via_middle()
    traps = world.wrong_pages("trap", given["traps"])
    if _is_in_share(i, given["recovery"]):
        for name in traps:
            world.pages[name].append((0, ("middle",)))
    world.page("start", (0, "middle"), (1, traps))
    return world


def _delayed(i: int, given: Mapping[str, Any]) -> MicroWorld:
    delay = given["delay"]
    right = ("start", *(f"right{k}" for k in range(delay)))
    world = _hops(*right)
    for k in range(1, delay):
        world.page(right[k], (k, right[k + 1]))
    first = []
    for branch in range(given["wrong"]):
        wrong = [f"wrong{branch}-{k}" for k in range(delay)]
        for k in range(1, delay):
            world.page(wrong[k - 1], (k, wrong[k]))
        world.page(wrong[-1], (YEAR, f"year of {wrong[-1]}"))
        first.append(wrong[0])
    world.page("start", (0, right[1]), (delay - 1, tuple(first)))
    return world


def _repair(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _via_middle()
    dead = world.wrong_pages("dead", given["dead"])
    mistakes = tuple(f"mistake{k}" for k in range(given["mistakes"]))
    for name in mistakes:
        world.page(name, (0, "middle"), (LIST, dead))
    world.page("start", (0, "middle"), (1, mistakes))
    return world


def _redundant(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _via_middle()
    twins = world.wrong_pages("twin", given["twins"])
    same = ("start", *(f"copy{k}" for k in range(given["copies"])))
    for name in same:
        others = tuple(other for other in same if other != name)
        world.page(name, (0, "middle"), (1, twins), (LIST, others))
    return world


def _routes(i: int, given: Mapping[str, Any]) -> MicroWorld:
    world = _via_middle()
    wrong = world.wrong_pages("wrong", given["wrong"])
    onward, aside, *relations = world.unused
    # Each page of the longer route has a way into a wrong page: more rounds, more risk.
    long = [f"long{k}" for k in range(given["extra"] + 2)]
    for name, following in itertools.pairwise(long):
        world.page(name, (onward, following), (aside, wrong[:1]))
    world.page(long[-1], (YEAR, "answer"))
    world.page("start", (0, "middle"), (1, long[0]), *zip(relations, wrong, strict=False))
    return world


FAMILIES: dict[str, Family] = {
    "decoys": Family(
        _decoys,
        {
            "decoys": Parameter(
                4, 0, 9, "links on the start page that lead to a wrong year, besides one that looks right"
            )
        },
        "a decisive search among decoys",
    ),
    "idle": Family(
        _idle,
        {
            "idle": Parameter(
                5, 0, 8, "pages that only lead on, from the first name of the question to the second"
            ),
            "wrong": Parameter(5, 0, 8, "links on the start page that lead to a wrong year"),
        },
        "long episodes of which two searches matter",
    ),
    "guess": Family(
        _guess,
        {
            "guess": Parameter(0.3, 0.0, 1.0, "share of the questions that suggest the right answer"),
            "decoys": Parameter(
                4, 0, 9, "links on the start page that lead to a wrong year, besides one that looks right"
            ),
        },
        "answers that can be had without evidence",
    ),
    "trap": Family(
        _trap,
        {
            "traps": Parameter(2, 1, 8, "links that look right and lead to a wrong year"),
            "recovery": Parameter(0.5, 0.0, 1.0, "share of the questions whose traps name the right page"),
        },
        "a wrong page that looks right",
    ),
    "delayed": Family(
        _delayed,
        {
            "delay": Parameter(4, 2, 6, "rounds after which a wrong first choice shows"),
            "wrong": Parameter(1, 1, 2, "wrong first choices"),
        },
        "an early choice that shows later",
    ),
    "repair": Family(
        _repair,
        {
            "dead": Parameter(7, 0, 8, "links on a mistaken page that lead to a wrong year"),
            "mistakes": Parameter(
                5, 1, 8, "links that look right and lead to a page which names the right one"
            ),
        },
        "a mistake that the next search can repair",
    ),
    "redundant": Family(
        _redundant,
        {
            "copies": Parameter(6, 0, 8, "pages that repeat the start page"),
            "twins": Parameter(1, 0, 6, "links on the start page that look right and lead to a wrong year"),
        },
        "searches that return what is known",
    ),
    "routes": Family(
        _routes,
        {
            "extra": Parameter(3, 1, 6, "further searches of the longer route"),
            "wrong": Parameter(3, 0, 6, "links on the start page that lead to a wrong year"),
        },
        "two routes of unequal cost to the same answer",
    ),
}
"""All families by name."""


def check_parameters(family: str, given: Mapping[str, Any]) -> dict[str, int | float]:
    """The parameters of a family, defaults filled in.

    Args:
        family: its name.
        given: the values that differ from the defaults.

    Raises:
        UnknownIdError: a parameter that the family does not have.
        ConfigError: a value out of range.
    """
    declared = FAMILIES[family].parameters
    for name in given:
        if name not in declared:
            raise UnknownIdError(f"parameter of the family {family!r}:", name, declared)
    return {name: p.check(f"{family}: {name}", given.get(name, p.default)) for name, p in declared.items()}
