"""From a recorded rollout to an `Episode`."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EpisodeFileError, UnknownIdError
from ..records.episode import Episode, Outcome, Retrieval, RoundRecord, StopReason
from ..records.question import Corpus
from ..scoring import exact_match, f1, recall, sub_exact_match
from .files import read_rows
from .gold import GoldPassages
from .layouts import LAYOUTS, Record, find_layout
from .parsed import Parsed, RolloutTextError
from .r1_searcher import parse_r1_searcher
from .react import parse_react, parse_react_numbered, parse_react_steps
from .responses import parse_responses
from .transcript import parse_messages, parse_transcript

__all__ = ["FORMATS", "PARSERS", "Imported", "Skipped", "import_rollout", "import_rollouts", "parse_rollout"]

FORMATS: Mapping[str, Callable[[Any], Parsed]] = {
    "r1-searcher tags": parse_r1_searcher,
    "react": parse_react,
    "react numbered": parse_react_numbered,
    "openai responses items": parse_responses,
}
"""The parsers of this package's own rows, by the name that a row's `format` gives."""

PARSERS: Mapping[str, Callable[[Any], Parsed]] = {
    **FORMATS,
    "react steps": parse_react_steps,
    "transcript": parse_transcript,
    "messages": parse_messages,
}
"""All parsers, those of other projects' own files included."""


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

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were skipped for each reason, the most frequent first."""
        return dict(Counter(skipped.reason for skipped in self.skipped).most_common())

    def __repr__(self) -> str:
        return f"<Imported {len(self.episodes)} episodes, {len(self.skipped)} rows skipped>"


def parse_rollout(text: Any, format: str) -> Parsed:
    """Parse a rollout without scoring it.

    Args:
        text: the rollout.
        format: one of `PARSERS`.

    Raises:
        UnknownIdError: an unknown format.
        EpisodeFileError: the text is not in this format.
    """
    if format not in PARSERS:
        raise UnknownIdError("rollout format", format, PARSERS)
    try:
        return PARSERS[format](text)
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
        format: one of `PARSERS`.
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
    if not asked:
        raise EpisodeFileError("neither the row nor the text holds the question: nothing can be judged")
    answers = [gold] if isinstance(gold, str) else list(gold)
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


def import_rollouts(
    path: str | os.PathLike[str], corpus: Corpus | None = None, format: str | None = None
) -> Imported:
    """Import a file of recorded rollouts, as another project wrote it or as this package's own rows.

    JSON lines, a JSON document, parquet and text logs are read, optionally gzipped; `searchgym.importing.layouts` lists
    whose. One of this package's rows holds `format`, `text`, `gold` and, if known, `question`, `source`, `row`, `model`,
    `predicted` (the answer as the authors read it), `judged_correct` or `reward` (their verdict) and `searches`
    (their count).

    Args:
        path: the file.
        corpus: where to look for questions, gold passages, and gold answers that the file lacks.
        format: the layout of all rows, one of `LAYOUTS`; None: each row is recognised by its fields.

    Raises:
        EpisodeFileError: the file cannot be read, or none of its rows holds a rollout.
        UnknownIdError: an unknown layout, or a row's `format` is not one of `FORMATS`.
        MissingExtraError: a parquet file without pyarrow.
    """
    if format is not None and format not in LAYOUTS:
        raise UnknownIdError("rollout layout", format, LAYOUTS)
    path = Path(path)
    golds = GoldPassages(corpus) if corpus is not None else None
    imported = Imported()
    found = 0
    for number, name, row in read_rows(path):
        try:
            layout, records = _records(row, format)
        except RolloutTextError as error:
            claimed = row if isinstance(row, dict) else {}
            skipped = str(claimed.get("source") or path.name), str(claimed.get("row", name or number))
            layout = format or find_layout(claimed) or "unknown"
            imported.skipped.append(Skipped(number, *skipped, layout, str(error)))
            continue
        found += len(records)
        for position, record in enumerate(records):
            if record.format not in PARSERS:
                hint = f"In {path}, line {number}."
                raise UnknownIdError("rollout format", record.format, PARSERS, hint)
            source = record.source or path.name
            own = record.row or name or str(number) + (f"/{position}" if len(records) > 1 else "")
            try:
                if not record.gold and layout != "rows":  # tables of trainers need not hold the key
                    question = golds.question(record.question) if golds else None
                    record.gold = list(question.answers) if question else []
                imported.episodes.append(_import(record, (source, own), golds))
            except EpisodeFileError as error:
                imported.skipped.append(Skipped(number, source, own, record.format, str(error)))
    if not found:
        first = next(iter(imported.skipped), None)
        where = f"line {first.line}: {first.reason}" if first else "it holds no rows"
        raise EpisodeFileError(f"{path}, {where}")
    return imported


def _records(row: dict[str, Any] | str, format: str | None) -> tuple[str, list[Record]]:
    """The layout of a row and its rollouts; raises `RolloutTextError`."""
    if isinstance(row, str):
        raise RolloutTextError(row)
    layout = format or find_layout(row)
    if layout is None:
        raise RolloutTextError("a rollout without format: its fields are those of no known file")
    if not LAYOUTS[layout].matches(row):
        raise RolloutTextError(f"its fields are not those of the layout {layout!r}")
    return layout, LAYOUTS[layout].read(row)


def _import(record: Record, origin: tuple[str, str], golds: GoldPassages | None) -> Episode:
    return import_rollout(
        record.text,
        record.format,
        record.question or None,
        record.gold,
        agent=record.agent,
        origin=origin,
        corpus=golds,
        recorded=record.recorded,
    )
