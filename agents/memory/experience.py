"""A library of experience: what was good and what was bad to do at observations like this one. The memory of SLEA-RL.

Source: SLEA-RL, arXiv 2603.18079, known from a third-party summary. Observations are clustered at a similarity above 0.85; each
step reads the two best strategies and the worst warning of its cluster, after a warm-up of five epochs; at most 100 strategies
and 50 warnings are kept, admitted by score.

Departures:
1. [OURS] The similarity is difflib's ratio, as in GiGPO's code; a cluster is named by its first text.
2. [OURS] A strategy is an act of positive score and a warning one of negative score, in words. The score is what the trainer gives
   a round: its advantage inside the cluster. Without scores it is +1 for the acts of a success and −1 for the last of a failure.
3. [OURS] Where the library is full, a new entry replaces the one of smallest score, if its own is larger in size.
4. [OURS] An epoch is an iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchgym.options import integer, number
from searchgym.records.episode import Episode

from .clusters import Clusters
from .protocol import write_message

__all__ = ["Experience"]

_STRATEGIES, _WARNINGS = 2, 1


class Experience:
    """Strategies and warnings by observation; implements `Memory`.

    Args:
        similarity: difflib's ratio from which observations are in one cluster.
        strategies: strategies kept at most.
        warnings: warnings kept at most.
        warmup: iterations before anything is shown; see `advance`.

    Attributes:
        iterations: how often `advance` was called.

    Raises:
        ConfigError: an argument out of range.
    """

    name = "experience"

    def __init__(
        self, similarity: float = 0.85, strategies: int = 100, warnings: int = 50, warmup: int = 5
    ) -> None:
        self._similarity = number("similarity", similarity, 0.0, 1.0)
        self._caps = {
            True: integer("strategies", strategies, 0, 100_000),
            False: integer("warnings", warnings, 0, 100_000),
        }
        self._warmup = integer("warmup", warmup, 0)
        self.iterations = 0
        # (cluster, act) -> score, by whether it is a strategy.
        self._entries: dict[bool, dict[tuple[str, str], float]] = {True: {}, False: {}}
        self._clusters = Clusters(self._similarity)

    def advance(self) -> None:
        """Count an iteration."""
        self.iterations += 1

    def observe(self, episode: Episode, scores: Sequence[float] | None = None) -> None:
        """See `Memory.observe`."""
        if not episode.valid_for_training:
            return
        if scores is None:
            last = [0.0] * (len(episode.rounds) - 1) + [-1.0]
            scores = [1.0] * len(episode.rounds) if episode.outcome.em else last
        observations = [episode.question, *(round_.observation for round_ in episode.rounds)]
        for index, score in enumerate(scores):
            if score:
                self._admit(observations[index], write_message(episode, index), float(score))

    def recall(self, question: str, observation: str) -> str:
        """See `Memory.recall`: in every round, after the warm-up."""
        if self.iterations < self._warmup:
            return ""
        cluster = self._clusters.find(observation)
        if cluster is None:
            return ""
        lines = []
        for good, label, count in (
            (True, "It helped here to", _STRATEGIES),
            (False, "It did not help here to", _WARNINGS),
        ):
            found = [(abs(score), act) for (at, act), score in self._entries[good].items() if at == cluster]
            lines += [f"- {label} {act}." for _, act in sorted(found, key=lambda e: (-e[0], e[1]))[:count]]
        return "\n".join(["From experience:", *lines]) if lines else ""

    def to_json(self) -> dict[str, Any]:
        """See `Memory.to_json`."""
        entries = {
            name: [[cluster, act, score] for (cluster, act), score in self._entries[good].items()]
            for good, name in ((True, "strategies"), (False, "warnings"))
        }
        return {"iterations": self.iterations, "clusters": self._clusters.leaders, **entries}

    def load_json(self, data: dict[str, Any]) -> None:
        """See `Memory.load_json`."""
        self.iterations = int(data["iterations"])
        self._clusters = Clusters(self._similarity)
        for leader in data["clusters"]:
            self._clusters.add(str(leader))
        for good, name in ((True, "strategies"), (False, "warnings")):
            self._entries[good] = {(str(c), str(act)): float(score) for c, act, score in data[name]}

    def _admit(self, observation: str, act: str, score: float) -> None:
        entries, cap = self._entries[score > 0], self._caps[score > 0]
        known = self._clusters.find(observation)
        if known is not None and (known, act) in entries:
            if abs(score) > abs(entries[known, act]):
                entries[known, act] = score
            return
        if len(entries) >= cap:
            weakest = min(entries, key=lambda key: abs(entries[key]), default=None)
            if weakest is None or abs(entries[weakest]) >= abs(score):
                return
            del entries[weakest]
        entries[self._clusters.add(observation), act] = score
