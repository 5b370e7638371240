"""The `Judge` protocol: what a judge is given and how it is opened. `searchgym.records.verdict` has what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..errors import PluginError
from ..records.episode import Episode, RoundRecord
from ..records.question import Corpus, Hop, Question
from ..records.verdict import Grade, Verdict, no_verdict

__all__ = [
    "Grade",
    "Grader",
    "Judge",
    "Trace",
    "Verdict",
    "check_judge",
    "no_verdict",
    "open_judge",
    "trace_of",
    "traces_of",
]


@dataclass(frozen=True, slots=True)
class Trace:
    """An episode up to and including the round to be judged, which is the last one.

    A judge reads `text`, `action`, `results` (or `hits`) and `observation` of the rounds; the other fields may not be set
    yet, and rewards and earlier verdicts are not evidence. A judge that stands for a reader without the key (llm, local)
    must not use the question's gold fields.

    Attributes:
        question: the question that is played.
        rounds: the rounds so far.
    """

    question: Question
    rounds: tuple[RoundRecord, ...]


@runtime_checkable
class Judge(Protocol):
    """Judges rounds in batches. Register a factory under the entry-point group `searchgym.judges`; it is called
    as `factory(corpus, **options)` with the corpus of the environment (or None) and JSON options.

    A judge that may be unable to work (no key, wrong address, spent budget) also has a method `check()`, which
    then raises `ConfigError`; environments call it before episodes begin, so that no episode is lost.

    A judge that compares hits with the gold passages has an attribute `needs_gold` that is True. It is refused with a
    retriever whose hits have other ids than the corpus's passages (`searchgym.Retriever`).
    """

    name: str

    def judge(self, traces: Sequence[Trace]) -> Sequence[Verdict]:
        """One verdict per trace, in order. A judgement that failed is `Verdict.error`, never an exception."""


@runtime_checkable
class Grader(Protocol):
    """A judge that also grades final answers against the gold ones, for the reward term `correct`."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> Sequence[Grade]:
        """One grade per answer, in order. A grade that failed is `Grade.error`, never an exception."""


def trace_of(episode: Episode) -> Trace:
    """The trace of a whole recorded episode."""
    gold = episode.gold
    question = Question(
        id=episode.task_id,
        text=episode.question,
        answers=tuple(gold["answers"]),
        split=episode.split,
        type=str(episode.extra.get("type", "unknown")),
        hops=int(episode.extra.get("hops", 0)),
        supporting_ids=tuple(gold["supporting_ids"]),
        chain=tuple(
            Hop(h["query"], h["relation"], tuple(h["passage_ids"]), h["bridge"]) for h in gold["chain"]
        ),
    )
    return Trace(question, tuple(episode.rounds))


def traces_of(episode: Episode) -> list[Trace]:
    """One trace per round of a recorded episode."""
    whole = trace_of(episode)
    return [Trace(whole.question, whole.rounds[: i + 1]) for i in range(len(whole.rounds))]


def open_judge(spec: str | Mapping[str, Any] | Judge, corpus: Corpus | None = None) -> Judge:
    """Open a judge by name or {"name": …, **options}; a `Judge` object is returned as it is.

    A judge opened by name is shared within the process, with its budget and its connections.

    Args:
        spec: the judge.
        corpus: passed to the factory.

    Raises:
        UnknownIdError: the name is not registered, or the judge does not take an option.
        ConfigError: options that cannot be used.
        PluginError: the factory did not return a judge.
    """
    from ..specs import open_shared, split_spec

    if not isinstance(spec, str | Mapping) and isinstance(spec, Judge):
        return spec
    name, options = split_spec("judge", spec)
    judge = open_shared("judge", name, options, corpus)
    if not isinstance(judge, Judge):
        raise PluginError(f"judge {name!r} gave a {type(judge).__name__}, not a searchgym Judge")
    return judge


def check_judge(judge: Judge | None) -> None:
    """Call the judge's own `check()`, if it has one; raises its `ConfigError`."""
    check = getattr(judge, "check", None)
    if check is not None:
        check()
