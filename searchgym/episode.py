"""The episode record: what happened, in text and, where the agent has them, in tokens.

The schema is documented in docs/environment.md and versioned by `EPISODE_SCHEMA`. Everything here is plain
JSON data; nothing needs torch.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import EpisodeFileError

__all__ = [
    "EPISODE_SCHEMA",
    "Episode",
    "Outcome",
    "Round",
    "Segment",
    "StopReason",
    "load_episodes",
    "save_episodes",
]

EPISODE_SCHEMA = 1


class StopReason(enum.StrEnum):
    """Why an episode ended. Only ANSWERED terminates; every other reason truncates."""

    ANSWERED = "answered"
    """The agent gave its answer: `terminated`."""
    ROUND_BUDGET = "round_budget"
    """`max_rounds` rounds were played without an answer."""
    SEARCH_BUDGET = "search_budget"
    """The agent searched although its search budget was spent."""
    CHARACTER_BUDGET = "character_budget"
    """Actions and observations together passed `max_chars`."""
    TOKEN_BUDGET = "token_budget"
    """The rollout loop stopped it: the agent's context or token limit was reached."""
    RETRIEVAL_FAILED = "retrieval_failed"
    """Infrastructure: the retriever did not answer. Not valid for training."""
    AGENT_FAILED = "agent_failed"
    """Infrastructure: the agent (an API, an engine) failed. Not valid for training."""
    ABORTED = "aborted"
    """The caller ended the episode for a reason of its own. Not valid for training."""

    @property
    def is_failure(self) -> bool:
        """True where the episode says nothing about the policy."""
        return self in _FAILURES


_FAILURES = frozenset({StopReason.RETRIEVAL_FAILED, StopReason.AGENT_FAILED, StopReason.ABORTED})


@dataclass(slots=True)
class Outcome:
    """How the episode ended and what it scored; see `searchgym.scoring` for the metrics."""

    answer: str
    em: float
    f1: float
    sub_em: float
    recall: float
    rounds: int
    searches: int
    assisted: bool
    stop_reason: StopReason


@dataclass(slots=True)
class Segment:
    """A run of tokens the model saw as one sequence; all lists have the same length.

    Attributes:
        tokens: token ids.
        mask: 1 where the policy sampled the token, 0 for prompt, observation and template tokens.
        logprobs: log-probability of each sampled token under the tempered distribution it was drawn from; 0.0
            where mask is 0.
        rounds: index of the round each token belongs to. A round's observation tokens come before its act,
            so they carry the index of the round that reads them.
    """

    tokens: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Round:
    """One step.

    Attributes:
        uid: unique id; branches that share a round share its uid, so it enters a loss once.
        anchor: the state in which this round's act was chosen (the `anchor` of the info before the step).
        text: the agent's raw message.
        action: {kind, queries, draft, answer, error} as parsed.
        hits: [{id, title, text, score, rank, query_index}].
        retrieval: {status, backend, index_hash}.
        observation: the text returned to the agent ("" at the end).
        reward, reward_terms: the step's reward and its parts.
        judge: {status, utility, reasoning, ...}; filled in later where judging was pending.
        feedback: {level, text, calls_left}.
        policy_version, temperature, top_p: how the act was sampled (None for agents that do not sample).
        extra: named per-round values trainers add (JSON).
    """

    uid: str
    anchor: str
    text: str
    action: dict[str, Any]
    hits: list[dict[str, Any]]
    retrieval: dict[str, Any]
    observation: str
    reward: float
    reward_terms: dict[str, float]
    judge: dict[str, Any]
    feedback: dict[str, Any]
    policy_version: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Episode:
    """One question played to its end.

    Attributes:
        episode_id: unique id.
        group_id: episodes of one question collected together share it; drawn at collection, never derived
            from the prompt or the task id.
        tree_id, parent_id, fork_round: where a branching method forked this episode; own id, None, None else.
        env: {id, corpus, dialect, index_hash, ...}: what must match for episodes to be comparable.
        gold: {answers, supporting_ids, chain}: what `rescore` needs. Never shown to an agent.
        segments: token record; empty for text agents.
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
    rounds: list[Round]
    outcome: Outcome
    terminated: bool
    truncated: bool
    valid_for_training: bool
    segments: list[Segment] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    schema: int = EPISODE_SCHEMA

    @property
    def reward(self) -> float:
        """Undiscounted sum of the step rewards."""
        return sum(r.reward for r in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` gives an equal episode."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Episode:
        """Rebuild an episode.

        Raises:
            EpisodeFileError: unknown schema, or fields missing, unknown or of the wrong type.
        """
        if not isinstance(data, dict) or data.get("schema") != EPISODE_SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise EpisodeFileError(
                f"episode schema is {found!r}, this version reads {EPISODE_SCHEMA}: "
                "write the file again with this version of searchgym, or read it with the version that wrote it"
            )
        try:
            fields = dict(data)
            fields["rounds"] = [_checked(Round(**r)) for r in fields["rounds"]]
            fields["segments"] = [_checked(Segment(**s)) for s in fields["segments"]]
            outcome = dict(fields["outcome"])
            outcome["stop_reason"] = StopReason(outcome["stop_reason"])
            fields["outcome"] = _checked(Outcome(**outcome))
            return _checked(cls(**fields))
        except (KeyError, TypeError, ValueError) as error:
            raise EpisodeFileError(f"not a complete episode record: {error}") from error


_Record = TypeVar("_Record", Outcome, Segment, Round, Episode)


def _field_types(cls: type) -> dict[str, tuple[type, ...]]:
    """The types each field may have at its outermost level; JSON writes 1.0 and 1 alike."""
    types: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(cls).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = tuple(get_origin(option) or option for option in options)
        types[name] = (*plain, int) if float in plain else plain
    return types


_FIELD_TYPES = {cls: _field_types(cls) for cls in (Outcome, Segment, Round, Episode)}


def _checked(record: _Record) -> _Record:
    for name, types in _FIELD_TYPES[type(record)].items():
        value = getattr(record, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(f"{name} of {type(record).__name__} is {value!r:.60}")
    return record


def save_episodes(path: str | os.PathLike[str], episodes: Iterable[Episode]) -> None:
    """Write episodes as JSONL, atomically: the file is complete or, after a failure, as it was before.

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
    """Make the folder of a file to be written, and try to write there: said before long work, not after.

    Returns:
        The name of a file beside it, which does not exist, to write to first.

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
    """Read episodes from JSONL, one at a time.

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
