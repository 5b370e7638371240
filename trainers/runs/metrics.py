"""The metrics of an iteration. All are deterministic; seconds are kept separately (timings.jsonl)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from searchgym.records.episode import Episode, RoundRecord, StopReason
from searchgym.rollouts.evaluation import EvalResult
from searchgym.statistics import Interval

from ..core.groups import Group, is_lookahead, new_tokens

__all__ = [
    "best_evaluation",
    "collection_metrics",
    "estimates",
    "evaluation_row",
    "staleness",
]


def collection_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """Metrics of collected episodes, over all valid ones: means per episode, shares of episodes or rounds.

    A round that branches share counts in each of them, except in "tokens": these are the tokens sampled for an episode
    itself, so that their sum is what a run has spent. Acts that were only tried (`groups.is_lookahead`) count in "episodes",
    "tokens" and "surprisal" only.
    """
    played = [episode for group in groups for episode in group]
    sampled = [episode for episode in played if episode.valid_for_training]
    episodes = [episode for episode in sampled if not is_lookahead(episode)]
    rounds = [round_ for episode in episodes for round_ in episode.rounds]
    contributions = [p for round_ in rounds if (p := round_.judge.contribution) is not None]

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    full = mean([e.outcome.stop_reason is StopReason.TOKEN_BUDGET for e in episodes])
    return {
        "groups": len(groups),
        "episodes": len(played),
        "reward": mean([e.reward for e in episodes]),
        "em": mean([e.outcome.em for e in episodes]),
        "f1": mean([e.outcome.f1 for e in episodes]),
        "rounds": mean([len(e.rounds) for e in episodes]),
        "searches": mean([e.outcome.searches for e in episodes]),
        "tokens": mean([new_tokens(e) for e in sampled]),
        "surprisal": _surprisal(sampled),
        "invalid_rounds": mean([r.action.kind == "invalid" for r in rounds]),
        "repeated_searches": mean([again for e in episodes for again in _searched_before(e)]),
        "repetition": mean([share for r in rounds if (share := _repetition(r.text)) is not None]),
        "truncated": mean([e.truncated for e in episodes]),
        "assisted": mean([e.outcome.assisted for e in episodes]),
        "assisted_em": mean([e.outcome.em for e in episodes if e.outcome.assisted]),
        "unassisted_em": mean([e.outcome.em for e in episodes if not e.outcome.assisted]),
        "judged": mean([r.judge.status == "ok" for r in rounds]),
        "judge_errors": sum(r.judge.status == "error" for e in played for r in e.rounds),
        "contributing": mean([p >= 0.5 for p in contributions]),
        **({"context_full": full} if full else {}),  # tokens that the agent has no room for: a rare thing
        **(_tried(sampled, rounds) if len(episodes) < len(sampled) else {}),
    }


def _tried(sampled: Sequence[Episode], rounds: Sequence[RoundRecord]) -> dict[str, int]:
    """Counts of episodes that only look ahead, and what their rounds cost that no whole episode contains.

    Args:
        sampled: all valid episodes.
        rounds: those of the whole ones.
    """
    seen = {round_.uid for round_ in rounds}
    only = {r.uid: r for e in sampled if is_lookahead(e) for r in e.rounds if r.uid not in seen}.values()
    return {
        "lookahead_episodes": sum(map(is_lookahead, sampled)),
        "lookahead_searches": sum(len(r.action.queries) for r in only if r.action.kind == "search"),
        "lookahead_judgements": sum(r.judge.status == "ok" for r in only),
    }


def staleness(groups: Sequence[Group], version: int) -> float | None:
    """By how many updates the sampling weights are older than `version`: the mean over sampled tokens.

    Args:
        groups: what was collected.
        version: of the policy that learns.
    """
    ages = [
        version - sampled_by
        for group in groups
        for episode in group
        for segment in episode.segments
        for sampled, index in zip(segment.mask, segment.rounds, strict=True)
        if sampled and (sampled_by := episode.rounds[index].policy_version) is not None
    ]
    return float(np.mean(ages)) if ages else None


def _surprisal(episodes: Sequence[Episode]) -> float | None:
    """Mean of −log π over the sampled tokens, in nats: an estimate of the entropy over all collected episodes.

    Acts that were not sampled (recorded or written by another agent) have no temperature, and their tokens no
    log-probability: they do not count. None if nothing was sampled.
    """
    tokens, total = 0, 0.0
    for episode in episodes:
        written = {i for i, record in enumerate(episode.rounds) if record.temperature is None}
        for segment in episode.segments:
            mask, logprobs = segment.mask, segment.logprobs
            if written:
                kept = [index not in written for index in segment.rounds]
                mask, logprobs = list(compress(mask, kept)), list(compress(logprobs, kept))
            tokens += sum(mask)
            total += sum(logprobs)
    return -total / tokens if tokens else None


def _searched_before(episode: Episode) -> list[bool]:
    """For each search of an episode, whether all its queries occurred earlier in the episode."""
    earlier: set[str] = set()
    again: list[bool] = []
    for round_ in episode.rounds:
        queries = {" ".join(query.lower().split()) for query in round_.action.queries}
        if queries:
            again.append(queries <= earlier)
            earlier |= queries
    return again


def _repetition(text: str) -> float | None:
    """Share of a message's four-word sequences that occur earlier in it; None if it has fewer than five words."""
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1.0 - len(set(runs)) / len(runs) if len(runs) > 1 else None


def evaluation_row(result: EvalResult) -> dict[str, Any]:
    """An evaluation as a value of metrics.jsonl."""
    row = result.to_json()
    return {k: row[k] for k in ("questions", "metrics", "by_group", "stop_reasons", "failed")}


def best_evaluation(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """The best evaluation, the first of several: "iteration", "metric", "value".

    Args:
        rows: of metrics.jsonl.
        metric: by which evaluations are compared; "": none is best.

    Returns:
        None without an evaluation or a metric.
    """
    found = [row for row in rows if "eval" in row and metric in row["eval"]["metrics"]]
    if not found:
        return None
    best = max(found, key=lambda row: row["eval"]["metrics"][metric]["mean"])
    value = best["eval"]["metrics"][metric]["mean"]
    return {"iteration": best["iteration"], "metric": metric, "value": value}


def estimates(row: Mapping[str, Any]) -> dict[str, Interval]:
    """The metrics of `evaluation_row` as estimates again."""
    return {name: Interval.from_json(value) for name, value in row["metrics"].items()}
