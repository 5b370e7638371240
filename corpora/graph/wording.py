"""Words a walk: the question, its sub-questions, and the passages of a graph that has none.

Something has a birthplace that begins with "D", an occupation that begins with "p" and the birth year 1893. What is the
founder of the employer (the one with a country that begins with "B") of its mentor?
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from searchgym.records.question import Hop, Passage, Question

from .index import Constraint, Graph
from .walks import Walk

__all__ = ["passages_of", "question_of", "word_question"]


def word_question(graph: Graph, walk: Walk) -> str:
    """The question of a walk, without the name of any of its nodes.

    Args:
        graph: the graph.
        walk: the walk.
    """
    relations = graph.triples.relations
    path = f"its {relations[walk.steps[0].relation]}{_aside(graph, walk.steps[0].constraints)}"
    for step in walk.steps[1:]:
        path = f"the {relations[step.relation]}{_aside(graph, step.constraints)} of {path}"
    return f"Something has {_described(graph, walk.description)}. What is {path}?"


def question_of(graph: Graph, walk: Walk, passage_ids: dict[int, str], id: str, split: str) -> Question:
    """A walk as a task: question, answers, and per hop a gold sub-query and the passage that answers it.

    Args:
        graph: the graph.
        walk: the walk.
        passage_ids: node -> the id of its passage.
        id: the task id.
        split: the split.
    """
    triples = graph.triples
    names = [triples.names[node] for node in walk.nodes]
    relations = [triples.relations[step.relation] for step in walk.steps]
    asked = [f"What has {_described(graph, walk.description)}?"]
    asked += [
        f"What is the {relation}{_aside(graph, step.constraints)} of {name}?"
        for name, relation, step in zip(names, relations, walk.steps, strict=False)
    ]
    exact = sum(one.exact for one in walk.description)
    metadata: dict[str, Any] = {
        "walk": names,
        "sub_questions": asked,
        "description": {"obscured": len(walk.description) - exact, "exact": exact},
    }
    support = tuple(passage_ids[node] for node in walk.nodes[:-1])
    chain = tuple(
        Hop(f"{name} {relation}", relation, (passage,), bridge)
        for name, relation, passage, bridge in zip(names, relations, support, names[1:], strict=False)
    )
    answer = walk.steps[-1].node
    answers = (names[-1], *triples.aliases.get(answer, ()))
    return Question(
        id,
        word_question(graph, walk),
        answers,
        split,
        type="walk",
        hops=len(chain),
        supporting_ids=support,
        chain=chain,
        metadata=metadata,
    )


def passages_of(graph: Graph) -> Iterator[tuple[int, Passage]]:
    """One (node, passage) for each node that is the subject of a triple, with all its facts; in order of id."""
    triples = graph.triples
    digits = len(str(len(triples.names)))
    for node, name in enumerate(triples.names):
        facts = graph.facts(node)
        if facts:
            worded = (
                f"The {triples.relations[relation]} of {name}: {', '.join(triples.names[target] for _, target in group)}."
                for relation, group in groupby(facts, key=lambda fact: fact[0])
            )
            yield node, Passage(f"{node:0{digits}d}", name, " ".join(worded))


def _aside(graph: Graph, constraints: Iterable[Constraint]) -> str:
    found = [_condition(graph, one) for one in constraints]
    return f" (the one with {_listed(found)})" if found else ""


def _described(graph: Graph, description: Iterable[Constraint]) -> str:
    return _listed([_condition(graph, one) for one in description])


def _condition(graph: Graph, one: Constraint) -> str:
    relation = graph.triples.relations[one.relation]
    if one.exact:
        return f"the {relation} {graph.value_names[one.value]}"
    kind, member = graph.class_names[one.value]
    described = {
        "decade": f"in the {member}",
        "digits": f"that is a {'negative ' if member[0] == '-' else ''}number of {_digits(member)}",
        "initial": f'that begins with "{member}"',
    }[kind]
    article = "an" if relation[:1].lower() in "aeiou" else "a"
    return f"{article} {relation} {described}"


def _digits(member: str) -> str:
    count = member.removeprefix("-")
    return "one digit" if count == "1" else f"{count} digits"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
