"""Audit a judge: how far it agrees with another one, what it costs and how fast it is.

The reference is the oracle unless another judge is named. Each verdict is read as three yes/no answers:

    utility        u ≥ 0.5
    reasoning      v ≥ 0.5
    contribution   u·v ≥ 0.5        CW-GRPO's p (arXiv 2604.14267); for verdicts of 0 and 1: both

A failed judgement, of the judge or of the reference, is counted and not compared: it is not a zero.
Rounds that are not judged (feedback, an end from outside, a failed retrieval) are left out, and so are episodes that the
infrastructure ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..judges.protocol import Judge, Trace, Verdict, check_judge, open_judge, traces_of
from ..records.episode import Episode, RoundRecord
from ..records.question import Corpus
from .agreement import Agreement, agreement

__all__ = ["CRITERIA", "AuditResult", "Latency", "audit", "ready_judge"]

CRITERIA = ("utility", "reasoning", "contribution")
_JUDGED = ("search", "answer", "invalid")
_MOST_REASONS = 5
JudgeLike = str | dict[str, Any] | Judge


@dataclass(frozen=True, slots=True)
class Latency:
    """The time that judgements took.

    Attributes:
        batch_size: judgements per call.
        median_s: median seconds per judgement: those of its call, divided by the judgements in it. With batch_size 1
            it is the latency of one judgement.
        p99_s: 99 % quantile of the same.
        per_second: judgements per second over all calls.
    """

    batch_size: int
    median_s: float
    p99_s: float
    per_second: float


@dataclass(slots=True, repr=False)
class AuditResult:
    """The result of an audit.

    Attributes:
        judge: name of the judge.
        reference: name of the reference.
        threshold: score from which a number of the judge counts as a yes (0.5 for the reference).
        episodes: episodes audited.
        failed_episodes: episodes left out because the infrastructure ended them.
        rounds: rounds to judge.
        compared: rounds that both judges could judge.
        errors: failed judgements of the judge.
        reference_errors: failed judgements of the reference.
        error_reasons: {"judge", "reference"}: the most frequent reasons of failures, and how often each occurred.
        criteria: agreement per criterion: "utility", "reasoning", "contribution".
        by_type: the same per question type.
        by_act: the same per act ("search", "answer", "invalid").
        contributing: share of the compared rounds whose contribution is a yes: {"judge": {"all", "successful"},
            "reference": {…}}, in all episodes and in those with an exact match; None without such rounds.
        cost: sums over the judge's verdicts: {"calls", "input_tokens", "output_tokens", "usd"}, as far as given.
        latency: None if recorded verdicts were audited.
        verdicts: of the judge, per episode and round; None for a round that is not judged.
        reference_verdicts: the same of the reference.
    """

    judge: str
    reference: str
    threshold: float
    episodes: int
    failed_episodes: int
    rounds: int
    compared: int
    errors: int
    reference_errors: int
    error_reasons: dict[str, dict[str, int]]
    criteria: dict[str, Agreement]
    by_type: dict[str, dict[str, Agreement]]
    by_act: dict[str, dict[str, Agreement]]
    contributing: dict[str, dict[str, float | None]]
    cost: dict[str, float]
    latency: Latency | None
    verdicts: list[list[Verdict | None]]
    reference_verdicts: list[list[Verdict | None]]

    def __repr__(self) -> str:
        kappas = ", ".join(
            f"{name} {'undefined' if one.kappa is None else one.kappa}" for name, one in self.criteria.items()
        )
        return f"<AuditResult {self.judge} against {self.reference}, {self.compared} rounds: kappa {kappas}>"

    def to_json(self) -> dict[str, Any]:
        """Everything but the verdicts, as JSON data."""
        nested = ("criteria", "by_type", "by_act", "latency", "verdicts", "reference_verdicts")
        data: dict[str, Any] = {n: getattr(self, n) for n in self.__slots__ if n not in nested}
        data["latency"] = asdict(self.latency) if self.latency else None
        data["criteria"] = {name: one.to_json() for name, one in self.criteria.items()}
        for name in ("by_type", "by_act"):
            groups: dict[str, dict[str, Agreement]] = getattr(self, name)
            data[name] = {k: {n: one.to_json() for n, one in v.items()} for k, v in groups.items()}
        return data

    def write_to(self, episodes: Iterable[Episode]) -> None:
        """Write the verdicts into the audited episodes.

        Args:
            episodes: those that were audited. The judge's verdict goes into `judge` of a round, the reference's into
                `extra["reference_judge"]`.
        """
        for episode, judged, known in zip(episodes, self.verdicts, self.reference_verdicts, strict=True):
            for round_, verdict, truth in zip(episode.rounds, judged, known, strict=True):
                if verdict is not None and truth is not None:
                    round_.judge = verdict.without_cost()
                    round_.extra["reference_judge"] = {"name": self.reference, **truth.to_info()}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A round both judges could judge: three answers of each, in the order of CRITERIA."""

    task_id: str
    type: str
    act: str
    successful: bool
    judged: tuple[bool, bool, bool]
    known: tuple[bool, bool, bool]


def audit(
    judge: JudgeLike | None,
    episodes: Sequence[Episode],
    reference: JudgeLike = "oracle",
    *,
    corpus: Corpus | None = None,
    threshold: float = 0.5,
    batch_size: int = 64,
    on_judged: Callable[[int], None] | None = None,
) -> AuditResult:
    """Compare the verdicts of a judge and of a reference on the same rounds.

    Args:
        judge: a name, {"name": …, **options}, a judge, or None to audit the verdicts that the episodes hold.
        episodes: recorded episodes.
        reference: the judge to compare with.
        corpus: the corpus of the episodes, for judges that need it.
        threshold: score from which a number of the judge counts as a yes, for judges that give degrees.
        batch_size: judgements per call.
        on_judged: called with the number of judgements after each call of the judge.

    Raises:
        ConfigError: no round to judge, a threshold outside (0, 1], or a judge that cannot be opened or cannot work.
    """
    if not 0.0 < threshold <= 1.0:
        raise ConfigError(f"threshold is {threshold!r}: it must lie in (0, 1]")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}: it must be at least 1")
    places = [
        (index, position)
        for index, episode in enumerate(episodes)
        if not episode.outcome.stop_reason.is_failure
        for position, round_ in enumerate(episode.rounds)
        if _is_judged(round_, recorded=judge is None)
    ]
    if not places:
        what = "a recorded verdict: name a judge" if judge is None else "a round to judge"
        raise ConfigError(f"none of {len(episodes)} episodes has {what}")
    against = ready_judge(reference, corpus)
    audited = None if judge is None else ready_judge(judge, corpus)
    traces_by_episode = [traces_of(episode) for episode in episodes]
    traces = [traces_by_episode[index][position] for index, position in places]
    known, _ = _judge(against, traces, batch_size)
    latency = None
    if audited is None:
        judged = [_recorded(episodes[index].rounds[position]) for index, position in places]
    else:
        judged, latency = _judge(audited, traces, batch_size, on_judged)
    pairs = [
        _Pair(
            task_id=episodes[index].task_id,
            type=str(episodes[index].extra.get("type", "unknown")),
            act=episodes[index].rounds[position].action.kind,
            successful=episodes[index].outcome.em == 1.0,
            judged=_labels(verdict, threshold),
            known=_labels(truth, 0.5),
        )
        for (index, position), verdict, truth in zip(places, judged, known, strict=True)
        if verdict.status == "ok" and truth.status == "ok"
    ]
    cost: dict[str, float] = {}
    for verdict in judged:
        for what, amount in verdict.cost.items():
            cost[what] = cost.get(what, 0.0) + amount
    verdicts: list[list[Verdict | None]] = [[None] * len(e.rounds) for e in episodes]
    truths: list[list[Verdict | None]] = [[None] * len(e.rounds) for e in episodes]
    for (index, position), verdict, truth in zip(places, judged, known, strict=True):
        verdicts[index][position], truths[index][position] = verdict, truth
    return AuditResult(
        judge="recorded" if audited is None else audited.name,
        reference=against.name,
        threshold=threshold,
        episodes=len({index for index, _ in places}),
        failed_episodes=sum(e.outcome.stop_reason.is_failure for e in episodes),
        rounds=len(places),
        compared=len(pairs),
        errors=sum(v.status != "ok" for v in judged),
        reference_errors=sum(v.status != "ok" for v in known),
        error_reasons={"judge": _reasons(judged), "reference": _reasons(known)},
        criteria=_agreements(pairs),
        by_type=_grouped(pairs, lambda pair: pair.type),
        by_act=_grouped(pairs, lambda pair: pair.act),
        contributing={
            "judge": _shares(pairs, lambda pair: pair.judged[2]),
            "reference": _shares(pairs, lambda pair: pair.known[2]),
        },
        cost=cost,
        latency=latency,
        verdicts=verdicts,
        reference_verdicts=truths,
    )


def ready_judge(spec: JudgeLike, corpus: Corpus | None) -> Judge:
    """Open a judge and run its own check.

    Args:
        spec: the judge.
        corpus: passed to its factory.

    Raises:
        ConfigError: it cannot be opened, or its check failed.
    """
    opened = open_judge(spec, corpus)
    check_judge(opened)
    return opened


def _judge(
    judge: Judge, traces: Sequence[Trace], batch_size: int, on_judged: Callable[[int], None] | None = None
) -> tuple[list[Verdict], Latency]:
    verdicts: list[Verdict] = []
    seconds: list[float] = []
    sizes: list[int] = []
    for start in range(0, len(traces), batch_size):
        batch = traces[start : start + batch_size]
        began = time.perf_counter()
        given = judge.judge(batch)
        seconds.append(time.perf_counter() - began)
        sizes.append(len(batch))
        if len(given) != len(batch):
            raise ConfigError(f"judge {judge.name!r} gave {len(given)} verdicts for {len(batch)} rounds")
        verdicts += given
        if on_judged is not None:
            on_judged(len(batch))
    each = np.repeat(np.divide(seconds, sizes), sizes)
    median, p99 = np.quantile(each, [0.5, 0.99])
    total = max(sum(seconds), 1e-9)  # a clock may be too coarse for a trivial judge
    return verdicts, Latency(batch_size, float(median), float(p99), len(traces) / total)


def _is_judged(round_: RoundRecord, recorded: bool) -> bool:
    if recorded:
        return round_.judge.status in ("ok", "error")
    return round_.action.kind in _JUDGED and round_.retrieval.status != "error"


def _recorded(round_: RoundRecord) -> Verdict:
    judge = round_.judge
    return judge if judge.status == "ok" else Verdict.error(judge.reason or "recorded as an error")


def _reasons(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return dict(Counter(v.reason for v in verdicts if v.status != "ok").most_common(_MOST_REASONS))


def _labels(verdict: Verdict, threshold: float) -> tuple[bool, bool, bool]:
    u, v = float(verdict.utility or 0.0), float(verdict.reasoning or 0.0)
    return u >= threshold, v >= threshold, u * v >= threshold


def _agreements(pairs: Sequence[_Pair]) -> dict[str, Agreement]:
    clusters = [pair.task_id for pair in pairs]
    return {
        name: agreement([p.judged[i] for p in pairs], [p.known[i] for p in pairs], clusters)
        for i, name in enumerate(CRITERIA)
    }


def _grouped(pairs: Sequence[_Pair], key: Callable[[_Pair], str]) -> dict[str, dict[str, Agreement]]:
    groups: dict[str, list[_Pair]] = {}
    for pair in pairs:
        groups.setdefault(key(pair), []).append(pair)
    return {name: _agreements(groups[name]) for name in sorted(groups)}


def _shares(pairs: Sequence[_Pair], says_yes: Callable[[_Pair], bool]) -> dict[str, float | None]:
    successful = [pair for pair in pairs if pair.successful]
    return {
        name: sum(map(says_yes, some)) / len(some) if some else None
        for name, some in (("all", pairs), ("successful", successful))
    }
