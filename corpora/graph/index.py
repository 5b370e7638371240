"""A graph that answers the two questions of a walk: what a node is joined to, and which nodes fit a description.

A description is a list of constraints (relation, value). A value is exact, or obscured: a class that contains it.

| value | its class |
|---|---|
| a date or a year, of a relation whose numbers are nearly all years | the decade |
| a number, of another relation | its number of digits before the point, and its sign |
| a text that begins with a letter | that letter |
| anything else | none: by its words it would fit into two classes, as 1893 is a year and a number of four digits |

Exact values are compared as answers are (`searchgym.scoring`): two nodes whose names are equal there are one value, because
a question that words them cannot tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.scoring import normalize_answer

from .triples import Triples

__all__ = ["Constraint", "Graph", "class_of"]

_YEAR = re.compile(r"[12]\d{3}")
_DATE = re.compile(r"[12]\d{3}-\d\d(?:-\d\d)?\b.*")
_YEARS = 0.9  # share of a relation's numbers that are years from which they are read as years
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?$")


class Constraint(NamedTuple):
    """One condition of a description: the node has this relation to a value.

    Attributes:
        relation: number of the relation.
        value: number of the value, see `Graph.values`, or of its class, see `Graph.classes`.
        exact: whether it is the value itself.
    """

    relation: int
    value: int
    exact: bool


def class_of(name: str, years: bool) -> tuple[str, str] | None:
    """The class that a name is obscured to, as (kind, member); None for a name without one.

    The kinds are "decade" ("1890s"), "digits" ("4", "-4") and "initial" ("V"). What fits a class by its words is in it: a reader who
    goes by the words of a question finds what the index finds.

    Args:
        name: of a node.
        years: whether nearly all numbers of its relation are years.
    """
    if years and (_DATE.fullmatch(name) or _YEAR.fullmatch(name)):
        return "decade", f"{name[:3]}0s"
    if amount := _NUMBER.fullmatch(name):
        sign = "-" if amount[1] == "-" else ""
        return None if years else ("digits", sign + str(len(amount[2].replace(",", "").lstrip("0")) or 1))
    first = next((char for char in name if char.isalnum()), "")
    return ("initial", first.upper()) if first.isalpha() else None


class Graph:
    """Triples with indexes in both directions.

    Attributes:
        triples: the graph.
        starts: where the triples of each node begin; the last entry is the number of triples.
        values: number of each node's value: nodes whose names are equal as answers share one.
        classes: number of each node's class, -1 without one; in row 1 where the relation's numbers are years.
        years: whether nearly all numbers of each relation are years (or it has none), 0 or 1.
        value_names: the name of each value, as the first node with it has it.
        class_names: the class of each number.
    """

    def __init__(self, triples: Triples) -> None:
        self.triples = triples
        nodes = len(triples.names)
        self.starts = np.searchsorted(triples.subjects, np.arange(nodes + 1))
        keys: dict[str, int] = {}
        self.value_names: list[str] = []
        values = []
        for name in triples.names:
            value = keys.setdefault(normalize_answer(name) or name, len(keys))
            if value == len(self.value_names):
                self.value_names.append(name)
            values.append(value)
        self.values: NDArray[np.int32] = np.array(values, np.int32)
        self._by_value = np.argsort(self.values, kind="stable").astype(np.int32)
        self._value_starts = np.searchsorted(self.values[self._by_value], np.arange(len(keys) + 1))
        numbered: dict[tuple[str, str], int] = {}
        classes: tuple[list[int], list[int]] = ([], [])
        for years, column in enumerate(classes):
            for name in triples.names:
                member = class_of(name, bool(years))
                column.append(-1 if member is None else numbered.setdefault(member, len(numbered)))
        self.classes: NDArray[np.int32] = np.array(classes, np.int32)
        self.class_names = list(numbered)
        self.years = self._relations_with_years()
        of_object = self.classes[self.years[triples.predicates], triples.objects]
        self._exact = _Inverse(triples, self.values[triples.objects], len(keys))
        self._obscured = _Inverse(triples, of_object, len(numbered))

    def _relations_with_years(self) -> NDArray[np.int8]:
        triples, count = self.triples, len(self.triples.relations)
        year = np.array([bool(_YEAR.fullmatch(name)) for name in triples.names])[triples.objects]
        number = np.array([bool(_NUMBER.fullmatch(name)) for name in triples.names])[triples.objects]
        years = np.bincount(triples.predicates[year], minlength=count)
        numbers = np.bincount(triples.predicates[number], minlength=count)
        return (years >= _YEARS * numbers).astype(np.int8)

    def facts(self, node: int) -> list[tuple[int, int]]:
        """The (relation, object) pairs of a node, sorted."""
        low, high = self.starts[node], self.starts[node + 1]
        triples = self.triples
        return list(
            zip(triples.predicates[low:high].tolist(), triples.objects[low:high].tolist(), strict=True)
        )

    def degree(self, node: int) -> int:
        """The number of triples of which a node is the subject."""
        return int(self.starts[node + 1] - self.starts[node])

    def obscured(self, relation: int, node: int) -> Constraint | None:
        """The constraint that a node has this relation to something of the class of `node`; None without a class."""
        value = int(self.classes[self.years[relation], node])
        return None if value < 0 else Constraint(relation, value, False)

    def exact(self, relation: int, node: int) -> Constraint:
        """The constraint that a node has this relation to something with the name of `node`."""
        return Constraint(relation, int(self.values[node]), True)

    def holds(self, node: int, constraint: Constraint) -> bool:
        """Whether a node meets a constraint."""
        kinds = self.values if constraint.exact else self.classes[self.years[constraint.relation]]
        return any(
            relation == constraint.relation and kinds[target] == constraint.value
            for relation, target in self.facts(node)
        )

    def namesakes(self, nodes: Iterable[int]) -> set[int]:
        """Some nodes, and all whose names are equal to theirs as answers: a text that names one names them all."""
        found: set[int] = set()
        for value in {int(self.values[node]) for node in nodes}:
            low, high = self._value_starts[value], self._value_starts[value + 1]
            found.update(self._by_value[low:high].tolist())
        return found

    def matching(self, constraint: Constraint) -> NDArray[np.int32]:
        """All nodes that meet a constraint, sorted."""
        index = self._exact if constraint.exact else self._obscured
        return index.subjects(constraint.relation, constraint.value)

    def fitting(self, description: Iterable[Constraint]) -> NDArray[np.int32]:
        """All nodes that meet every constraint of a description, sorted; its constraints are at least one."""
        lists = sorted((self.matching(one) for one in description), key=len)
        found = lists[0]
        for other in lists[1:]:
            found = _common(found, other)
        return found


class _Inverse:
    """The subjects of each (relation, kind of object)."""

    def __init__(self, triples: Triples, of_object: NDArray[np.int32], count: int) -> None:
        self._count = max(1, count)
        kept = of_object >= 0
        keys = triples.predicates[kept].astype(np.int64) * self._count + of_object[kept]
        subjects = triples.subjects[kept]
        order = np.lexsort((subjects, keys))
        keys, subjects = keys[order], subjects[order]
        first = np.ones(len(keys), bool)  # a subject may have several objects of one kind
        first[1:] = (keys[1:] != keys[:-1]) | (subjects[1:] != subjects[:-1])
        self._keys, self._subjects = keys[first], subjects[first]

    def subjects(self, relation: int, kind: int) -> NDArray[np.int32]:
        low, high = np.searchsorted(self._keys, np.array([0, 1]) + (relation * self._count + kind))
        found: NDArray[np.int32] = self._subjects[low:high]
        return found


def _common(few: NDArray[np.int32], many: NDArray[np.int32]) -> NDArray[np.int32]:
    """The entries of the shorter of two sorted arrays that the other has too."""
    if len(few) > len(many):
        few, many = many, few
    if not len(few):
        return few
    places = np.searchsorted(many, few)
    places[places == len(many)] = 0
    found: NDArray[np.int32] = few[many[places] == few]
    return found
