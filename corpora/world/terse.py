"""The terse rendering: one short line per entity, every relation one lowercase word.

    Mira Vogack is painter ; born 1893 ; birthplace Oldmoor ; mentor Jan Kerberg (poet)

It is meant for a language model with a vocabulary of a few hundred pieces (`terse_vocabulary`). A question names the
start, then the relations in the order to follow:

    chain         Mira Vogack : mentor : birthplace ?
    comparison    Oldmoor , Ashford : mayor : least born ?
    intersection  Otto Barberg : films & Vera Nyleth : films ?
                  Empty Machine : members & birthplace Oldmoor ?
    obscured      film 1940s baker eclipse : director : birthplace ?
                  Empty Machine : members & born 1940s : school ?
"""

from __future__ import annotations

from .facts import Country, Entity, Value
from .plans import Plan
from .schema import INDUSTRIES, PROFESSIONS, RELATIONS, TYPES, Relation
from .words import (
    ADJECTIVES,
    GIVEN_NAMES,
    NOUNS,
    PLACE_HEADS,
    PLACE_TAILS,
    SURNAME_HEADS,
    SURNAME_TAILS,
    THEME_FIGURES,
    THEME_SUBJECTS,
)

__all__ = ["Terse", "name_classes", "terse_pieces", "terse_vocabulary"]


class Terse:
    """Renders facts and plans as short lines.

    Args:
        country: the facts.
    """

    name = "terse"

    def __init__(self, country: Country) -> None:
        self._country = country

    def text(self, entity: Entity) -> str:
        """The entity's passage, without its title."""
        parts = [f"{entity.name} is {entity.qualifier}"]
        for spec, value in self._country.facts(entity):
            if not spec.prose_only:
                parts.append(f"{spec.name} {self.value(spec, value)}")
        return " ; ".join(parts)

    def value(self, spec: Relation, value: Value) -> str:
        """A value as the passages word it."""
        if isinstance(value, list):
            return " , ".join(item.title for item in value)
        if isinstance(value, Entity):
            return value.title
        return " ".join(value) if isinstance(value, tuple) else str(value)

    def bridge(self, spec: Relation, value: Value) -> str:
        """The value of a hop as it appears in the passage."""
        return self.value(spec, value)

    def query(self, entity: Entity) -> str:
        """A search query that finds the entity's passage."""
        return entity.title

    def theme_query(self, plan: Plan) -> str:
        """A search query for an entity described by its theme."""
        return " ".join((plan.type, *plan.theme))

    def question(self, plan: Plan, number: int) -> str:
        """The question.

        Args:
            plan: the question.
            number: not used, as there is only one wording.
        """
        entity = self._country.entity
        if plan.compare is not None:
            parts = [" , ".join(entity(i).title for i in plan.starts), *plan.path]
            return " : ".join([*parts, f"{plan.compare[1]} {plan.compare[0]} ?"])
        if plan.theme:
            decade = [f"{plan.decade[1]}s"] if plan.decade else []
            start = " ".join([plan.type, *decade, *plan.theme])
        elif plan.lists:
            holders = [f"{entity(i).title} : {r}" for i, r in zip(plan.starts, plan.lists, strict=True)]
            if plan.where:
                holders.append(f"{plan.where[0]} {entity(plan.where[1]).title}")
            if plan.decade:
                holders.append(f"{plan.decade[0]} {plan.decade[1]}s")
            start = " & ".join(holders)
        else:
            start = entity(plan.starts[0]).title
        return " : ".join([start, *plan.path]) + " ?"


_SHAPE_WORDS = (
    "County",
    "River",
    "Mount",
    "Railway",
    "College",
    "Academy",
    "School",
    "Prize",
    "Museum",
    "Herald",
    "Gazette",
    *INDUSTRIES,
)


_SURNAMES = [head + tail for head in SURNAME_HEADS for tail in SURNAME_TAILS]
_PLACES = [head + tail for head in PLACE_HEADS for tail in PLACE_TAILS]


def name_classes() -> tuple[tuple[str, ...], ...]:
    """Classes of words that could be exchanged without changing the structure of a terse world.

    Given names, surnames, places, the words of titles, of themes, and pairs of digits. The classes are disjoint.
    """
    taken: set[str] = set()
    classes = []
    pairs = [f"{i:02d}" for i in range(100)]
    for words in (GIVEN_NAMES, _SURNAMES, _PLACES, ADJECTIVES, NOUNS, THEME_FIGURES, THEME_SUBJECTS, pairs):
        classes.append(tuple(sorted(set(words) - taken)))
        taken.update(words)
    return tuple(classes)


def terse_pieces() -> dict[str, tuple[str, ...]]:
    """The pieces of the terse rendering by role, for worlds of the default size.

    Returns:
        "punctuation"; "words": types, professions, relations and the few words between them; "names": whole words of
        names; "heads": first halves of compound names; "tails": second halves, which follow a head without a space
        ("Oldmoor" = "Old" + "moor"); "glued": all these compounds; "numbers": one or two digits, joined likewise
        ("1947" = "19" + "47"), with the tail "s" for a decade. Greedy longest match from the left splits a text into
        these pieces.
    """
    words = {"is", "least", "most", *PROFESSIONS, *(r.name for r in RELATIONS.values() if not r.prose_only)}
    words |= {t for t in TYPES if t != "person"}
    return {
        "punctuation": tuple(";:,?&()."),
        "words": tuple(sorted(words | set(THEME_FIGURES) | set(THEME_SUBJECTS))),
        "names": tuple(sorted({*GIVEN_NAMES, *ADJECTIVES, *NOUNS, *_SHAPE_WORDS})),
        "heads": tuple(sorted({*SURNAME_HEADS, *PLACE_HEADS})),
        "tails": tuple(sorted({*SURNAME_TAILS, *PLACE_TAILS, "s"})),
        "glued": tuple(sorted({*_SURNAMES, *_PLACES})),
        "numbers": tuple([f"{i:02d}" for i in range(100)] + [str(i) for i in range(10)]),
    }


def terse_vocabulary() -> list[str]:
    """Every piece the terse rendering can contain at the default size, sorted, without duplicates.

    Compounds are omitted, as their heads and tails are in the vocabulary.
    """
    return sorted({piece for role, pieces in terse_pieces().items() if role != "glued" for piece in pieces})
