"""A symbolic reader: the answers that follow from a set of passages, and from nothing else.

It uses the statements of the passages (`Country.statements`) and the plan of the question (`Plan`), not their text. The
tests use it to check the guarantees of every generated question: the answer follows from the gold passages; no other
answer follows from all passages of the world together; and no answer follows without any one of the gold passages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from .facts import Country, Statement
from .plans import Plan
from .schema import RELATIONS

__all__ = ["Knowledge", "solve"]

Value = int | tuple[str, ...]
_SYMMETRIC = {name for (_, name), r in RELATIONS.items() if r.symmetric}


class Knowledge:
    """The statements of a set of passages.

    Args:
        country: the facts.
        entities: the entities of the passages, by index.
    """

    def __init__(self, country: Country, entities: Iterable[int]) -> None:
        self._country = country
        self._objects: dict[tuple[int, str], set[Value]] = defaultdict(set)
        self._by_theme: dict[Value, set[int]] = defaultdict(set)
        for index in entities:
            for statement in country.statements(country.entity(index)):
                self._add(statement)

    def _add(self, statement: Statement) -> None:
        subject, relation, value = statement
        self._objects[subject, relation].add(value)
        if relation in _SYMMETRIC:
            assert isinstance(value, int)
            self._objects[value, relation].add(subject)
        if isinstance(value, tuple):
            self._by_theme[value].add(subject)

    def values(self, entity: Value, relation: str) -> set[Value]:
        """The known values of a relation; empty if the entity or the relation is unknown."""
        return self._objects.get((entity, relation), set()) if isinstance(entity, int) else set()

    def with_theme(self, plan: Plan) -> set[Value]:
        """The known entities of the plan's type, theme and decade."""
        found: set[Value] = set()
        for index in self._by_theme.get(plan.theme, ()):
            if self._country.entity(index).type == plan.type and self.in_decade(index, plan):
                found.add(index)
        return found

    def in_decade(self, entity: Value, plan: Plan) -> bool:
        """Whether the entity's year is known to be in the plan's decade; True if the plan has no decade."""
        if plan.decade is None:
            return True
        relation, decade = plan.decade
        years = self.values(entity, relation)
        return any(isinstance(year, int) and decade <= year < decade + 10 for year in years)


def solve(plan: Plan, known: Knowledge) -> set[Value]:
    """Every answer to the plan's question that follows from what is known.

    Returns:
        Entities by index, literals as they are. Empty if no answer follows; several if the question is ambiguous.
    """
    if plan.compare is not None:
        relation, extreme = plan.compare
        values = []
        for side in plan.starts:
            numbers = {v for end in _follow({side}, plan.path, known) for v in known.values(end, relation)}
            if len(numbers) != 1:
                return set()  # one side is unknown
            (number,) = numbers
            assert isinstance(number, int)
            values.append(number)
        best = min(values) if extreme == "least" else max(values)
        return {one for one, value in zip(plan.starts, values, strict=True) if value == best}
    start: set[Value] = set(plan.starts)
    if plan.theme:
        start = known.with_theme(plan)
    elif plan.lists:
        holders = zip(plan.starts, plan.lists, strict=True)
        start = set.intersection(*(known.values(holder, relation) for holder, relation in holders))
        if plan.where is not None:
            relation, wanted = plan.where
            start = {item for item in start if wanted in known.values(item, relation)}
        start = {item for item in start if known.in_decade(item, plan)}
    return _follow(start, plan.path, known)


def _follow(start: set[Value], path: Iterable[str], known: Knowledge) -> set[Value]:
    found = start
    for relation in path:
        found = {value for entity in found for value in known.values(entity, relation)}
    return found
