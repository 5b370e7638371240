"""The facts of a world, independent of their wording: entities and their properties.

Every fact is computed on demand from (size, seed) by counter-based arithmetic. Nothing is stored, so that a world of ten
million entities takes no more memory than one of a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from searchgym.errors import ConfigError
from searchgym.options import integer, number

from .arithmetic import AffinePermutation, Grouping, hash64, key
from .names import Names, Themes
from .schema import INDUSTRIES, PROFESSIONS, RELATIONS, TYPES, Relation, relations_of

__all__ = ["Country", "Entity", "Literal", "Statement", "Value", "aliases"]

MIN_SIZE, MAX_SIZE = 1_000, 10_000_000
_SPOUSE_BLOCK = 32  # spouses are chosen among this many neighbours by birth: a gap of a few years


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity with a page.

    Attributes:
        index: its number in the world, 0-based; types occupy consecutive ranges.
        type: its type, a key of `TYPES`.
        rank: its number within the type, in the order of the type's years.
        name: its name, which one other entity may share.
        role: a person's profession, a company's trade, else "".
        homonym: whether another entity has the same name.
    """

    index: int
    type: str
    rank: int
    name: str
    role: str
    homonym: bool

    @property
    def qualifier(self) -> str:
        """The word that distinguishes homonyms: a person's profession, else the type."""
        return self.role if self.type == "person" else self.type

    @property
    def title(self) -> str:
        """The name, with the qualifier in parentheses if another entity has the same name."""
        return f"{self.name} ({self.qualifier})" if self.homonym else self.name


Literal = int | tuple[str, ...]
"""A year, a number, or the words of a theme."""
Value = Entity | Literal | list[Entity]
Statement = tuple[int, str, int | tuple[str, ...]]
"""Subject, relation, object: entities by index, literals as they are; one statement per item of a list."""


def aliases(entity: Entity) -> tuple[str, ...]:
    """Other accepted names of an entity, the most common first, without its title."""
    out = [entity.name, f"{entity.qualifier} {entity.name}"] if entity.homonym else []
    words = entity.name.split()
    match entity.type:
        case "person":
            out.append(f"{words[0][0]}. {words[-1]}")
        case "county" | "company":
            out.append(" ".join(words[:-1]))
        case "river" | "mountain":
            out.append(" ".join(words[1:]))
    return tuple(out)


class Country:
    """All facts of one world.

    Args:
        size: number of entities, 1,000 to 10,000,000.
        seed: any integer; another seed gives another country.
        homonyms: share of the possible name pairs that share a name, 0 to 1.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(self, size: int = 5_000, seed: int = 0, homonyms: float = 0.15) -> None:
        integer("world size", size, MIN_SIZE, MAX_SIZE)
        integer("world seed", seed)
        number("share of homonyms", homonyms, 0, 1)
        self.size, self.seed, self.homonyms = size, seed, homonyms
        self._key = hash64(seed, key("country"))
        self.counts = {t.name: size * t.share // 100 for t in TYPES.values()}
        self.counts["person"] += size - sum(self.counts.values())
        self.offsets: dict[str, int] = {}
        offset = 0
        for name, count in self.counts.items():
            self.offsets[name] = offset
            offset += count
        self._stream = {pair: hash64(self._key, key("/".join(pair))) for pair in RELATIONS}
        self._names = Names(self.counts, self._key, homonyms)
        self._themes = {
            t: Themes(self.counts[t], self._stream[t, "theme"]) for t in TYPES if (t, "theme") in RELATIONS
        }
        self._groups = {pair: self._grouping(r) for pair, r in RELATIONS.items() if r.many}
        self._scatter = AffinePermutation(size, hash64(self._key, key("position")))
        self.entity = lru_cache(maxsize=16_384)(self._entity)

    # -- entities ------------------------------------------------------------------------------------------

    def _entity(self, index: int) -> Entity:
        for type_, offset in reversed(self.offsets.items()):  # noqa: B007
            if index >= offset:
                break
        rank = index - offset
        role = ""
        if type_ == "person":
            role = PROFESSIONS[rank % len(PROFESSIONS)]
        elif type_ == "company":
            role = INDUSTRIES[rank % len(INDUSTRIES)]
        name, homonym = self._names.name(type_, rank)
        return Entity(index, type_, rank, name, role, homonym)

    def of(self, type_: str, rank: int) -> Entity:
        """The entity of this type with this rank, `0 <= rank < counts[type]`."""
        return self.entity(self.offsets[type_] + rank)

    def at(self, position: int) -> Entity:
        """The entity of the passage at `position`; the types are mixed."""
        return self.entity(self._scatter.inverse(position))

    def of_theme(self, type_: str, theme: Sequence[str]) -> Entity:
        """The one entity of this type with this theme."""
        return self.of(type_, self._themes[type_].rank(theme))

    def position(self, entity: Entity) -> int:
        """The position of the entity's passage."""
        return self._scatter(entity.index)

    def partner(self, entity: Entity) -> Entity | None:
        """The entity with the same name; None if there is none."""
        found = self._names.partner(entity.type, entity.rank)
        return None if found is None else self.of(*found)

    def year(self, entity: Entity) -> int | None:
        """The entity's own year (birth, founding, release); None for types without years."""
        years = TYPES[entity.type].years
        if years is None:
            return None
        first, last = years
        return first + (last - first + 1) * entity.rank // self.counts[entity.type]

    # -- facts ---------------------------------------------------------------------------------------------

    def relations(self, entity: Entity) -> tuple[Relation, ...]:
        """The relations the entity may have, in table order."""
        return relations_of(entity.type, entity.role)

    def fact(self, entity: Entity, relation: str) -> Value | None:
        """The value of a relation; None if the entity does not have it.

        Raises:
            ConfigError: entities of this type never have the relation.
        """
        spec = RELATIONS.get((entity.type, relation))
        if spec is None:
            known = ", ".join(r.name for r in relations_of(entity.type, entity.role))
            raise ConfigError(f"a {entity.type} has no relation {relation!r}. It may have: {known}")
        if spec.only and entity.role not in spec.only:
            return None
        draw = hash64(self._stream[spec.type, spec.name], entity.rank)
        if spec.many:
            return self._list(entity, spec) or None
        if spec.symmetric:
            return self._spouse(entity, spec)
        if draw % 100 >= spec.percent:
            return None
        draw //= 100
        match spec.target:
            case "year":
                return self._died(entity, draw) if relation == "died" else self.year(entity)
            case "number":
                return self._number(spec, draw)
            case "theme":
                return self._themes[entity.type](entity.rank)
        if relation == "county" and entity.type == "town":
            return self.of("county", entity.rank * self.counts["county"] // self.counts["town"])
        if relation == "seat":
            towns, counties = self.counts["town"], self.counts["county"]
            first = -(-entity.rank * towns // counties)
            last = -(-(entity.rank + 1) * towns // counties)
            return self.of("town", first + draw % (last - first))
        return self._pick(entity, spec, draw)

    def facts(self, entity: Entity) -> Iterator[tuple[Relation, Value]]:
        """Every relation the entity has, with its value, in table order."""
        for spec in self.relations(entity):
            value = self.fact(entity, spec.name)
            if value is not None:
                yield spec, value

    def statements(self, entity: Entity) -> list[Statement]:
        """What the entity's passage states, in both renderings. A symmetric fact has the lower index first."""
        out: list[Statement] = []
        for spec, value in self.facts(entity):
            if spec.prose_only:
                continue
            if isinstance(value, list):
                out += [(entity.index, spec.name, item.index) for item in value]
            elif isinstance(value, Entity):
                one, two = entity.index, value.index
                if spec.symmetric and two < one:
                    one, two = two, one
                out.append((one, spec.name, two))
            else:
                out.append((entity.index, spec.name, value))
        return out

    # -- how each kind of value is computed ------------------------------------------------------------------

    def _pick(self, entity: Entity, spec: Relation, draw: int) -> Entity | None:
        count = self.counts[spec.target]
        low, high = 0, count
        if spec.window is not None:
            first, last = spec.window
            own = 0 if first > 1000 else self.year(entity)
            years = TYPES[spec.target].years
            assert own is not None
            assert years is not None
            span = years[1] - years[0] + 1
            low = max(0, -(-(own + first - years[0]) * count // span))
            high = min(count, -(-(own + last + 1 - years[0]) * count // span))
        role = entity.role if spec.role == "same" else spec.role
        step, offset = 1, 0
        if role:
            roles = PROFESSIONS if spec.target == "person" else INDUSTRIES
            step, offset = len(roles), roles.index(role)
        first_cycle, last_cycle = -(-(low - offset) // step), -(-(high - offset) // step)
        if first_cycle >= last_cycle:
            return None
        return self.of(spec.target, (first_cycle + draw % (last_cycle - first_cycle)) * step + offset)

    def _spouse(self, entity: Entity, spec: Relation) -> Entity | None:
        block, place = divmod(entity.rank, _SPOUSE_BLOCK)
        stream = self._stream[spec.type, spec.name]
        other = place ^ (1 + hash64(stream, block) % (_SPOUSE_BLOCK - 1))
        rank = block * _SPOUSE_BLOCK + other
        if rank >= self.counts["person"] or PROFESSIONS[rank % len(PROFESSIONS)] not in spec.only:
            return None
        if hash64(stream, min(rank, entity.rank), 1) % 100 >= spec.percent:
            return None
        return self.of("person", rank)

    def _died(self, entity: Entity, draw: int) -> int | None:
        year = self.year(entity)
        assert year is not None
        died = year + 62 + draw % 34
        return died if died <= 2020 else None

    @staticmethod
    def _number(spec: Relation, draw: int) -> int:
        # Uniform over octaves, then uniform within an octave: small values are common, large ones rare.
        low, high = spec.numbers
        octaves = max(1, (high // low).bit_length() - 1)
        base = low << (draw % octaves)
        return min(high, base + (draw // octaves) % base)

    def _hub_step(self, role: str) -> tuple[int, int]:
        return (len(PROFESSIONS), PROFESSIONS.index(role)) if role else (1, 0)

    def _grouping(self, spec: Relation) -> dict[str, Grouping]:
        """One grouping per profession that has such a list; "" for types without professions."""
        out = {}
        for role in spec.only or ("",):
            step, offset = self._hub_step(role)
            hubs = (self.counts[spec.type] - offset + step - 1) // step
            item_step, item_offset = self._hub_step(spec.role)
            items = (self.counts[spec.target] - item_offset + item_step - 1) // item_step
            out[role] = Grouping(items, hubs, 3, hash64(self._stream[spec.type, spec.name], key(role)))
        return out

    def _list(self, entity: Entity, spec: Relation) -> list[Entity]:
        step, _ = self._hub_step(entity.role)
        item_step, item_offset = self._hub_step(spec.role)
        grouping = self._groups[spec.type, spec.name][entity.role]
        return [
            self.of(spec.target, i * item_step + item_offset) for i in grouping.members(entity.rank // step)
        ]

    def holder(self, item: Entity, relation: str, type_: str, role: str = "") -> Entity | None:
        """The entity whose list `relation` contains `item`: the inverse of a list-valued fact."""
        spec = RELATIONS[type_, relation]
        item_step, _ = self._hub_step(spec.role)
        if spec.role and item.role != spec.role:
            return None
        hub = self._groups[type_, relation][role].hub(item.rank // item_step)
        if hub is None:
            return None
        step, offset = self._hub_step(role)
        return self.of(type_, hub * step + offset)
