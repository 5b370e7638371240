"""Candidate acts and their features, read from the observation texts of one episode and from nothing else.

Before each act the policy of `agent.py` chooses among all acts of the forms search(phrase) and answer(phrase), where a
phrase is

- the whole question, each of its parts between punctuation marks, each name and each single word in it,
- each page title, name and number in the newest search result, once per place where it occurs,
- one of ten fixed phrases ("yes", "unknown" …), so that there are always at least 20 candidates.

Where feedback is offered (training with CAPF) the policy may also submit each phrase as a draft, and an answer or a page
that feedback names is one more phrase (`add_feedback`).

The features describe where a phrase occurs, not whether it is right: whether the words before it occur in the question and
at which position, whether it occurs on the page that was just searched for, whether it was searched before, and so on
(`FEATURES`). Features are computed from the observations only, never from gold data, titles of unseen passages or the
index.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.dialects import Act

from ..passages import FUNCTION_WORDS, NUMBER, SPAN, ShownPassage, read_passages

__all__ = [
    "FEATURES",
    "FEEDBACK_FEATURES",
    "KINDS",
    "MEMORY_FEATURES",
    "WIDTH",
    "CandidateSet",
    "add_feedback",
    "count_relations",
    "list_candidates",
]

KINDS = ("search", "answer", "feedback")
"""The kinds of acts, in the order of the candidates."""

GENERIC = ("yes", "no", "both", "neither", "none", "unknown", "first", "second", "same", "different")

FEATURES = (
    "any",  # always 1: a bias of the kind of act
    "generic phrase",
    "whole question",
    "part of the question",
    "name in the question",
    "first name in the question",
    "word of the question",
    "from the newest result",
    "page title",
    "number",
    "searched before",
    "stands in the question too",
    "stands in an earlier result too",
    "on the best-ranked page",
    "on the page that was asked for",
    "after a relation of the question",
    "after the relation whose turn it is",
    "after the relation whose turn it is, from the end",
    "no search yet",
    "fewer searches than relations",
    "more searches than relations",
)
"""Names of the features of a phrase, each 0 or 1. They are part of saved weights."""
WIDTH = len(FEATURES)
FEEDBACK_FEATURES = (
    "feedback was given",
    "named by the feedback",
    "draft that was right",
    "draft that was an earlier step",
    "draft that was wrong",
    "everything needed has been found",
)
"""Names of the additional features of a phrase where feedback is offered, each 0 or 1."""
_F = {name: i for i, name in enumerate(FEATURES)}
_T = {name: i for i, name in enumerate(FEEDBACK_FEATURES)}
MEMORY_FEATURES = [_F["searched before"], _F["stands in an earlier result too"]]
"""Columns of the features that depend on more than the newest result and the number of searches."""
_STATE = ["no search yet", "fewer searches than relations", "more searches than relations"]

_WORD = re.compile(r"\w+(?:['’.-]\w+)*")
_PART = re.compile(r"[^\s:;,&?][^:;,&?]*")
_MENTION = re.compile(f"{SPAN.pattern}|{NUMBER.pattern}")
_NAMED = re.compile(r"(?:The answer is|Read(?: the passage that begins:)?) (.+?)\.?$", re.MULTILINE)
_CONTEXT_WORDS = 8
_CACHE = 1 << 14  # the runs of a benchmark share questions: 16 of them have some 30,000 different states


class CandidateSet(NamedTuple):
    """The candidates before one act: search for each of P phrases, then answer each, then submit each for feedback.

    Attributes:
        phrases: P strings; a phrase is listed once for every place where it occurs.
        rows_PF: features of each phrase, 0 or 1, [P, WIDTH].
        feedback_features_PF: additional features of each phrase, [P, len(FEEDBACK_FEATURES)]; None where feedback is
            not offered.
        kinds: number of `KINDS` that are candidates: 3 where feedback may be requested now, else 2.
    """

    phrases: tuple[str, ...]
    rows_PF: NDArray[np.uint8]
    feedback_features_PF: NDArray[np.uint8] | None = None
    kinds: int = 2

    def __len__(self) -> int:
        """Number of candidates, P of each kind."""
        return self.kinds * len(self.phrases)

    def act(self, index: int) -> Act:
        """The act of a candidate."""
        kind, position = divmod(index, len(self.phrases))
        phrase = self.phrases[position]
        if kind == 0:
            return Act("search", queries=(phrase,))
        return Act("answer", answer=phrase) if kind == 1 else Act("feedback", draft=phrase)


class _Mention(NamedTuple):
    """A name or number in a passage, and the words before it."""

    phrase: str
    before: tuple[str, ...]
    number: bool


class _Question(NamedTuple):
    """What the features need of a question.

    Attributes:
        phrases: its phrases.
        rows_PF: their features.
        names: the names in it.
        relations: each content word outside names, with its positions among these words.
        length: number of these words.
    """

    phrases: tuple[str, ...]
    rows_PF: NDArray[np.uint8]
    names: frozenset[str]
    relations: dict[str, tuple[int, ...]]
    length: int


class _Page(NamedTuple):
    """A page relative to one question: the features that are the same in every round.

    Attributes:
        phrases: names and numbers on the page, its title first.
        rows_PF: their features.
        after_PL: whether the question's relation at each of its L positions directly precedes a phrase.
    """

    phrases: tuple[str, ...]
    rows_PF: NDArray[np.uint8]
    after_PL: NDArray[np.uint8]


@lru_cache(maxsize=_CACHE)
def _mentions(text: str) -> tuple[_Mention, ...]:
    """Names and numbers of a passage. In a list ("films A , B") every item gets the words before the list."""
    mentions: list[_Mention] = []
    end = 0
    before: tuple[str, ...] = ()
    for match in _MENTION.finditer(text):
        between = text[end : match.start()]
        words = tuple(w for w in _WORD.findall(between.lower()) if w not in FUNCTION_WORDS)
        if words or ";" in between or "." in between:
            before = words[-_CONTEXT_WORDS:]
        mentions.append(_Mention(match[0], before, match[0][0].isdigit()))
        end = match.end()
    return tuple(mentions)


@lru_cache(maxsize=_CACHE)
def _read_question(text: str) -> _Question:
    names = list(dict.fromkeys(SPAN.findall(text)))
    parts = [p.strip() for p in _PART.findall(text)]
    words = _WORD.findall(text)
    flags: dict[str, set[str]] = {}
    for kind, phrases in (
        ("whole question", [" ".join(text.split())]),
        ("part of the question", parts),
        ("name in the question", names),
        ("first name in the question", names[:1]),
        ("word of the question", words),
    ):
        for phrase in phrases:
            if phrase:
                flags.setdefault(phrase, {"any"}).add(kind)
    for phrase in GENERIC:
        flags.setdefault(phrase, {"any"}).add("generic phrase")
    rows = np.zeros((len(flags), WIDTH), dtype=np.uint8)
    for row, (phrase, kinds) in zip(rows, flags.items(), strict=True):
        row[[_F[kind] for kind in kinds]] = 1
        row[_F["number"]] = phrase[0].isdigit()
    relations: dict[str, tuple[int, ...]] = {}
    content = [
        w
        for w in _WORD.findall(SPAN.sub(" ", text).lower())
        if w not in FUNCTION_WORDS and not w[0].isdigit()
    ]
    for i, word in enumerate(content):
        relations[word] = (*relations.get(word, ()), i)
    return _Question(tuple(flags), rows, frozenset(names), relations, len(content))


@lru_cache(maxsize=_CACHE)
def _on_page(question: str, title: str, text: str) -> _Page:
    asked = _read_question(question)
    titles = [_Mention(title, (), title[0].isdigit())] if title else []
    mentions = (*titles, *_mentions(text))
    phrases = tuple([mention.phrase for mention in mentions])
    relations = asked.relations
    after = np.zeros((len(mentions), asked.length), dtype=np.uint8)
    for row, mention in enumerate(mentions):
        for word in mention.before:
            if word in relations:
                after[row, relations[word]] = 1
    rows = np.zeros((len(mentions), WIDTH), dtype=np.uint8)
    rows[:, _F["any"]] = rows[:, _F["from the newest result"]] = 1
    rows[: len(titles), _F["page title"]] = 1
    rows[:, _F["number"]] = [mention.number for mention in mentions]
    rows[:, _F["stands in the question too"]] = [phrase in asked.names for phrase in phrases]
    rows[:, _F["after a relation of the question"]] = after.any(axis=1)
    return _Page(phrases, rows, after)


def count_relations(question: str) -> int:
    """The number of relations of a question, as the features count them: its content words outside names.

    Args:
        question: the first observation.
    """
    return _read_question(question).length


@lru_cache(maxsize=_CACHE)
def list_candidates(question: str, queries: tuple[str, ...], observations: tuple[str, ...]) -> CandidateSet:
    """The candidates before the next act.

    Results are cached, because episodes of one question share most of their states.

    Args:
        question: the first observation.
        queries: the queries searched so far, in order.
        observations: what the acts so far returned, in order.
    """
    asked = _read_question(question)
    searches, length = len(queries), asked.length
    shown = _read(observations[-1]) if observations else ()
    pages = [_on_page(question, page.title, page.text) for page in shown]
    phrases = asked.phrases
    for page in pages:
        phrases += page.phrases
    rows = np.concatenate([asked.rows_PF, *[page.rows_PF for page in pages]])
    end = first = len(asked.phrases)
    for rank, page in enumerate(pages):
        start, end = end, end + len(page.phrases)
        if rank == 0:
            rows[start:end, _F["on the best-ranked page"]] = 1
        if queries and shown[rank].title == queries[-1]:
            rows[start:end, _F["on the page that was asked for"]] = 1
        if 1 <= searches <= length:
            rows[start:end, _F["after the relation whose turn it is"]] = page.after_PL[:, searches - 1]
            rows[start:end, _F["after the relation whose turn it is, from the end"]] = page.after_PL[
                :, length - searches
            ]
    if len(observations) > 1:
        earlier = frozenset().union(*map(_shown, observations[:-1]))
        again = [row for row in range(first, end) if phrases[row] in earlier]
        rows[again, _F["stands in an earlier result too"]] = 1
    if queries:
        searched = [row for row, phrase in enumerate(phrases) if phrase in queries]
        rows[searched, _F["searched before"]] = 1
        if searches != length:
            rows[
                :,
                _F["fewer searches than relations" if searches < length else "more searches than relations"],
            ] = 1
    else:
        rows[:, _F["no search yet"]] = 1
        rows[:, _F["fewer searches than relations"]] = length > 0
    rows.setflags(write=False)
    return CandidateSet(phrases, rows)


@lru_cache(maxsize=_CACHE)
def add_feedback(
    question: str,
    queries: tuple[str, ...],
    observations: tuple[str, ...],
    feedback_history: tuple[tuple[str, str], ...],
    may_ask: bool,
) -> CandidateSet:
    """The candidates before the next act where feedback is offered.

    Args:
        question: see `list_candidates`.
        queries: see `list_candidates`.
        observations: see `list_candidates`; feedback is not among them.
        feedback_history: the drafts submitted so far, each with the text that came back.
        may_ask: whether one more may be submitted.
    """
    phrases, rows, *_ = list_candidates(question, queries, observations)
    drafts = {draft: _verdict(text) for draft, text in feedback_history}
    named = tuple(dict.fromkeys(name for _, text in feedback_history for name in _NAMED.findall(text)))
    if named:
        added = np.zeros((len(named), WIDTH), dtype=np.uint8)
        state = [_F[name] for name in _STATE]
        added[:, state] = rows[0, state]
        added[:, _F["any"]] = 1
        added[:, _F["number"]] = [phrase[0].isdigit() for phrase in named]
        added[:, _F["searched before"]] = [phrase in queries for phrase in named]
        phrases, rows = phrases + named, np.concatenate([rows, added])
    feedback_features = np.zeros((len(phrases), len(FEEDBACK_FEATURES)), dtype=np.uint8)
    if feedback_history:
        feedback_features[:, _T["feedback was given"]] = 1
        feedback_features[:, _T["named by the feedback"]] = [phrase in named for phrase in phrases]
        for row, phrase in zip(feedback_features, phrases, strict=True):
            if phrase in drafts:
                row[_T[drafts[phrase]]] = 1
        feedback_features[:, _T["everything needed has been found"]] = (
            "Everything needed has been found." in feedback_history[-1][1]
        )
    for array in (rows, feedback_features):
        array.setflags(write=False)
    return CandidateSet(phrases, rows, feedback_features, 3 if may_ask else 2)


def _verdict(text: str) -> str:
    """The one of `FEEDBACK_FEATURES` that a draft has after this feedback text."""
    if "The draft is right." in text:
        return "draft that was right"
    return (
        "draft that was an earlier step" if "The draft is an earlier step" in text else "draft that was wrong"
    )


@lru_cache(maxsize=_CACHE)
def _read(observation: str) -> tuple[ShownPassage, ...]:
    return tuple(read_passages(observation))


@lru_cache(maxsize=_CACHE)
def _shown(observation: str) -> frozenset[str]:
    """The titles, names and numbers of a result."""
    pages = _read(observation)
    return frozenset(phrase for page in pages for phrase in (page.title, *_phrases(page.text)))


def _phrases(text: str) -> list[str]:
    return [m.phrase for m in _mentions(text)]
