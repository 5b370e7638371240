"""The types of entities in the country and the relations of each type.

`facts.py` computes the facts; `terse.py` and `prose.py` word them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INDUSTRIES", "PROFESSIONS", "RELATIONS", "TYPES", "EntityType", "Relation", "relations_of"]


@dataclass(frozen=True, slots=True)
class EntityType:
    """A kind of entity.

    Attributes:
        name: the word for it ("town"); also the qualifier of its homonyms, except for people.
        share: share of the world's passages, in percent.
        years: first and last value of its own year (birth, founding, release ...); None for types without years.
            Entities of a type are numbered in the order of their years.
    """

    name: str
    share: int
    years: tuple[int, int] | None = None


TYPES: dict[str, EntityType] = {
    t.name: t
    for t in (
        EntityType("person", 40, (1860, 1990)),
        EntityType("town", 10),
        EntityType("county", 2),
        EntityType("river", 3),
        EntityType("mountain", 2),
        EntityType("railway", 2, (1895, 1970)),
        EntityType("company", 7, (1888, 2010)),
        EntityType("school", 4, (1700, 1985)),
        EntityType("book", 9, (1895, 2018)),
        EntityType("film", 7, (1915, 2020)),
        EntityType("band", 5, (1900, 2018)),
        EntityType("prize", 2, (1895, 2005)),
        EntityType("museum", 2, (1895, 2010)),
        EntityType("newspaper", 2, (1895, 1995)),
        EntityType("ship", 3, (1895, 2010)),
    )
}

PROFESSIONS: tuple[str, ...] = (
    "painter",
    "chemist",
    "actor",
    "director",
    "poet",
    "engineer",
    "screenwriter",
    "novelist",
    "sculptor",
    "surgeon",
    "illustrator",
    "musician",
    "composer",
    "geologist",
    "translator",
    "architect",
    "merchant",
    "politician",
    "journalist",
    "sailor",
)
"""Person number r of the world has profession `PROFESSIONS[r % 20]`."""

INDUSTRIES: tuple[str, ...] = (
    "Press",
    "Pictures",
    "Records",
    "Shipyard",
    "Railworks",
    "Mills",
    "Instruments",
    "Motors",
)
"""Company number r is in the trade `INDUSTRIES[r % 8]`, the last word of its name."""

_ARTISTS = ("painter", "poet", "sculptor", "composer", "director", "novelist", "sailor", "journalist")
_SCIENTISTS = ("chemist", "engineer", "surgeon", "geologist", "architect")
_SCHOOLED = ("musician", "merchant", "politician")


@dataclass(frozen=True, slots=True)
class Relation:
    """A fact that entities of one type have.

    Attributes:
        type: the type that has it.
        name: one lowercase word; together with `type` it is unique.
        target: an entity type, or "year", "number" or "theme" for literals.
        role: the profession or trade that the target must have; "" for any, "same" for that of the entity.
        window: the target's year, relative to the entity's own year, or absolute if the first is > 1000.
        only: the professions that have it; empty for all entities of the type.
        percent: share of these that have it, in percent.
        many: whether the value is a list of entities (assigned by `arithmetic.Grouping`).
        numbers: lowest and highest value of a "number"; values are spread over the orders of magnitude.
        symmetric: whether it holds in both directions and is stated on both pages.
        prose_only: whether it is only stated in the encyclopedia rendering, and never asked for.
    """

    type: str
    name: str
    target: str
    role: str = ""
    window: tuple[int, int] | None = None
    only: tuple[str, ...] = ()
    percent: int = 100
    many: bool = False
    numbers: tuple[int, int] = (0, 0)
    symmetric: bool = False
    prose_only: bool = False

    @property
    def literal(self) -> bool:
        """Whether the value is a year, a number or a theme and not an entity."""
        return self.target not in TYPES


RELATIONS: dict[tuple[str, str], Relation] = {
    (r.type, r.name): r
    for r in (
        Relation("person", "born", "year"),
        Relation("person", "died", "year", prose_only=True),
        Relation("person", "birthplace", "town"),
        Relation("person", "mentor", "person", "same", (-45, -15), _ARTISTS, 90),
        Relation("person", "employer", "company", "", (-50, 40), _SCIENTISTS),
        Relation("person", "school", "school", "", (-150, 10), _SCIENTISTS + _SCHOOLED),
        Relation("person", "spouse", "person", "", None, _ARTISTS + _SCHOOLED, 80, symmetric=True),
        Relation("person", "films", "film", only=("actor", "screenwriter"), many=True),
        Relation("person", "books", "book", only=("illustrator", "translator"), many=True),
        Relation("town", "county", "county"),
        Relation("town", "mayor", "person", "", (1945, 1985)),
        Relation("town", "population", "number", numbers=(700, 160_000)),
        Relation("town", "theme", "theme"),
        Relation("county", "seat", "town"),
        Relation("county", "governor", "person", "politician", (1925, 1990)),
        Relation("county", "area", "number", numbers=(110, 3_900)),
        Relation("river", "source", "mountain"),
        Relation("river", "length", "number", numbers=(14, 460)),
        Relation("river", "towns", "town", many=True),
        Relation("mountain", "county", "county"),
        Relation("mountain", "height", "number", numbers=(310, 4_100)),
        Relation("mountain", "climber", "person", "geologist", (1860, 1930)),
        Relation("railway", "opened", "year"),
        Relation("railway", "builder", "company", "Railworks", (-40, -2)),
        Relation("railway", "engineer", "person", "engineer", (-60, -26)),
        Relation("railway", "towns", "town", many=True),
        Relation("company", "founded", "year"),
        Relation("company", "founder", "person", "merchant", (-50, -24)),
        Relation("company", "headquarters", "town"),
        Relation("school", "founded", "year"),
        Relation("school", "location", "town"),
        Relation("school", "principal", "person", "", (1940, 1980)),
        Relation("book", "published", "year"),
        Relation("book", "author", "person", "novelist", (-65, -26)),
        Relation("book", "publisher", "company", "Press", (-60, -2)),
        Relation("book", "theme", "theme"),
        Relation("film", "released", "year"),
        Relation("film", "director", "person", "director", (-60, -26)),
        Relation("film", "studio", "company", "Pictures", (-50, -2)),
        Relation("film", "theme", "theme"),
        Relation("band", "formed", "year"),
        Relation("band", "hometown", "town"),
        Relation("band", "label", "company", "Records", (-60, 0)),
        Relation("band", "members", "person", "musician", many=True),
        Relation("prize", "established", "year"),
        Relation("prize", "sponsor", "company", "", (-60, -2)),
        Relation("prize", "laureate", "person", "", (-60, -30)),
        Relation("museum", "opened", "year"),
        Relation("museum", "location", "town"),
        Relation("museum", "architect", "person", "architect", (-60, -28)),
        Relation("museum", "curator", "person", "", (1945, 1985)),
        Relation("newspaper", "launched", "year"),
        Relation("newspaper", "location", "town"),
        Relation("newspaper", "owner", "company", "", (1888, 2005)),
        Relation("newspaper", "editor", "person", "journalist", (1930, 1990)),
        Relation("ship", "launched", "year"),
        Relation("ship", "homeport", "town"),
        Relation("ship", "builder", "company", "Shipyard", (-60, -2)),
        Relation("ship", "captain", "person", "sailor", (-58, -30)),
    )
}
"""All relations, by (type, name)."""


_BY_TYPE: dict[str, tuple[Relation, ...]] = {
    t: tuple(r for r in RELATIONS.values() if r.type == t) for t in TYPES
}


def relations_of(type_: str, role: str = "") -> tuple[Relation, ...]:
    """The relations an entity of this type (and, for people, profession) may have, in table order."""
    return tuple(r for r in _BY_TYPE[type_] if not r.only or role in r.only)
