"""The `Judge` protocol and what it takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..episode import Episode
from ..errors import ConfigError, PluginError
from ..question import Corpus, Hop, Question

__all__ = [
    "Grade",
    "Grader",
    "Judge",
    "Trace",
    "TraceRound",
    "Verdict",
    "check_judge",
    "no_verdict",
    "open_judge",
    "traces_of",
]


@dataclass(frozen=True, slots=True)
class TraceRound:
    """What one round showed: the agent's message, its parsed act, the hits, and the observation returned.

    Attributes:
        text: the agent's raw message.
        action: {kind, queries, draft, answer, error}.
        hits: [{id, title, text, score, rank, query_index}].
        observation: the text the agent got back ("" after an answer).
    """

    text: str
    action: Mapping[str, Any]
    hits: Sequence[Mapping[str, Any]]
    observation: str


@dataclass(frozen=True, slots=True)
class Trace:
    """An episode up to and including the round to be judged, which is the last one.

    A judge that stands for a reader without the key (llm, local) must not use the question's gold fields.
    """

    question: Question
    rounds: tuple[TraceRound, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement.

    Attributes:
        status: "ok" or "error". (An environment also writes "off" and "pending".)
        utility: u in [0, 1]: the round retrieved something relevant and new. None on error.
        reasoning: v in [0, 1]: the thinking is grounded and the act useful. None on error.
        reason: a short explanation, or what went wrong.
        cost: what it took: {"calls", "input_tokens", "output_tokens", "usd"}, as far as it applies.
    """

    status: str
    utility: float | None
    reasoning: float | None
    reason: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def ok(
        cls, utility: float, reasoning: float, reason: str = "", cost: Mapping[str, float] | None = None
    ) -> Verdict:
        """A judgement; raises `ConfigError` for a number outside [0, 1]."""
        if not (0.0 <= utility <= 1.0 and 0.0 <= reasoning <= 1.0):  # also refuses NaN
            raise ConfigError(f"verdict u={utility!r}, v={reasoning!r}: both must lie in [0, 1]")
        return cls("ok", float(utility), float(reasoning), reason, cost or {})

    @classmethod
    def error(cls, reason: str, cost: Mapping[str, float] | None = None) -> Verdict:
        """A judgement that failed. It carries no number: a failure is never a zero."""
        return cls("error", None, None, reason, cost or {})

    def to_info(self) -> dict[str, Any]:
        """The value of `info["judge"]` and `Round.judge`."""
        return {
            "status": self.status,
            "utility": self.utility,
            "reasoning": self.reasoning,
            "reason": self.reason,
        }


def no_verdict(status: str, reason: str = "") -> dict[str, Any]:
    """The value of `info["judge"]` and `Round.judge` where there is no verdict: status "off" or "pending"."""
    return {"status": status, "utility": None, "reasoning": None, "reason": reason}


@dataclass(frozen=True, slots=True)
class Grade:
    """Whether an answer is right.

    Attributes:
        status: "ok" or "error".
        score: in [0, 1]; None on error.
        reason: a short explanation, or what went wrong.
        cost: as in `Verdict`.
    """

    status: str
    score: float | None
    reason: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def ok(cls, score: float, reason: str = "", cost: Mapping[str, float] | None = None) -> Grade:
        """A grade; raises `ConfigError` for a number outside [0, 1]."""
        if not 0.0 <= score <= 1.0:  # also refuses NaN
            raise ConfigError(f"grade {score!r}: it must lie in [0, 1]")
        return cls("ok", float(score), reason, cost or {})

    @classmethod
    def error(cls, reason: str, cost: Mapping[str, float] | None = None) -> Grade:
        """A grade that failed. It carries no number: a failure is never a zero."""
        return cls("error", None, reason, cost or {})


@runtime_checkable
class Judge(Protocol):
    """Judges rounds in batches. Register a factory under the entry-point group `searchgym.judges`; it is called
    as `factory(corpus, **options)` with the corpus played on (None where there is none) and JSON options.

    A judge that can be unable to work (no key, wrong address, spent budget) also has a method `check()`, which
    raises `ConfigError` then; environments call it before episodes begin, so that none is lost.
    """

    name: str

    def judge(self, traces: Sequence[Trace]) -> Sequence[Verdict]:
        """One verdict per trace, in order. A judgement that failed is `Verdict.error`, never an exception."""


@runtime_checkable
class Grader(Protocol):
    """A judge that also grades final answers against the gold ones, for the reward term `correct`."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> Sequence[Grade]:
        """One grade per answer, in order. A grade that failed is `Grade.error`, never an exception."""


def traces_of(episode: Episode) -> list[Trace]:
    """One trace per round of a recorded episode."""
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
    rounds = tuple(TraceRound(r.text, r.action, r.hits, r.observation) for r in episode.rounds)
    return [Trace(question, rounds[: i + 1]) for i in range(len(rounds))]


def open_judge(spec: str | dict[str, Any] | Judge, corpus: Corpus | None = None) -> Judge:
    """Open a judge by name or {"name": …, **options}; a `Judge` object is returned as it is.

    A judge opened by name is shared within the process, with its budget and its connections.

    Raises:
        UnknownIdError: nobody registered the name, or it does not take an option.
        ConfigError: options that cannot be used.
        PluginError: not a judge at all.
    """
    from ..specs import open_shared, split_spec

    if not isinstance(spec, str | dict) and isinstance(spec, Judge):
        return spec
    name, options = split_spec("judge", spec)
    judge = open_shared("judge", name, options, corpus)
    if not isinstance(judge, Judge):
        raise PluginError(f"judge {name!r} gave a {type(judge).__name__}, not a searchgym Judge")
    return judge


def check_judge(judge: Judge | None) -> None:
    """Ask a judge whether it can work, where it can tell; raises its `ConfigError`."""
    check = getattr(judge, "check", None)
    if check is not None:
        check()
