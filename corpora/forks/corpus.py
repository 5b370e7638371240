"""The families as a corpus: every question owns a few pages, and no page of another question links to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import checks
from searchgym.records.question import Hop, Passage, Question

from ..world.arithmetic import hash64, hash64_each, key
from ..world.words import GIVEN_NAMES, SURNAME_HEADS, SURNAME_TAILS
from .families import FAMILIES, LIST, YEAR, MicroWorld, check_parameters
from .rendering import STYLES

__all__ = ["MAX_QUESTIONS", "Forks", "open_forks"]

T = TypeVar("T")
VERSION = 1
"""Part of every digest; increased whenever any page or question changes."""
SPLITS = {"train": 400, "dev": 100, "test": 100}
ALL = "all"
# Professions that are not relations of the country too.
_PROFESSIONS = tuple(
    "painter chemist poet sculptor surgeon composer geologist translator merchant sailor".split()
)
_SURNAMES = [head + tail for head in SURNAME_HEADS for tail in SURNAME_TAILS]
_YEARS = range(1860, 1991)
_PAGES = 20
"""The most pages of a question."""
MAX_QUESTIONS = len(GIVEN_NAMES) * len(_SURNAMES) // _PAGES // len(SPLITS)
"""The most questions a split can have: each name belongs to one question."""


class Forks:
    """Questions whose rounds differ in what they are worth, a `searchgym.Corpus`.

    Args:
        family: a name of `FAMILIES`, or "all": each in turn, with its defaults.
        parameters: parameters of the family that differ from their defaults.
        seed: any integer; another seed gives other names and other orders of facts.
        style: "terse" or "natural". Both have the same pages, question ids and answers.
        train: questions of the split train.
        dev: questions of the split dev.
        test: questions of the split test.

    Attributes:
        parameters: family -> its parameters.

    Raises:
        ConfigError: an argument out of range.
        UnknownIdError: an unknown family, parameter or style.
    """

    description = "a collection of short biographies"

    def __init__(
        self,
        family: str = ALL,
        parameters: Mapping[str, Any] | None = None,
        seed: int = 0,
        style: str = "terse",
        train: int = SPLITS["train"],
        dev: int = SPLITS["dev"],
        test: int = SPLITS["test"],
    ) -> None:
        if style not in STYLES:
            raise UnknownIdError("style", style, STYLES)
        if family not in FAMILIES and family != ALL:
            raise UnknownIdError("family", family, (*FAMILIES, ALL))
        given = checks.mapping(f"parameters of the family {family!r}", parameters or {})
        if family == ALL and given:
            name = next(iter(given))
            raise ConfigError(
                f"parameter {name!r} is given for all families: name the family, e.g. family={_owner(name)!r}"
            )
        self._families = tuple(FAMILIES) if family == ALL else (family,)
        self.parameters = {name: check_parameters(name, given) for name in self._families}
        self._counts = {
            split: checks.integer(f"number of {split} questions", count, 0, MAX_QUESTIONS)
            for split, count in (("train", train), ("dev", dev), ("test", test))
        }
        if not any(self._counts.values()):
            raise ConfigError("train, dev and test are 0: request at least one question")
        self._seed = checks.integer("seed", seed)
        self._style, self._style_name = STYLES[style], style
        self.name = f"forks-{family}" + ("" if style == "terse" else f"-{style}")
        order = _Order(hash64(seed, key("forks names")), 0)
        self._given, self._surnames = order.shuffled(GIVEN_NAMES), order.shuffled(_SURNAMES)
        self._passages: list[Passage] = []
        self._questions: dict[str, list[Question]] = {split: [] for split in self.splits}
        self._write()
        self._by_id = {q.id: q for questions in self._questions.values() for q in questions}
        pages = [[VERSION], *([p.id, p.title, p.text] for p in self._passages)]
        self.hash = hashlib.sha256(json.dumps(pages).encode()).hexdigest()[:32]

    @property
    def passages(self) -> Sequence[Passage]:
        """All pages, ordered by id."""
        return self._passages

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have questions."""
        return tuple(split for split, count in self._counts.items() if count)

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of one split, in a fixed order; raises `UnknownIdError`."""
        if split not in self.splits:
            raise UnknownIdError("split", split, self.splits)
        return self._questions[split]

    def question(self, task_id: str) -> Question:
        """One question of any split; raises `UnknownIdError`."""
        found = self._by_id.get(task_id)
        if found is None:
            raise UnknownIdError("task id", task_id, self._by_id)
        return found

    # -- parts -----------------------------------------------------------------------------------------

    def _write(self) -> None:
        numbered = [
            (i * len(SPLITS) + offset, split, i)
            for offset, (split, count) in enumerate(self._counts.items())
            for i in range(count)
        ]
        for number, split, i in sorted(numbered):
            turn, place = divmod(i, len(self._families))
            family = self._families[place]
            world = FAMILIES[family].build(turn, self.parameters[family])
            self._add(number, split, f"forks-{family}-{self._seed}-{split}-{i:06d}", family, world)

    def _add(self, number: int, split: str, task_id: str, family: str, world: MicroWorld) -> None:
        """Name and word the pages of a question, and the question."""
        style, order = self._style, _Order(self._seed, number)
        singles, last = order.shuffled(style.relations), order.choice(style.years)
        words = {**dict(enumerate(singles)), LIST: style.list_relation, YEAR: last}
        targets = [to for links in world.pages.values() for _, to_all in links for to in to_all]
        years = [to for to in dict.fromkeys([*targets, world.hint]) if to and to not in world.pages]
        # Distinct years: no wrong page states the answer.
        shown = dict(zip(years, map(str, order.shuffled(_YEARS)), strict=False))
        places = order.shuffled(range(_PAGES))
        names = {page: self._person(number, place) for page, place in zip(world.pages, places, strict=False)}
        shown |= names
        ids = {page: f"{number:06d}{i:02d}" for i, page in enumerate(order.shuffled(tuple(world.pages)))}
        for page, id_ in ids.items():
            facts = [
                (words[relation], [shown[to] for to in order.shuffled(to_all)])
                for relation, to_all in order.shuffled(world.pages[page])
            ]
            text = style.text(names[page], order.choice(_PROFESSIONS), facts)
            self._passages.append(Passage(id_, names[page], text))
        chain = tuple(
            Hop(names[page], words[relation], (ids[page],), shown[following])
            for page, relation, following in zip(
                world.gold, world.path, (*world.gold[1:], "answer"), strict=True
            )
        )
        self._questions[split].append(
            Question(
                id=task_id,
                text=style.question(
                    [shown[page] for page in (world.detour, "start") if page],
                    [words[r] for r in world.path],
                    shown.get(world.hint, ""),
                ),
                answers=(shown["answer"],),
                split=split,
                type=family,
                hops=len(chain),
                supporting_ids=tuple(hop.passage_ids[0] for hop in chain),
                chain=chain,
                metadata={"pages": {page: ids[page] for page in world.pages}},
            )
        )

    def _person(self, number: int, place: int) -> str:
        """A name of a question. No two names of a question share a word, so that a page is found by its title even where
        other pages have both words of it."""
        turn, i = divmod(number * _PAGES + place, len(self._surnames))
        return f"{self._given[(i + turn) % len(self._given)]} {self._surnames[i]}"


class _Order:
    """A stream of choices for one question, each a hash of a counter."""

    def __init__(self, seed: int, number: int) -> None:
        self._seed, self._count = hash64(seed, key("forks order"), number), 0

    def _next(self, count: int) -> list[int]:
        start = self._count + 1
        self._count += count
        return hash64_each(self._seed, start, start + count)

    def choice(self, items: Sequence[T]) -> T:
        return items[self._next(1)[0] % len(items)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        keys = self._next(len(items))
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def _owner(parameter: str) -> str:
    """A family that has the parameter; raises `UnknownIdError`."""
    for name, family in FAMILIES.items():
        if parameter in family.parameters:
            return name
    known = dict.fromkeys([*_OPTIONS, *(p for family in FAMILIES.values() for p in family.parameters)])
    raise UnknownIdError("option of the corpus 'forks':", parameter, known)


_OPTIONS = ("family", "seed", "style", "train", "dev", "test")


def open_forks(family: str = ALL, **options: Any) -> Forks:
    """The entry point "forks".

    Args:
        family: see `Forks`.
        **options: seed, style, train, dev and test of `Forks`; what remains are parameters of the family.

    Raises:
        ConfigError: see `Forks`.
        UnknownIdError: see `Forks`.
    """
    parameters = {name: value for name, value in options.items() if name not in _OPTIONS}
    return Forks(family, parameters, **{name: options[name] for name in _OPTIONS if name in options})
