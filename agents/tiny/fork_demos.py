"""Demonstrations of the questions of the corpus `forks`: exact copies, indifferent or right choices.

An episode searches a name of the question, then a value on the page it has just read, until it answers:

    Daria Rinemar : mayor : climber : published ?
    <think> Daria Rinemar </think> <search> Daria Rinemar </search>
    <information> ... </information>
    <think> 1 climber Selma Thorninna </think> <search> Selma Thorninna </search>
    <information> ... </information>
    <think> 1 published 1961 </think> <answer> 1961 </answer>

Each value is as likely as the weight that `Choices` gives its kind. Links of any relation of the question weigh the same, so
an episode that reads the right page is as likely as one that follows a relation whose turn it is not: which of them is right
is left to reinforcement learning. No such choice depends on the family, and none on the right answer. With `Choices.right`,
some episodes are right from beginning to end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from searchgym.dialects import Act, TagsDialect
from searchgym.options import number
from searchgym.records.question import Question
from searchgym.records.retriever import Hit

from .demos import Part, read_line

__all__ = ["Choices", "demonstrate_fork"]

_DIALECT = TagsDialect()
_MAX_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Choices:
    """Weights of the acts of one round, relative to each other.

    Attributes:
        first: searching the first name of the question, before anything was read.
        later: searching another name of it.
        hint: answering with the year that the question suggests, before anything was read.
        asked: answering with a year that stands after the last relation of the question.
        mentioned: searching a name that stands after any other relation of the question.
        unmentioned: searching a name that stands after a relation that the question does not mention.
        right: probability that all acts of an episode are right instead: the gold pages in order, then the answer.

    Raises:
        ConfigError: `right` is not a probability.
    """

    first: float = 1.0
    later: float = 0.3
    hint: float = 0.4
    asked: float = 8.0
    mentioned: float = 1.0
    unmentioned: float = 0.12
    right: float = 0.0

    def __post_init__(self) -> None:
        number("right", self.right, 0.0, 1.0)


def demonstrate_fork(
    question: Question,
    search: Callable[[str], Sequence[Hit]],
    draw: random.Random,
    choices: Choices = Choices(),
    max_rounds: int = 20,
) -> list[Part]:
    """Play one episode.

    Args:
        question: one of `Forks` in the terse style.
        search: returns the hits of a query.
        draw: source of all randomness.
        choices: how likely each act is.
        max_rounds: the environment's budget; a longer episode ends without an answer.
    """
    if choices.right and draw.random() < choices.right:
        return _right_episode(question, search)
    names, path, hint = _read_question(question.text)
    parts = [Part(question.text, False)]
    options = [(Act("search", queries=(name,)), name, choices.later) for name in names]
    options[0] = (*options[0][:2], choices.first)
    if hint:
        options.append((Act("answer", answer=hint), hint, choices.hint))
    for _ in range(max_rounds):
        (act, thought, _), *_ = draw.choices(options, [weight for *_, weight in options])
        parts.append(Part(_DIALECT.write(act, thought), True))
        if act.kind == "answer":
            break
        hits = search(act.queries[0])
        parts.append(Part(_DIALECT.render_hits(hits, _MAX_CHARS), False))
        options = list(_options(hits, path, choices))
        if not options:
            break
    return parts


def _right_episode(question: Question, search: Callable[[str], Sequence[Hit]]) -> list[Part]:
    """The gold pages in order, then the answer."""
    parts, thought = [Part(question.text, False)], question.chain[0].query
    for hop in question.chain:
        parts.append(Part(_DIALECT.write(Act("search", queries=(hop.query,)), thought), True))
        parts.append(Part(_DIALECT.render_hits(search(hop.query), _MAX_CHARS), False))
        thought = f"1 {hop.relation} {hop.bridge}"
    parts.append(Part(_DIALECT.write(Act("answer", answer=question.answers[0]), thought), True))
    return parts


def _read_question(text: str) -> tuple[list[str], list[str], str]:
    """Names, relations and suggested year ("" for none) of a terse question."""
    starts, *path = text.removesuffix(" ?").split(" : ")
    path[-1], _, hint = path[-1].partition(" , ")
    return starts.split(" , "), path, hint


def _options(hits: Sequence[Hit], path: Sequence[str], choices: Choices) -> list[tuple[Act, str, float]]:
    """The acts that the pages suggest: act, thought, weight."""
    options = []
    for rank, hit in enumerate(hits, 1):
        for relation, values in read_line(hit.text):
            for value in values.split(" , "):
                thought = f"{rank} {relation} {value}"
                if value.isdigit():
                    if relation == path[-1]:
                        options.append((Act("answer", answer=value), thought, choices.asked))
                else:
                    weight = choices.mentioned if relation in path else choices.unmentioned
                    options.append((Act("search", queries=(value,)), thought, weight))
    return options
