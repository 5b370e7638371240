"""A question independent of its wording: a plan, and the derivation of its answer.

A plan finds a start (a named entity, an entity described vaguely, or the one item that satisfies two constraints), then
follows relations from page to page; a comparison does so for two named entities and compares the values it arrives at.
Both renderings word the same plans, so that questions have the same ids and answers in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .facts import Country, Entity, Value
from .schema import RELATIONS, Relation

__all__ = ["Plan", "Step", "common", "end_of", "trace"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A question without words. Entities are indices.

    Attributes:
        kind: "chain", "comparison", "intersection" or "obscured".
        starts: the named entities: one for chains, two for comparisons, the list holders for intersections and
            for obscured members of a list; empty for obscured entities known by their theme.
        lists: the list-valued relation to read from each start; empty if the starts are used as they are.
        where: for one list: (relation, entity index), the second constraint on its items.
        type: for themes: the described entity's type.
        theme: the words of its theme.
        decade: (relation, year): the described entity's year lies in year .. year + 9.
        path: relations to follow from the start, in order.
        compare: (relation, "least" or "most") for comparisons.
    """

    kind: str
    starts: tuple[int, ...] = ()
    lists: tuple[str, ...] = ()
    where: tuple[str, int] | None = None
    type: str = ""
    theme: tuple[str, ...] = ()
    decade: tuple[str, int] | None = None
    path: tuple[str, ...] = ()
    compare: tuple[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The attributes that are set, as JSON values."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`; other keys are ignored."""
        known = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in cls.__slots__}
        fields: dict[str, Any] = known
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Step:
    """One gold passage and the fact that is read from it.

    Attributes:
        entity: the entity of the passage.
        relation: the relation.
        value: its value; of a list, the item that the derivation uses.
    """

    entity: Entity
    relation: Relation
    value: Value


def end_of(type_: str, relation: str) -> str:
    """The type of the values of a relation."""
    return RELATIONS[type_, relation].target


def trace(country: Country, plan: Plan) -> tuple[list[Step], Value]:
    """The gold derivation of a plan and its answer.

    Returns:
        One step per gold passage, in the order of the derivation, and the answer's value.
    """
    steps: list[Step] = []

    def read(entity: Entity, relation: str, value: Value | None = None) -> Value:
        found = country.fact(entity, relation) if value is None else value
        assert found is not None
        steps.append(Step(entity, RELATIONS[entity.type, relation], found))
        return found

    def follow(entity: Entity) -> Value:
        value: Value = entity
        for relation in plan.path:
            assert isinstance(value, Entity)
            value = read(value, relation)
        return value

    starts = [country.entity(i) for i in plan.starts]
    if plan.compare is not None:
        relation, extreme = plan.compare
        values: list[int] = []
        for start in starts:
            end = follow(start)
            assert isinstance(end, Entity)
            value = read(end, relation)
            assert isinstance(value, int)
            values.append(value)
        best = (min if extreme == "least" else max)(range(len(starts)), key=lambda i: values[i])
        return steps, starts[best]
    if plan.theme:
        start = country.of_theme(plan.type, plan.theme)
    elif plan.lists:
        start = common(country, plan, starts)
        for holder, relation in zip(starts, plan.lists, strict=True):
            read(holder, relation, start)
        constraint = plan.where or plan.decade
        if (
            constraint is not None and not plan.path
        ):  # otherwise the first relation of the path is read from the same page
            read(start, constraint[0])
    else:
        start = starts[0]
    return steps, follow(start)


def common(country: Country, plan: Plan, holders: list[Entity]) -> Entity:
    """The one item that satisfies the plan's constraints; raises ValueError if there are none or several."""
    first, *others = [country.fact(h, r) for h, r in zip(holders, plan.lists, strict=True)]
    assert isinstance(first, list)
    items = [item for item in first if all(isinstance(o, list) and item in o for o in others)]
    if plan.where is not None:
        relation, wanted = plan.where
        items = [i for i in items if isinstance(v := country.fact(i, relation), Entity) and v.index == wanted]
    if plan.decade is not None:
        relation, decade = plan.decade
        items = [
            i for i in items if isinstance(y := country.fact(i, relation), int) and y // 10 * 10 == decade
        ]
    (item,) = items
    return item
