"""Random walks whose obscured questions have exactly one answer.

A walk e_0 -r_1-> e_1 … -r_k-> e_k asks for e_k. Its question names none of these nodes: it describes e_0, and follows the
relations from there. A walk is kept if

1. its nodes differ, and no e_i is joined to an e_j with j > i + 1: no passage of the walk lets a reader skip a hop;
2. exactly one node fits the description of e_0: obscured constraints are added until only e_0 is left, and where all of
   them do not suffice, they are made exact one after the other;
3. each r_i leads from e_(i-1) to one node, or e_i has an attribute that the others lack, which the question then states;
4. read as a query, from all nodes at once and by itself, the question has the answer e_k alone, also for a reader who knows a
   node by its name and so follows all of that name.

2 and 3 leave one derivation, so that the gold passages are the only ones; 4 checks the question as it will be asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from searchgym.scoring import contains_answer, normalize_answer

from .index import Constraint, Graph

__all__ = ["MAX_FACTS", "Step", "Walk", "Walker", "answers_of"]

MAX_FACTS = 100
"""A walk does not pass through a node with more facts: its passage would not fit an observation."""
_MAX_CONSTRAINTS = 6  # of a description; more make a question that nobody would ask
_TRIES = 3  # walks from one start that are described; whether a description exists depends little on the walk
_VISITS = 400  # nodes that are tried from one start; a start whose walks all end early must not take forever


class Step(NamedTuple):
    """One hop.

    Attributes:
        relation: number of the relation that is followed.
        node: where it leads.
        constraints: what tells `node` from the other nodes that the relation leads to; empty if there are none.
    """

    relation: int
    node: int
    constraints: tuple[Constraint, ...] = ()


class Walk(NamedTuple):
    """A walk with a unique question.

    Attributes:
        start: the first node.
        description: what only the first node fits.
        steps: the hops; the last one's node is the answer.
    """

    start: int
    description: tuple[Constraint, ...]
    steps: tuple[Step, ...]

    @property
    def nodes(self) -> list[int]:
        """The nodes of the walk, the answer last."""
        return [self.start, *(step.node for step in self.steps)]


def answers_of(graph: Graph, walk: Walk) -> set[int]:
    """Every node that answers the question of a walk, computed from its description and its relations alone.

    The relations are followed from all nodes that have the name of one that was reached.

    Args:
        graph: the graph.
        walk: the walk.
    """
    reached = set(graph.fitting(walk.description).tolist())
    for number, step in enumerate(walk.steps):
        reached = {
            target
            for node in (graph.namesakes(reached) if number else reached)
            for relation, target in graph.facts(node)
            if relation == step.relation and all(graph.holds(target, one) for one in step.constraints)
        }
    return reached


class Walker:
    """Draws walks.

    Args:
        graph: the graph.
        hops: the least and the most hops of a walk.
        obscure: whether descriptions use classes of values where these suffice.
        seed: any integer; equal seeds give equal walks.

    Attributes:
        longest: hops of the longest walk seen so far that meets the first condition.
    """

    def __init__(self, graph: Graph, hops: tuple[int, int], obscure: bool = True, seed: int = 0) -> None:
        self._graph, self._hops, self._obscure = graph, hops, obscure
        self._random = random.Random(seed)
        self._visits = self.longest = 0

    def walks(self) -> Iterator[Walk]:
        """One walk from each node that has one, in random order."""
        graph = self._graph
        starts = [node for node in range(len(graph.triples.names)) if 2 <= graph.degree(node) <= MAX_FACTS]
        self._random.shuffle(starts)
        for start in starts:
            self._visits = 0
            length = self._random.randint(*self._hops)
            for steps in islice(self._extend(start, [], set(), {start}, length), _TRIES):
                walk = self._describe(start, steps)
                if walk is not None:
                    yield walk
                    break

    def _extend(
        self, node: int, steps: list[Step], passed: set[int], nodes: set[int], length: int
    ) -> Iterator[list[Step]]:
        """The ways to continue a walk, depth first: complete ones of `length` hops, else of the least number.

        Args:
            node: the last node.
            steps: the hops to it.
            passed: all nodes that the earlier nodes are joined to: reaching one of them would skip a hop.
            nodes: the nodes of the walk.
            length: hops to aim for.
        """
        self.longest = max(self.longest, len(steps))
        if len(steps) == length:
            yield steps
            return
        self._visits += 1
        facts = self._graph.facts(node)
        joined = {target for _, target in facts}
        branches = [
            (relation, target) for relation, target in facts if target not in passed and target not in nodes
        ]
        self._random.shuffle(branches)
        last = len(steps) + 1 == length
        for relation, target in branches:
            if self._visits > _VISITS:
                break
            if not last and not 1 <= self._graph.degree(target) <= MAX_FACTS:
                self.longest = max(self.longest, len(steps) + 1)
                continue
            constraints = self._separate(facts, relation, target, nodes)
            if constraints is not None:
                step = Step(relation, target, constraints)
                yield from self._extend(target, [*steps, step], passed | joined, nodes | {target}, length)
        if len(steps) >= self._hops[0]:
            yield steps

    def _separate(
        self, facts: Sequence[tuple[int, int]], relation: int, target: int, nodes: set[int]
    ) -> tuple[Constraint, ...] | None:
        """What tells a target from the others of its relation; None if nothing does."""
        others = [other for name, other in facts if name == relation and other != target]
        if not others:
            return ()
        attributes = self._graph.facts(target)
        if len(attributes) > MAX_FACTS:
            return None
        self._random.shuffle(attributes)
        for exact in (False, True) if self._obscure else (True,):
            for name, value in attributes:
                if value in nodes:
                    continue
                one = self._graph.exact(name, value) if exact else self._graph.obscured(name, value)
                if one is not None and not any(self._graph.holds(other, one) for other in others):
                    return (one,)
        return None

    def _describe(self, start: int, steps: list[Step]) -> Walk | None:
        """The walk with a description that only its start fits; None if there is none or the question gives it away."""
        graph = self._graph
        if not normalize_answer(graph.triples.names[steps[-1].node]):
            return None  # an answer that no agent could give
        on_walk = {start, *(step.node for step in steps)}
        own = {graph.values[node] for node in on_walk}
        attributes = [
            (relation, value) for relation, value in graph.facts(start) if graph.values[value] not in own
        ]
        self._random.shuffle(attributes)
        description = self._narrow(start, attributes)
        if description is None:
            return None
        walk = Walk(start, description, tuple(steps))
        return walk if answers_of(graph, walk) == {steps[-1].node} and not self._names_a_node(walk) else None

    def _narrow(self, start: int, attributes: list[tuple[int, int]]) -> tuple[Constraint, ...] | None:
        """Constraints that only the start fits, as few exact ones as the order of the attributes allows."""
        graph = self._graph
        chosen: list[tuple[int, int]] = []
        constraints: list[Constraint] = []
        left: int | None = None  # how many nodes fit
        if self._obscure:  # values without a class can only be stated: they come last
            attributes = sorted(attributes, key=lambda attribute: graph.obscured(*attribute) is None)
        for relation, value in attributes[: 4 * _MAX_CONSTRAINTS]:
            obscured = graph.obscured(relation, value) if self._obscure else None
            one = obscured or graph.exact(relation, value)
            if one in constraints:
                continue
            fitting = len(graph.fitting([*constraints, one]))
            if left is None or fitting < left:
                chosen.append((relation, value))
                constraints.append(one)
                left = fitting
            if left == 1 or len(chosen) == _MAX_CONSTRAINTS:
                break
        for number, (relation, value) in enumerate(chosen):
            if left == 1:
                break
            constraints[number] = graph.exact(relation, value)
            left = len(graph.fitting(constraints))
        return tuple(constraints) if left == 1 else None

    def _names_a_node(self, walk: Walk) -> bool:
        """Whether the question states a name of a node of the walk, as a part of an exact value or of a relation."""
        graph, triples = self._graph, self._graph.triples
        conditions = [*walk.description, *(one for step in walk.steps for one in step.constraints)]
        texts = [graph.value_names[one.value] for one in conditions if one.exact]
        used = [*(one.relation for one in conditions), *(step.relation for step in walk.steps)]
        texts += [triples.relations[relation] for relation in used]
        stated = "\n".join(texts)
        names = [
            name for node in walk.nodes for name in (triples.names[node], *triples.aliases.get(node, ()))
        ]
        return any(contains_answer(stated, name) for name in names)
