"""The record of a round: what an agent wrote, what came back, and what it earned.

The environment makes one `RoundRecord` per round. Infos, judges, reward terms, episodes and their files all read this
record. docs/environment.md describes the JSON form.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from hashlib import blake2b
from math import isfinite
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from .acts import Act
from .question import Question, gold_record
from .retriever import Hit
from .verdict import Verdict, no_verdict

__all__ = [
    "INFO_SCHEMA",
    "Feedback",
    "Outcome",
    "Retrieval",
    "Round",
    "RoundRecord",
    "StopReason",
    "anchor_of",
    "checked",
    "copy_json",
    "from_schema_1",
]

INFO_SCHEMA = 2

T = TypeVar("T")


def anchor_of(observation: str) -> str:
    """The name of the state that an observation puts the agent in: equal observations have equal anchors."""
    return blake2b(observation.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def copy_json(value: Any) -> Any:
    """A copy of JSON data that shares nothing that can be changed; several times faster than `copy.deepcopy`."""
    kind = type(value)
    if kind is dict:
        return {k: copy_json(v) if type(v) in _NESTED else v for k, v in value.items()}
    if kind is list or kind is tuple:
        return [copy_json(v) if type(v) in _NESTED else v for v in value]
    return value


_NESTED = (dict, list, tuple)


class StopReason(enum.StrEnum):
    """Why an episode ended. ANSWERED and QUERIED terminate; every other reason truncates."""

    ANSWERED = "answered"
    """The agent gave its answer: `terminated`."""
    QUERIED = "queried"
    """The agent wrote the query that the task `query` asks for, or spent its attempts: `terminated`."""
    ROUND_BUDGET = "round_budget"
    """`max_rounds` rounds were played without an answer."""
    SEARCH_BUDGET = "search_budget"
    """The agent searched although its search budget was spent."""
    CHARACTER_BUDGET = "character_budget"
    """Actions and observations together exceeded `max_chars`."""
    TOKEN_BUDGET = "token_budget"
    """The rollout loop stopped the episode: the agent's context or token limit was reached."""
    RETRIEVAL_FAILED = "retrieval_failed"
    """Infrastructure: the retriever did not answer. Not valid for training."""
    AGENT_FAILED = "agent_failed"
    """Infrastructure: the agent (an API, an engine) failed. Not valid for training."""
    ABORTED = "aborted"
    """The caller ended the episode for a reason of its own. Not valid for training."""

    @property
    def is_terminal(self) -> bool:
        """True if the agent's own last act ended the episode."""
        return self in _TERMINAL

    @property
    def is_failure(self) -> bool:
        """True if the episode says nothing about the policy."""
        return self in _FAILURES


_TERMINAL = frozenset({StopReason.ANSWERED, StopReason.QUERIED})
_FAILURES = frozenset({StopReason.RETRIEVAL_FAILED, StopReason.AGENT_FAILED, StopReason.ABORTED})


@dataclass(slots=True)
class Outcome:
    """How an episode ended and what it scored; see `searchgym.scoring` for the metrics.

    Attributes:
        answer: the final answer; "" without one.
        em: exact match, 0 or 1.
        f1: token F1 in [0, 1].
        sub_em: substring match, 0 or 1.
        recall: share of the gold passages that were retrieved, in [0, 1]; 0 where none are known, which means nothing:
            `evaluate` leaves such questions out of the mean.
        rounds: rounds played.
        searches: queries searched.
        assisted: whether the agent used the feedback act.
        stop_reason: why the episode ended.
    """

    answer: str
    em: float
    f1: float
    sub_em: float
    recall: float
    rounds: int
    searches: int
    assisted: bool
    stop_reason: StopReason

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, as in `info["outcome"]`."""
        return {
            "answer": self.answer,
            "em": self.em,
            "f1": self.f1,
            "sub_em": self.sub_em,
            "recall": self.recall,
            "rounds": self.rounds,
            "searches": self.searches,
            "assisted": self.assisted,
            "stop_reason": self.stop_reason.value,
        }


class Retrieval(NamedTuple):
    """Whether a round searched, and in which index.

    Attributes:
        status: "none" (no search), "ok" or "error".
        backend: name of the retriever.
        index_hash: digest of the index; see `searchgym.Retriever`.
    """

    status: str
    backend: str = ""
    index_hash: str = ""


class Feedback(NamedTuple):
    """What the feedback act returned in a round.

    Attributes:
        level: the environment's feedback level, or "off".
        text: the feedback; "" if the round did not ask for any.
        calls_left: feedback acts the episode may still use.
    """

    level: str = "off"
    text: str = ""
    calls_left: int = 0


_NO_RETRIEVAL = Retrieval("none")
_NO_FEEDBACK = Feedback()
_NOT_JUDGED = no_verdict("off")


@dataclass(slots=True, eq=False)
class RoundRecord:
    """One round of an episode, as the environment made it. `searchgym.Round` is the same class.

    Attributes:
        text: the agent's raw message.
        action: the parsed act; its kind is "none" if the episode was ended from outside.
        results: the hits of each query, best first; empty if the round did not search or the search failed.
        observation: the text returned to the agent; "" at the end.
        round: number of rounds played so far, including this one.
        retrieval: status, backend and index hash.
        judge: the verdict; its status is "pending" until a judge that runs after the episodes has judged the round.
        feedback: level, text and calls left.
        reward: reward of this step.
        reward_terms: its weighted terms by name.
        uid: unique id; branches that share a round share its uid, so it enters the loss once.
        policy_version: version of the weights that sampled the act; None for agents that do not sample.
        temperature: sampling temperature; None for agents that do not sample.
        top_p: nucleus size; None for agents that do not sample.
        extra: values that trainers add by name (JSON).
        outcome: how the episode ended; set in the last round while it is played, not stored with the round.
        valid_for_training: whether the episode may be learned from; known in the last round, not stored with it.
        gold: the question whose gold data `to_info` reveals, if the environment does so; not stored.
        before: the observation that this round's act answers, if it is known; not stored.
    """

    text: str
    action: Act
    results: list[list[Hit]] = field(default_factory=list)
    observation: str = ""
    round: int = 0
    retrieval: Retrieval = _NO_RETRIEVAL
    judge: Verdict = _NOT_JUDGED
    feedback: Feedback = _NO_FEEDBACK
    reward: float = 0.0
    reward_terms: dict[str, float] = field(default_factory=dict)
    uid: str = ""
    policy_version: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    valid_for_training: bool = True
    gold: Question | None = None
    before: str = ""
    _anchor: str = field(default="", repr=False)

    @property
    def anchor(self) -> str:
        """The state in which this round's act was chosen (the `anchor` of the info before the step)."""
        if not self._anchor:
            self._anchor = anchor_of(self.before)
        return self._anchor

    @anchor.setter
    def anchor(self, name: str) -> None:
        self._anchor = name

    @property
    def hits(self) -> list[Hit]:
        """All hits, query by query. A passage that two queries found occurs twice."""
        return [hit for result in self.results for hit in result]

    @property
    def terminated(self) -> bool:
        """Whether the agent ended the episode in this round: it answered, or wrote the query that was its task."""
        return self.outcome is not None and self.outcome.stop_reason.is_terminal

    @property
    def truncated(self) -> bool:
        """Whether the episode ended in this round otherwise."""
        return self.outcome is not None and not self.outcome.stop_reason.is_terminal

    def to_info(self) -> dict[str, Any]:
        """The info of this step: a fresh JSON value at each call."""
        status, backend, index_hash = self.retrieval
        level, text, calls_left = self.feedback
        info: dict[str, Any] = {
            "schema": INFO_SCHEMA,
            "round": self.round,
            "action": self.action.to_json(),
            "hits": [
                {
                    "id": id_,
                    "title": title,
                    "text": passage,
                    "score": float(score),  # a retriever may return its array's scalar, which is not JSON
                    "rank": rank,
                    "query_index": query_index,
                }
                for query_index, result in enumerate(self.results)
                for rank, (id_, title, passage, score) in enumerate(result, 1)
            ],
            "retrieval": {"status": status, "backend": backend, "index_hash": index_hash},
            "judge": self.judge.to_info(),
            "feedback": {"level": level, "text": text, "calls_left": calls_left},
            "reward_terms": self.reward_terms.copy(),
            "anchor": anchor_of(self.observation) if self.outcome is None else "",
        }
        if self.gold is not None:
            info["gold"] = gold_record(self.gold)
        if self.outcome is not None:
            info["outcome"] = self.outcome.to_json()
            info["valid_for_training"] = self.valid_for_training
        return info

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` gives an equal record."""
        return {
            "uid": self.uid,
            "anchor": self.anchor,
            "round": self.round,
            "text": self.text,
            "action": self.action.to_json(),
            "results": [
                [
                    {"id": id_, "title": title, "text": text, "score": float(score)}
                    for id_, title, text, score in result
                ]
                for result in self.results
            ],
            "retrieval": self.retrieval._asdict(),
            "observation": self.observation,
            "feedback": self.feedback._asdict(),
            "reward": self.reward,
            "reward_terms": dict(self.reward_terms),
            "judge": self.judge.to_info(),
            "policy_version": self.policy_version,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "extra": copy_json(self.extra),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RoundRecord:
        """Rebuild a record from `to_json`.

        Raises:
            TypeError: a field is missing, unknown or of the wrong type.
            ValueError: a value that cannot be used.
        """
        plain = dict(data)
        anchor, action, judge = plain.pop("anchor"), plain.pop("action"), dict(plain.pop("judge"))
        plain["results"] = [[checked(Hit(**hit)) for hit in result] for result in plain["results"]]
        act = checked(Act(**{**action, "queries": tuple(action["queries"])}))
        texts(act.queries)
        verdict = Verdict(**{name: judge[name] for name in ("status", "utility", "reasoning", "reason")})
        record = cls(
            action=act,
            judge=checked(verdict),
            **{
                **plain,
                "retrieval": checked(Retrieval(**plain["retrieval"])),
                "feedback": checked(Feedback(**plain["feedback"])),
            },
        )
        record._anchor, *_ = texts([anchor])
        for name, value in record.reward_terms.items():
            if type(value) not in (int, float) or not isfinite(value):
                raise TypeError(f"reward term {name!r} is {value!r:.60}")
        return checked(record)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RoundRecord):
            return NotImplemented
        return self.anchor == other.anchor and all(
            getattr(self, name) == getattr(other, name) for name in _STORED
        )

    __hash__ = None  # type: ignore[assignment]  # records are mutable


Round = RoundRecord
"""The name under which `searchgym` exports the record."""

_STORED = tuple(
    f.name
    for f in fields(RoundRecord)
    if f.name not in ("outcome", "valid_for_training", "gold", "before", "_anchor")
)


def from_schema_1(data: dict[str, Any], index: int) -> dict[str, Any]:
    """A round of schema 1 in the form of schema 2: hits by query, and the number of the round."""
    plain = dict(data)
    action, found = plain["action"], plain.pop("hits")
    searched = action["kind"] == "search" and plain["retrieval"].get("status") == "ok"
    size = len(action["queries"]) if searched else 0
    results: list[list[dict[str, Any]]] = [[] for _ in range(size)]
    for hit in found:
        number = hit["query_index"]
        results += [[] for _ in range(number + 1 - len(results))]
        results[number].append({name: hit[name] for name in Hit._fields})
    return plain | {"results": results, "round": index + (action["kind"] != "none")}


def texts(values: Sequence[Any]) -> Sequence[str]:
    """The values themselves; raises `TypeError` unless all are strings."""
    for value in values:
        if type(value) is not str:
            raise TypeError(f"{value!r:.60} is not a string")
    return values


def checked(record: T) -> T:
    """The record itself, of any of the classes with typed fields here.

    Raises:
        TypeError: a field has another type at its outermost level, or is a number that is not finite.
    """
    cls: Any = type(record)
    for name, types in _field_types(cls).items():
        value = getattr(record, name)
        kind = type(value)
        if kind not in types and (kind is bool or not isinstance(value, types)):
            raise TypeError(f"{name} of {type(record).__name__} is {value!r:.60}")
        if kind is float and not isfinite(value):
            raise TypeError(f"{name} of {type(record).__name__} is {value}, not a finite number")
    return record


@cache
def _field_types(cls: type) -> dict[str, tuple[type, ...]]:
    """The types each field may have at its outermost level; JSON writes 1.0 and 1 alike."""
    types: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(cls).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = tuple(get_origin(option) or option for option in options)
        types[name] = (*plain, int) if float in plain else plain
    return types
