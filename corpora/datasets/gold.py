"""Finds the gold passages of published question sets, which name their evidence by article and sentence.

HotpotQA and 2WikiMultihopQA: `metadata.supporting_facts` = {"title": […], "sent_id": […]}, the sentences in
`metadata.context` = {"title": […], "sentences" or "content": [[…], …]}. MuSiQue:
`metadata.question_decomposition[i].support_paragraph` = {"title", "paragraph_text"}. They do not refer to the passages
of our corpus, so an article is looked up by its title. If several passages have that title, the ones with most words of
the gold sentences are used. A question whose article is not found gets no gold passages at all, as recall over the
others would be too high.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from searchgym.records.question import Passage

from .packing import Packed

__all__ = ["Fact", "count_hops", "gold_facts", "gold_ids", "passages_by_title"]

_MIN_SHARE = 0.5  # share of a gold sentence's distinct words that its passage must contain
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fact:
    """An article, and a sentence or paragraph of it, whose text may be empty."""

    title: str
    text: str


def gold_facts(metadata: Mapping[str, Any]) -> list[Fact]:
    """The evidence that a question's metadata names, in order and without duplicates."""
    return list(dict.fromkeys([*_supporting_facts(metadata), *_decomposition(metadata)]))


def count_hops(metadata: Mapping[str, Any]) -> int:
    """The number of hops in the metadata: steps of a decomposition, else articles; 0 if there are neither."""
    steps = metadata.get("question_decomposition")
    if isinstance(steps, list) and steps:
        return len(steps)
    return len({fact.title for fact in gold_facts(metadata)})


def passages_by_title(passages: Packed[Passage], titles: set[str]) -> dict[str, list[int]]:
    """The positions of the passages with each of the titles; one scan over all passages."""
    found: dict[str, list[int]] = {}
    wanted = {title.encode(): title for title in titles}
    for position, (_, begin, end, _) in enumerate(passages.each_row()):
        title = wanted.get(passages.read(begin, end))
        if title is not None:
            found.setdefault(title, []).append(position)
    return found


def gold_ids(
    facts: list[Fact], by_title: Mapping[str, list[int]], passages: Packed[Passage]
) -> tuple[str, ...]:
    """The ids of the passages with the facts, in order of the facts; empty if one of them is not found."""
    ids: dict[str, None] = {}
    for fact in facts:
        candidates = [passages[position] for position in by_title.get(fact.title, ())]
        best = candidates[0] if len(candidates) == 1 else _holder(fact, candidates)
        if best is None:
            return ()
        ids[best.id] = None
    return tuple(ids)


def _holder(fact: Fact, candidates: list[Passage]) -> Passage | None:
    """The candidate with most of the fact's words, the first of equals; None if all have too few."""
    words = set(_WORD.findall(fact.text.lower()))
    best, most = None, _MIN_SHARE * len(words)
    for passage in candidates if words else ():
        share = len(words & set(_WORD.findall(passage.text.lower())))
        if share > most or (best is None and share >= most):
            best, most = passage, share
    return best


def _supporting_facts(metadata: Mapping[str, Any]) -> Iterator[Fact]:
    facts = _columns(metadata.get("supporting_facts"), "title", "sent_id")
    context = _columns(metadata.get("context"), "title", "sentences")
    if not isinstance(facts, dict):
        return
    sentences: dict[str, list[Any]] = {}
    if isinstance(context, dict):
        texts = context.get("sentences") or context.get("content")
        sentences = dict(zip(_list(context.get("title")), _list(texts), strict=False))
    titles, numbers = _list(facts.get("title")), _list(facts.get("sent_id"))
    for index, title in enumerate(titles):
        if isinstance(title, str) and title.strip():
            number = numbers[index] if index < len(numbers) else None
            article = _list(sentences.get(title))
            known = article[number : number + 1] if isinstance(number, int) and number >= 0 else []
            yield Fact(title, str(known[0]) if known else "")


def _columns(rows: Any, *names: str) -> Any:
    """HotpotQA's own lists of pairs, [title, number] and [title, sentences], as a table of columns; anything else as it is."""
    if not isinstance(rows, list):
        return rows
    pairs = [row for row in rows if isinstance(row, list) and len(row) == len(names)]
    return {name: [pair[i] for pair in pairs] for i, name in enumerate(names)}


def _decomposition(metadata: Mapping[str, Any]) -> Iterator[Fact]:
    for step in _list(metadata.get("question_decomposition")):
        paragraph = step.get("support_paragraph") if isinstance(step, dict) else None
        if isinstance(paragraph, dict) and isinstance(paragraph.get("title"), str):
            yield Fact(paragraph["title"], str(paragraph.get("paragraph_text") or ""))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
