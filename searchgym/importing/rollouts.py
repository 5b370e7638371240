"""From a recorded rollout to an `Episode`."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..episode import Episode, Outcome, Retrieval, RoundRecord, StopReason
from ..errors import EpisodeFileError, UnknownIdError
from ..question import Corpus
from ..scoring import exact_match, f1, recall, sub_exact_match
from .gold import GoldPassages
from .parsed import Parsed, RolloutTextError
from .r1_searcher import parse_r1_searcher
from .react import parse_react, parse_react_numbered
from .responses import parse_responses

__all__ = ["FORMATS", "Imported", "Skipped", "import_rollout", "import_rollouts", "parse_rollout"]

FORMATS: Mapping[str, Callable[[Any], Parsed]] = {
    "r1-searcher tags": parse_r1_searcher,
    "react": parse_react,
    "react numbered": parse_react_numbered,
    "openai responses items": parse_responses,
}
"""The parsers, by the name that a row's `format` gives."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be imported.

    Attributes:
        line: number of the line, from 1.
        source: as in the row.
        row: as in the row.
        format: as in the row.
        reason: why it was skipped.
    """

    line: int
    source: str
    row: str
    format: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line} ({self.source}, row {self.row}): {self.reason}"


@dataclass(slots=True, repr=False)
class Imported:
    """The contents of a file of recorded rollouts: every row is either an episode or skipped.

    Attributes:
        episodes: in the order of the file.
        skipped: the rows that could not be imported, with reasons.
    """

    episodes: list[Episode] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Imported {len(self.episodes)} episodes, {len(self.skipped)} rows skipped>"


def parse_rollout(text: Any, format: str) -> Parsed:
    """Parse a rollout without scoring it.

    Args:
        text: the rollout.
        format: one of `FORMATS`.

    Raises:
        UnknownIdError: an unknown format.
        EpisodeFileError: the text is not in this format.
    """
    if format not in FORMATS:
        raise UnknownIdError("rollout format", format, FORMATS)
    try:
        return FORMATS[format](text)
    except RolloutTextError as error:
        raise EpisodeFileError(f"not a rollout in the format {format!r}: {error}") from error


def import_rollout(
    text: Any,
    format: str,
    question: str | None,
    gold: str | Sequence[str],
    *,
    agent: str = "unknown",
    origin: tuple[str, str] = ("recorded", "0"),
    corpus: Corpus | GoldPassages | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Episode:
    """Make an episode of a recorded rollout.

    The outcome is that of this package's scorer: the agent's own final answer against the recorded gold answer.
    The record's own claims go to `extra["recorded"]`. Without tokens the episode is never valid for training. An
    episode without an answer is truncated: by its token budget if the text breaks off in the middle of an act,
    otherwise by its round budget; the records do not say which.

    Args:
        text: the rollout, a string or a list, depending on the format.
        format: one of `FORMATS`.
        question: the question; None to read it from the text.
        gold: the accepted answers.
        agent: the model that wrote it.
        origin: the file or project it comes from, and its row there; part of the episode's id.
        corpus: where to look for the question and its gold passages; see `searchgym.importing.gold`.
        recorded: further values for `extra["recorded"]`.

    Raises:
        UnknownIdError: an unknown format.
        EpisodeFileError: the text is not in this format, or there is no question or no gold answer.
    """
    source, row = origin
    parsed = parse_rollout(text, format)
    asked = (question or parsed.question).strip()
    answers = [gold] if isinstance(gold, str) else list(gold)
    if not asked:
        raise EpisodeFileError("neither the row nor the text holds the question: nothing can be judged")
    if not any(a.strip() for a in answers):
        raise EpisodeFileError("no gold answer is recorded: it cannot be scored")
    golds = GoldPassages(corpus) if corpus is not None and not isinstance(corpus, GoldPassages) else corpus
    matched = golds.question(asked) if golds else None
    if golds is not None and matched is not None:
        for round_ in parsed.rounds:
            round_.results = [golds.mark(matched, hits) for hits in round_.results]
    supporting = list(matched.supporting_ids) if matched else []
    identity = json.dumps([source, row, format, text], sort_keys=True)
    episode_id = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    last = parsed.rounds[-1]
    answered = last.action.kind == "answer"
    outcome = _outcome(parsed, answers, supporting)
    extra: dict[str, Any] = {
        "type": matched.type if matched else "unknown",
        "hops": matched.hops if matched else 0,
        "recorded": {
            "source": source,
            "row": row,
            "format": format,
            "closing": parsed.closing,
            "correct": parsed.correct,
            **(recorded or {}),
        },
    }
    return Episode(
        episode_id=episode_id,
        group_id=episode_id,
        tree_id=episode_id,
        parent_id=None,
        fork_round=None,
        agent=agent,
        env={
            "corpus": golds.corpus.name if golds else "recorded",
            "corpus_hash": golds.corpus.hash if golds else "",
            "retriever": "recorded",
            "index_hash": "",
            "dialect": f"recorded: {format}",
        },
        task_id=matched.id if matched else f"{source}/{row}",
        split=matched.split if matched else "unknown",
        question=asked,
        gold={"answers": answers, "supporting_ids": supporting, "chain": []},
        rounds=_complete(parsed.rounds, episode_id, outcome.em),
        outcome=outcome,
        terminated=answered,
        truncated=not answered,
        valid_for_training=False,
        extra=extra,
    )


def _outcome(parsed: Parsed, answers: Sequence[str], supporting: Sequence[str]) -> Outcome:
    last = parsed.rounds[-1].action
    answer = last.answer if last.kind == "answer" else ""
    if last.kind == "answer":
        stop = StopReason.ANSWERED
    else:
        stop = StopReason.TOKEN_BUDGET if parsed.cut else StopReason.ROUND_BUDGET
    return Outcome(
        answer=answer,
        em=exact_match(answer, answers),
        f1=f1(answer, answers),
        sub_em=sub_exact_match(answer, answers),
        recall=recall([hit.id for r in parsed.rounds for hit in r.hits], supporting),
        rounds=len(parsed.rounds),
        searches=sum(len(r.action.queries) for r in parsed.rounds),
        assisted=False,
        stop_reason=stop,
    )


def _complete(rounds: list[RoundRecord], episode_id: str, em: float) -> list[RoundRecord]:
    """The records with what a parser does not know: identity, retrieval and reward."""
    for index, record in enumerate(rounds):
        record.uid = record.anchor = f"{episode_id}/{index}"
        record.round = index + 1
        record.retrieval = Retrieval("ok", "recorded")
    rounds[-1].reward, rounds[-1].reward_terms = em, {"em": em}
    return rounds


def import_rollouts(path: str | os.PathLike[str], corpus: Corpus | None = None) -> Imported:
    """Import a file of recorded rollouts: JSONL with one rollout per line, optionally compressed.

    A row holds `format`, `text`, `gold` and, if known, `question`, `source`, `row`, `model`, `predicted` (the
    answer as the authors read it), `judged_correct` or `reward` (their verdict) and `searches` (their count).

    Args:
        path: the file; it is decompressed if its name ends in ".gz".
        corpus: where to look for questions and gold passages.

    Raises:
        EpisodeFileError: the file cannot be read, or a line is not a JSON object with `format`, `text` and `gold`.
        UnknownIdError: a row's format is not one of `FORMATS`.
    """
    golds = GoldPassages(corpus) if corpus is not None else None
    imported = Imported()
    for number, row in _rows(Path(path)):
        source, name = str(row.get("source") or Path(path).name), str(row.get("row", number))
        if row["format"] not in FORMATS:
            hint = f"In {path}, line {number}."
            raise UnknownIdError("rollout format", row["format"], FORMATS, hint)
        recorded: dict[str, Any] = {k: row[k] for k in ("predicted", "searches") if k in row}
        if (correct := _judged(row)) is not None:
            recorded["correct"] = correct
        try:
            episode = import_rollout(
                row["text"],
                row["format"],
                row.get("question"),
                row["gold"] if row["gold"] is not None else [],
                agent=str(row.get("model") or "unknown"),
                origin=(source, name),
                corpus=golds,
                recorded=recorded,
            )
        except EpisodeFileError as error:
            imported.skipped.append(Skipped(number, source, name, row["format"], str(error)))
        else:
            imported.episodes.append(episode)
    return imported


def _judged(row: Mapping[str, Any]) -> bool | None:
    """Whether the authors judged the answer correct; None if the row does not say."""
    if row.get("judged_correct") is not None:
        return str(row["judged_correct"]).lower() == "true"
    return None if row.get("reward") is None else float(row["reward"]) >= 1.0


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        lines = content.decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EpisodeFileError(f"{path} cannot be read as a file of rollouts: {reason}") from error
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EpisodeFileError(f"{path}, line {number}: not JSON: {error}") from error
        missing = [k for k in ("format", "text", "gold") if not isinstance(row, dict) or k not in row]
        if missing:
            raise EpisodeFileError(f"{path}, line {number}: a rollout without {', '.join(missing)}")
        rows.append((number, row))
    return rows
