"""Five forms of a search result, as StructRAG restructures documents: chunk, table, graph, algorithm, catalogue.

Each is a deterministic function of the passages that were shown, and keeps the numbered form of a result, so that agents which
look for passages find them.

| rendering | one entry per | what it keeps |
|---|---|---|
| chunk | passage | everything, as it is |
| table | passage | each fact as "name: value", where the text has that form, else as it is, separated by bars |
| graph | passage | triples: title, the words before a name or number, the name or number |
| algorithm | passage | its sentences as numbered steps |
| catalogue | result | the titles, each with the beginning of its text |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..passages import FUNCTION_WORDS, NUMBER, SPAN, ShownPassage

__all__ = ["RENDERINGS", "facts_of"]

_FACT = re.compile(r"\s*;\s*|(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z0-9\"“(])")
_MENTION = re.compile(f"{SPAN.pattern}|{NUMBER.pattern}")
_WORD = re.compile(r"\w+")
_TOLD = 8  # words of a passage that a catalogue shows
_LEFT = 4  # words of a relation

Entries = list[tuple[str, str]]


def facts_of(text: str) -> list[str]:
    """The facts of a passage: its sentences, or what stands between semicolons."""
    return [fact.strip() for fact in _FACT.split(text) if fact.strip()]


def _chunk(passages: Sequence[ShownPassage]) -> Entries:
    return [(passage.title, passage.text) for passage in passages]


def _table(passages: Sequence[ShownPassage]) -> Entries:
    return [(p.title, " | ".join(facts_of(p.text))) for p in passages]


def _graph(passages: Sequence[ShownPassage]) -> Entries:
    return [(p.title, "\n".join(f"{p.title} -- {name} -> {to}" for name, to in _links(p))) for p in passages]


def _algorithm(passages: Sequence[ShownPassage]) -> Entries:
    return [
        (p.title, "\n".join(f"Step {i}: {fact}" for i, fact in enumerate(facts_of(p.text), 1)))
        for p in passages
    ]


def _catalogue(passages: Sequence[ShownPassage]) -> Entries:
    listed = [f"{p.title}: {' '.join(p.text.split()[:_TOLD])} …" for p in passages]
    return [("Catalogue", "\n".join(listed))] if listed else []


RENDERINGS: dict[str, Callable[[Sequence[ShownPassage]], Entries]] = {
    "chunk": _chunk,
    "table": _table,
    "graph": _graph,
    "algorithm": _algorithm,
    "catalogue": _catalogue,
}
"""The renderings by name: passages -> (title, text) of each entry. Their order is that of the router's choices."""


def _links(passage: ShownPassage) -> list[tuple[str, str]]:
    """(relation, name or number) for each mention in a passage; items of a list share the words before it."""
    links: list[tuple[str, str]] = []
    for fact in facts_of(passage.text):
        end, relation = 0, ""
        for match in _MENTION.finditer(fact):
            words = [w for w in _WORD.findall(fact[end : match.start()].lower()) if w not in FUNCTION_WORDS]
            relation = " ".join(words[-_LEFT:]) or relation
            if match[0] != passage.title:
                links.append((relation, match[0]))
            end = match.end()
    return links
