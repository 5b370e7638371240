"""The record of an episode: what happened, in text and, for agents that have them, in tokens; and files of episodes.

A file is JSON lines. Each line ends with `check`, the CRC-32 of what stands before it, and that of the last line is marked, so
that damage is an error and never another score. docs/environment.md describes the JSON form; `EPISODE_SCHEMA` numbers it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ..errors import EpisodeFileError, warn
from ..files import open_regular, parse_json, replacing
from .rendering import as_html, as_text
from .round_record import (
    INFO_SCHEMA,
    Feedback,
    Outcome,
    Retrieval,
    Round,
    RoundRecord,
    StopReason,
    anchor_of,
    checked,
    copy_json,
    from_schema_1,
)

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
    "append_episode",
    "load_episodes",
    "save_episodes",
    "segments_before",
    "verify_line",
]

EPISODE_SCHEMA = 2


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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "tokens": list(self.tokens),
            "mask": list(self.mask),
            "logprobs": list(self.logprobs),
            "rounds": list(self.rounds),
        }


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
        valid_for_training: False if the infrastructure, or a judge that the reward needs, failed; and for imported rollouts,
            which have no tokens.
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

    @property
    def imported(self) -> bool:
        """Whether another project recorded it (`searchgym.importing`); the record then lacks the prompt and the tokens."""
        return "recorded" in self.extra

    @property
    def lost(self) -> bool:
        """Whether it says nothing about the agent, because the infrastructure or a judge that the reward needs failed."""
        return not (self.valid_for_training or self.imported)

    def render(self, width: int = 100) -> str:
        """The episode round by round, as text for a terminal: `print(episode.render())`. See `searchgym.records.rendering`.

        Args:
            width: of a line, in characters.
        """
        return as_text(self, width)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return as_html(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` gives an equal episode."""
        return {
            "episode_id": self.episode_id,
            "group_id": self.group_id,
            "tree_id": self.tree_id,
            "parent_id": self.parent_id,
            "fork_round": self.fork_round,
            "agent": self.agent,
            "env": copy_json(self.env),
            "task_id": self.task_id,
            "split": self.split,
            "question": self.question,
            "gold": copy_json(self.gold),
            "rounds": [record.to_json() for record in self.rounds],
            "outcome": self.outcome.to_json(),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "valid_for_training": self.valid_for_training,
            "segments": [segment.to_json() for segment in self.segments],
            "extra": copy_json(self.extra),
            "schema": self.schema,
        }

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
            plain.pop("check", None)
            rounds = plain["rounds"]
            if schema == 1:
                rounds = [from_schema_1(r, index) for index, r in enumerate(rounds)]
            plain["rounds"] = [RoundRecord.from_json(r) for r in rounds]
            plain["segments"] = [_checked_segment(s, len(rounds)) for s in plain["segments"]]
            outcome = dict(plain["outcome"])
            outcome["stop_reason"] = StopReason(outcome["stop_reason"])
            plain["outcome"] = checked(Outcome(**outcome))
            return checked(cls(**plain))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise EpisodeFileError(f"not a complete episode record: {error}") from error


def _checked_segment(data: dict[str, Any], rounds: int) -> Segment:
    segment = checked(Segment(**data))
    tokens, mask, logprobs, numbers = segment.tokens, segment.mask, segment.logprobs, segment.rounds
    if not len(tokens) == len(mask) == len(logprobs) == len(numbers):
        raise ValueError("the lists of a segment have different lengths")
    if {type(value) for value in (*tokens, *mask, *numbers)} - {int} or {*map(type, logprobs)} - {int, float}:
        raise TypeError("a token, mask, logprob or round of a segment is not a number")
    if not all(map(isfinite, logprobs)):
        raise ValueError("a logprob of a segment is not finite")
    if not {*mask} <= {0, 1} or (tokens and min(tokens) < 0):
        raise ValueError("a mask of a segment is neither 0 nor 1, or a token id is negative")
    if numbers and not 0 <= min(numbers) <= max(numbers) < max(rounds, 1):
        raise ValueError(
            f"a token of a segment belongs to a round that the episode of {rounds} rounds does not have"
        )
    return segment


def save_episodes(path: str | os.PathLike[str], episodes: Iterable[Episode]) -> None:
    """Write episodes as JSONL, atomically: the file is complete or, after a failure, as it was before.

    Args:
        path: the file; its folder is created.
        episodes: written one per line.

    Raises:
        EpisodeFileError: the file cannot be written there.
    """
    target = Path(path)
    check_writable(target)
    try:
        with replacing(target) as work, work.open("x", encoding="ascii") as handle:
            body = ""
            for episode in episodes:  # JSON escapes everything beyond ASCII, lone surrogates too
                if body:
                    handle.write(_line(body))
                body = json.dumps(episode.to_json(), separators=(",", ":"))
            if body:
                handle.write(_line(body, _LAST))
    except OSError as error:
        raise EpisodeFileError(f"{target} cannot be written: {error.strerror or error}") from error


def append_episode(path: str | os.PathLike[str], episode: Episode) -> None:
    """Add one episode to a file in a single write, for episodes that end one after the other while others read the file.

    Args:
        path: the file; its folder must exist.
        episode: added as the last line.

    Raises:
        EpisodeFileError: the file cannot be written.
    """
    line = _line(
        json.dumps(episode.to_json(), separators=(",", ":")), _LAST
    )  # the file may end after every line
    try:
        with open(path, "ab", buffering=0) as handle:
            handle.write(line.encode("ascii"))
    except OSError as error:
        raise EpisodeFileError(f"{path} cannot be written: {error.strerror or error}") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Create the folder of a file and try to write there, so that an error comes before long work and not after it.

    Args:
        path: the file that is to be written.

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


def load_episodes(path: str | os.PathLike[str]) -> Iterator[Episode]:
    """Read episodes from JSONL, one at a time. Files of schema 1 and files without checksums are read too.

    A file that was written with checksums and ends before its last episode (cut off, or shortened on purpose) gives a warning, and so does an
    empty one.

    Args:
        path: the file.

    Raises:
        EpisodeFileError: names the file, the line and what is wrong with it (a truncated last line included).
    """
    target = Path(path)
    try:
        handle = open_regular(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if (target / "episodes").is_dir():
            reason = f"it is the directory of a run: give its files, {target / 'episodes'}/*.jsonl"
        raise EpisodeFileError(f"{target} cannot be read as an episode file: {reason}") from error
    complete, number = True, 0
    with handle:
        for number, line in enumerate(handle, 1):
            try:
                data = parse_json(line)
            except ValueError as error:
                end = "" if line.endswith(b"\n") else " (the last line is cut off)"
                raise EpisodeFileError(f"{target}, line {number}: not JSON{end}: {error}") from error
            try:
                episode = Episode.from_json(data)
                complete = verify_line(line, data)
            except EpisodeFileError as error:
                raise EpisodeFileError(f"{target}, line {number}: {error}") from error
            yield episode
    if not number:
        warn(f"{target} is empty: it holds no episode", stacklevel=2)
    if not complete:
        warn(
            f"{target} ends before the last of its episodes: it was cut off, or shortened on purpose (save_episodes writes a "
            "complete file)",
            stacklevel=2,
        )


_LAST = " last"
_CHECK = re.compile(rb',"check":"([0-9a-f]{8})( last)?"\}\s*')


def _line(body: str, mark: str = "") -> str:
    """A line of a file: the JSON object `body` with its checksum."""
    return f'{body[:-1]},"check":"{_crc(body, mark)}{mark}"}}\n'


def _crc(body: str | bytes, mark: str = "") -> str:
    content = body.encode("ascii") if isinstance(body, str) else body
    return f"{zlib.crc32(content + mark.encode()):08x}"


def verify_line(line: bytes, data: dict[str, Any]) -> bool:
    """Compare a line of an episode file with its checksum. A line without a checksum is not checked.

    Args:
        line: as it stands in the file.
        data: its JSON value.

    Returns:
        Whether the file may end here.

    Raises:
        EpisodeFileError: the line is not the one that was written.
    """
    if "check" not in data:
        return True
    written = _CHECK.search(line, max(0, len(line) - 40))
    if written is not None and written.end() == len(line):
        body, mark = line[: written.start()] + b"}", (written[2] or b"").decode()
        if _crc(body, mark) == written[1].decode():
            return bool(mark)
    check = str(data["check"])
    mark = _LAST if check.endswith(_LAST) else ""
    body = json.dumps({k: v for k, v in data.items() if k != "check"}, separators=(",", ":")).encode("ascii")
    if check == _crc(body, mark) + mark:  # another tool has written the same values in another way
        return bool(mark)
    raise EpisodeFileError(
        "the line is not the one that was written (its `check` differs): use an undamaged copy, or remove `check` from the line "
        "if you changed it on purpose"
    )
