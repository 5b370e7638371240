"""The embedded world: a generated encyclopedia of a fictional country, with questions about it.

    >>> from searchgym.corpora.world import World
    >>> world = World(size=5_000, seed=0)
    >>> world.passages[0].title, len(world.questions("train"))

`facts.Country` computes the facts, `terse` and `prose` word them, `drawing` draws questions as `plans`, `solver` checks them.
"""

from .corpus import World, open_country, open_country_hard, open_country_terse, write_world
from .facts import Country, Entity
from .plans import Plan
from .schema import RELATIONS, TYPES, Relation
from .terse import name_classes, terse_pieces, terse_vocabulary

__all__ = [
    "RELATIONS",
    "TYPES",
    "Country",
    "Entity",
    "Plan",
    "Relation",
    "World",
    "name_classes",
    "open_country",
    "open_country_hard",
    "open_country_terse",
    "terse_pieces",
    "terse_vocabulary",
    "write_world",
]
