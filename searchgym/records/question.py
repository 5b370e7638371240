"""What an episode is about: passages, questions and the corpus that holds both."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..errors import UnknownIdError

__all__ = [
    "PLAIN_DESCRIPTION",
    "Corpus",
    "Hop",
    "Passage",
    "Question",
    "describe_corpus",
    "find_passage",
    "gold_record",
]

PLAIN_DESCRIPTION = "a collection of texts"
"""How the system prompt names a corpus that does not describe itself."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable text. `id` is unique in its corpus."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the gold derivation of an answer.

    Attributes:
        query: a search query that finds `passage_ids` (the gold sub-query).
        relation: the relation looked up, in the words of the corpus ("employer").
        passage_ids: the passages this hop reads.
        bridge: the entity or value this hop yields, as the passage words it; the last hop's is the answer
            (in comparisons and intersections: what the final decision needs from this hop).
    """

    query: str
    relation: str
    passage_ids: tuple[str, ...]
    bridge: str


@dataclass(frozen=True, slots=True)
class Question:
    """One task: a question with everything needed to score it.

    Attributes:
        id: the task id, unique in its corpus.
        text: the question as the agent sees it.
        answers: accepted answers, the canonical one first, then aliases. Never empty.
        split: "train", "dev" or "test".
        type: e.g. "chain", "comparison", "intersection", "obscured", or the data set's own name for it.
        hops: number of passages needed in sequence; 0 when unknown.
        supporting_ids: gold passages, in the order of the derivation; empty when unknown.
        chain: the gold derivation, one `Hop` each; empty when unknown.
        metadata: further fields of the data set; JSON values only.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    split: str
    type: str = "unknown"
    hops: int = 0
    supporting_ids: tuple[str, ...] = ()
    chain: tuple[Hop, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Corpus(Protocol):
    """Passages to search and questions about them.

    A factory registered under the entry-point group `searchgym.corpora` returns one of these. Passages are
    ordered by id, so that position order is id order (ties in retrieval are broken by it).

    A corpus may also have a string attribute `description`, a noun phrase such as "an encyclopedia", which the system
    prompt uses; see `describe_corpus`; and a string attribute `segmentation`, what F1 and substring match count as a word,
    one of `searchgym.scoring.SEGMENTATIONS`.
    """

    name: str
    """Short name for messages and episode records."""
    hash: str
    """Digest of the passages (not of the questions): two corpora with equal hashes search alike."""

    @property
    def passages(self) -> Sequence[Passage]:
        """All passages, ordered by id. Random access; may be read from disk on demand."""

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of one split, in a fixed order; raises `UnknownIdError` for an unknown split."""

    def question(self, task_id: str) -> Question:
        """One question of any split; raises `UnknownIdError`."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have questions."""


def describe_corpus(corpus: Corpus) -> str:
    """The noun phrase by which the system prompt names a corpus: its own `description`, or a neutral one."""
    return str(getattr(corpus, "description", "") or PLAIN_DESCRIPTION)


def gold_record(question: Question) -> dict[str, Any]:
    """The value of `info["gold"]` and `Episode.gold`: a fresh JSON value."""
    return {
        "answers": list(question.answers),
        "supporting_ids": list(question.supporting_ids),
        "chain": [
            {
                "query": hop.query,
                "relation": hop.relation,
                "passage_ids": list(hop.passage_ids),
                "bridge": hop.bridge,
            }
            for hop in question.chain
        ],
    }


def find_passage(corpus: Corpus, passage_id: str) -> Passage:
    """A passage by its id, by bisection (passages are ordered by id).

    Args:
        corpus: where to look.
        passage_id: the id.

    Raises:
        UnknownIdError: no passage has the id.
    """
    passages = corpus.passages
    position = bisect_left(passages, passage_id, key=lambda p: p.id)
    if position == len(passages) or passages[position].id != passage_id:
        raise UnknownIdError("passage", passage_id, ())
    return passages[position]
