"""The numbers of an iteration. All are deterministic; seconds are kept apart (timings.jsonl)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from searchgym.episode import Episode
from searchgym.evaluation import Estimate, EvalResult

from .groups import Group, sampled_tokens

__all__ = ["UpdateMetrics", "collection_metrics", "estimates", "evaluation_row"]


def collection_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """What was collected, over all valid episodes: means per episode, shares of episodes or rounds."""
    played = [episode for group in groups for episode in group]
    episodes = [episode for episode in played if episode.valid_for_training]
    rounds = [round_ for episode in episodes for round_ in episode.rounds]
    judged = [round_.judge for round_ in rounds if round_.judge["status"] == "ok"]

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    return {
        "groups": len(groups),
        "episodes": len(played),
        "reward": mean([e.reward for e in episodes]),
        "em": mean([e.outcome.em for e in episodes]),
        "f1": mean([e.outcome.f1 for e in episodes]),
        "rounds": mean([len(e.rounds) for e in episodes]),
        "searches": mean([e.outcome.searches for e in episodes]),
        "tokens": mean([sampled_tokens(e) for e in episodes]),
        "surprisal": _surprisal(episodes),
        "invalid_rounds": mean([r.action.get("kind") == "invalid" for r in rounds]),
        "repeated_searches": mean([again for e in episodes for again in _searched_before(e)]),
        "repetition": mean([share for r in rounds if (share := _repetition(r.text)) is not None]),
        "truncated": mean([e.truncated for e in episodes]),
        "assisted": mean([e.outcome.assisted for e in episodes]),
        "assisted_em": mean([e.outcome.em for e in episodes if e.outcome.assisted]),
        "unassisted_em": mean([e.outcome.em for e in episodes if not e.outcome.assisted]),
        "judged": mean([r.judge["status"] == "ok" for r in rounds]),
        "judge_errors": sum(r.judge["status"] == "error" for e in played for r in e.rounds),
        "contributing": mean([verdict["utility"] * verdict["reasoning"] >= 0.5 for verdict in judged]),
    }


def _surprisal(episodes: Sequence[Episode]) -> float | None:
    """Mean of -log π over the sampled tokens, in nats: an estimate of the entropy over all that was collected.

    None where nothing was sampled: records have no temperature.
    """
    sampled = [episode for episode in episodes if episode.rounds[0].temperature is not None]
    segments = [segment for episode in sampled for segment in episode.segments]
    tokens = sum(sum(segment.mask) for segment in segments)
    return -sum(sum(segment.logprobs) for segment in segments) / tokens if tokens else None


def _searched_before(episode: Episode) -> list[bool]:
    """Of each search of an episode, whether it asked nothing that the episode had not asked before."""
    asked: set[str] = set()
    again: list[bool] = []
    for round_ in episode.rounds:
        queries = {" ".join(query.lower().split()) for query in round_.action.get("queries", ())}
        if queries:
            again.append(queries <= asked)
            asked |= queries
    return again


def _repetition(text: str) -> float | None:
    """Share of a message's runs of four words that stand in it before; None if it has fewer than five words."""
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1.0 - len(set(runs)) / len(runs) if len(runs) > 1 else None


class UpdateMetrics:
    """Sums metrics over micro-batches, averages them over the minibatches of an iteration.

    Tensors stay on their device until `result`, so that logging never waits for an accelerator.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self.updates = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One micro-batch's parts (see `Batch.mean`)."""
        for name, value in values.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def largest(self, name: str, value: Tensor) -> None:
        """Keep the maximum over the iteration."""
        value = value.detach()
        self._largest[name] = torch.maximum(self._largest[name], value) if name in self._largest else value

    def result(self) -> dict[str, float]:
        """Plain numbers."""
        means = {name: float(value) / max(self.updates, 1) for name, value in self._sums.items()}
        return means | {name: float(value) for name, value in self._largest.items()}


def evaluation_row(result: EvalResult) -> dict[str, Any]:
    """An evaluation as it stands in metrics.jsonl."""
    row = result.to_json()
    return {k: row[k] for k in ("questions", "metrics", "by_group", "stop_reasons", "failed")}


def estimates(row: Mapping[str, Any]) -> dict[str, Estimate]:
    """The metrics of `evaluation_row` as estimates again."""
    return {name: Estimate(**value) for name, value in row["metrics"].items()}
