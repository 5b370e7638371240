"""The record of an episode: what happened, in text and, for agents that have them, in tokens.

The environment makes one `RoundRecord` per round. Infos, judges, reward terms, episodes and their files all read this
record. docs/environment.md describes the JSON form; `EPISODE_SCHEMA` numbers it.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from .dialects import Act
from .errors import EpisodeFileError
from .question import Question, gold_record
from .retriever import Hit
from .verdict import Verdict, no_verdict

__all__ = [
    "EPISODE_SCHEMA",
    "INFO_SCHEMA",
    "Episode",
    "Feedback",
    "Outcome",
    "Retrieval",
    "Round",
    "RoundRecord",
    "Segment",
    "StopReason",
    "anchor_of",
    "load_episodes",
    "save_episodes",
    "segments_before",
]

EPISODE_SCHEMA = 2
INFO_SCHEMA = 2


def anchor_of(observation: str) -> str:
    """The name of the state that an observation puts the agent in: equal observations have equal anchors."""
    return blake2b(observation.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class StopReason(enum.StrEnum):
    """Why an episode ended. Only ANSWERED terminates; every other reason truncates."""

    ANSWERED = "answered"
    """The agent gave its answer: `terminated`."""
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
    def is_failure(self) -> bool:
        """True if the episode says nothing about the policy."""
        return self in _FAILURES


_FAILURES = frozenset({StopReason.RETRIEVAL_FAILED, StopReason.AGENT_FAILED, StopReason.ABORTED})


@dataclass(slots=True)
class Outcome:
    """How an episode ended and what it scored; see `searchgym.scoring` for the metrics.

    Attributes:
        answer: the final answer; "" without one.
        em: exact match, 0 or 1.
        f1: token F1 in [0, 1].
        sub_em: substring match, 0 or 1.
        recall: share of the gold passages that were retrieved, in [0, 1].
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


@dataclass(slots=True)
class Segment:
    """A run of tokens the model saw as one sequence; all lists have the same length.

    Attributes:
        tokens: token ids.
        mask: 1 for tokens that the policy sampled, 0 for prompt, observation and template tokens.
        logprobs: log-probability of each sampled token under the tempered distribution it was drawn from; 0.0
            where mask is 0.
        rounds: index of the round each token belongs to. A round's observation tokens come before its act,
            so they carry the index of the round that reads them.
    """

    tokens: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)


def segments_before(segments: Iterable[Segment], fork_round: int) -> list[Segment]:
    """Copies of segments up to a round, without those that are empty then.

    Args:
        segments: of an episode.
        fork_round: number of rounds to keep. The observation that the last of them returned is not kept, because it
            belongs to the round that reads it.
    """
    kept: list[Segment] = []
    for segment in segments:
        at = [i for i, round_ in enumerate(segment.rounds) if round_ < fork_round]
        if at:
            columns = (segment.tokens, segment.mask, segment.logprobs, segment.rounds)
            kept.append(Segment(*([column[i] for i in at] for column in columns)))  # type: ignore[arg-type]
    return kept


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
        """Whether the agent answered in this round."""
        return self.outcome is not None and self.outcome.stop_reason is StopReason.ANSWERED

    @property
    def truncated(self) -> bool:
        """Whether the episode ended in this round without an answer."""
        return self.outcome is not None and self.outcome.stop_reason is not StopReason.ANSWERED

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
            "extra": deepcopy(self.extra),
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
        plain["results"] = [[Hit(**hit) for hit in result] for result in plain["results"]]
        record = cls(
            action=Act(**{**action, "queries": tuple(action["queries"])}),
            judge=Verdict(**{name: judge[name] for name in ("status", "utility", "reasoning", "reason")}),
            **{
                **plain,
                "retrieval": Retrieval(**plain["retrieval"]),
                "feedback": Feedback(**plain["feedback"]),
            },
        )
        record._anchor = anchor
        return _checked(record)

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


@dataclass(slots=True, repr=False)
class Episode:
    """One question played to its end.

    Attributes:
        episode_id: unique id.
        group_id: episodes of one question collected together share it; drawn at collection, never derived
            from the prompt or the task id.
        tree_id: the tree of a branching method that the episode belongs to; its own id otherwise.
        parent_id: the episode from which a branching method forked this one; None otherwise.
        fork_round: the round at which it was forked; None otherwise.
        agent: name of the agent.
        env: {corpus, dialect, index_hash, ...}: what must match for two episodes to be comparable.
        task_id: id of the question.
        split: split of the question.
        question: its text.
        gold: {answers, supporting_ids, chain}: what `rescore` needs. Never shown to an agent.
        rounds: what happened.
        outcome: how the episode ended and what it scored.
        terminated: whether the agent answered.
        truncated: whether the episode ended without an answer.
        valid_for_training: False if the infrastructure, or a judge that the reward needs, failed.
        segments: the tokens; empty for text agents.
        extra: `type` and `hops` of the question, and what trainers add (JSON).
        schema: version of the JSON form.
    """

    episode_id: str
    group_id: str
    tree_id: str
    parent_id: str | None
    fork_round: int | None
    agent: str
    env: dict[str, Any]
    task_id: str
    split: str
    question: str
    gold: dict[str, Any]
    rounds: list[RoundRecord]
    outcome: Outcome
    terminated: bool
    truncated: bool
    valid_for_training: bool
    segments: list[Segment] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    schema: int = EPISODE_SCHEMA

    def __repr__(self) -> str:
        return (
            f"<Episode {self.task_id!r} by {self.agent!r}: {len(self.rounds)} rounds, {self.outcome.stop_reason}, "
            f"EM {self.outcome.em:g}>"
        )

    @property
    def reward(self) -> float:
        """Undiscounted sum of the step rewards."""
        return sum(r.reward for r in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` gives an equal episode."""
        return asdict(replace(self, rounds=[])) | {"rounds": [record.to_json() for record in self.rounds]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Episode:
        """Rebuild an episode, also one of schema 1.

        Raises:
            EpisodeFileError: unknown schema, or fields missing, unknown or of the wrong type.
        """
        schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
        if schema not in (1, EPISODE_SCHEMA) or isinstance(schema, bool):
            raise EpisodeFileError(
                f"episode schema is {schema!r}, this version reads 1 and {EPISODE_SCHEMA}: "
                "write the file again with this version of searchgym, or read it with the version that wrote it"
            )
        try:
            plain = dict(data) | {"schema": EPISODE_SCHEMA}
            rounds = plain["rounds"]
            if schema == 1:
                rounds = [_from_schema_1(r, index) for index, r in enumerate(rounds)]
            plain["rounds"] = [RoundRecord.from_json(r) for r in rounds]
            plain["segments"] = [_checked(Segment(**s)) for s in plain["segments"]]
            outcome = dict(plain["outcome"])
            outcome["stop_reason"] = StopReason(outcome["stop_reason"])
            plain["outcome"] = _checked(Outcome(**outcome))
            return _checked(cls(**plain))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EpisodeFileError(f"not a complete episode record: {error}") from error


def _from_schema_1(data: dict[str, Any], index: int) -> dict[str, Any]:
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


_Record = TypeVar("_Record", Outcome, Segment, RoundRecord, Episode)


def _field_types(cls: type) -> dict[str, tuple[type, ...]]:
    """The types each field may have at its outermost level; JSON writes 1.0 and 1 alike."""
    types: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(cls).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = tuple(get_origin(option) or option for option in options)
        types[name] = (*plain, int) if float in plain else plain
    return types


_FIELD_TYPES = {cls: _field_types(cls) for cls in (Outcome, Segment, RoundRecord, Episode)}


def _checked(record: _Record) -> _Record:
    for name, types in _FIELD_TYPES[type(record)].items():
        value = getattr(record, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(f"{name} of {type(record).__name__} is {value!r:.60}")
    return record


def save_episodes(path: str | os.PathLike[str], episodes: Iterable[Episode]) -> None:
    """Write episodes as JSONL, atomically: the file is complete or, after a failure, as it was before.

    Args:
        path: the file; its folder is created.
        episodes: written one per line.

    Raises:
        EpisodeFileError: the file cannot be written there.
    """
    target = Path(path)
    work = check_writable(target)
    try:
        with work.open("x", encoding="ascii") as handle:  # JSON escapes everything else, lone surrogates too
            for episode in episodes:
                handle.write(json.dumps(episode.to_json(), separators=(",", ":")) + "\n")
        os.replace(work, target)
    except OSError as error:
        raise EpisodeFileError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        work.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Create the folder of a file and try to write there, so that an error comes before long work and not after it.

    Args:
        path: the file that is to be written.

    Returns:
        A name in the same folder that does not exist yet, to write to first.

    Raises:
        EpisodeFileError: it is a directory, or its folder cannot be written.
    """
    target = Path(path)
    work = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        work.touch(exist_ok=False)
        work.unlink()
    except (OSError, ValueError) as error:
        raise EpisodeFileError(f"{target} cannot be written: {getattr(error, 'strerror', error)}") from error
    return work


def load_episodes(path: str | os.PathLike[str]) -> Iterator[Episode]:
    """Read episodes from JSONL, one at a time. Files of schema 1 are read too.

    Args:
        path: the file.

    Raises:
        EpisodeFileError: names the file, the line and what is wrong with it (a truncated last line included).
    """
    target = Path(path)
    try:
        handle = target.open("rb")
    except OSError as error:
        raise EpisodeFileError(f"{target} cannot be read as an episode file: {error.strerror}") from error
    with handle:
        for number, line in enumerate(handle, 1):
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                end = "" if line.endswith(b"\n") else " (the last line is cut off)"
                raise EpisodeFileError(f"{target}, line {number}: not JSON{end}: {error}") from error
            try:
                yield Episode.from_json(data)
            except EpisodeFileError as error:
                raise EpisodeFileError(f"{target}, line {number}: {error}") from error
