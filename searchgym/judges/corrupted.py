"""The corrupted judge: another judge whose verdicts are flipped at a known rate.

    u' = 1 − u with probability p, else u;   v' = 1 − v with probability p, else v;   independently

It is for testing audits (its agreement with the wrapped judge is known) and for studies of how much judge noise
training tolerates. The flips depend on the seed and on the contents of the trace, not on the order of calls:
one round gets one verdict, also in two episodes with the same beginning. Failures stay failures. This project's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from ..records.question import Corpus
from .protocol import Judge, Trace, Verdict, open_judge

__all__ = ["CorruptedJudge"]


class CorruptedJudge:
    """Flips verdicts of another judge at random, to measure what a wrong judge costs.

    Args:
        corpus: passed to the wrapped judge.
        judge: the judge to corrupt: a name, {"name": …, **options}, or a judge.
        rate: p, the probability that a number is flipped, in [0, 1].
        seed: another seed flips other rounds.

    Raises:
        ConfigError: a rate outside [0, 1], or a judge that cannot be opened.
    """

    name = "corrupted"

    def __init__(
        self,
        corpus: Corpus | None = None,
        *,
        judge: str | dict[str, Any] | Judge = "oracle",
        rate: float = 0.2,
        seed: int = 0,
    ) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise ConfigError(f"rate of judge 'corrupted' is {rate!r}: it must lie in [0, 1]")
        self._inner = open_judge(judge, corpus)
        self.needs_gold: bool = getattr(self._inner, "needs_gold", False)
        self._rate = float(rate)
        self._key = hashlib.sha256(str(seed).encode()).digest()

    def check(self) -> None:
        """Run the wrapped judge's own check."""
        check = getattr(self._inner, "check", None)
        if check is not None:
            check()

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        return [
            self._corrupt(trace, verdict)
            for trace, verdict in zip(traces, self._inner.judge(traces), strict=True)
        ]

    def _corrupt(self, trace: Trace, verdict: Verdict) -> Verdict:
        u, v = verdict.utility, verdict.reasoning
        if u is None or v is None:
            return verdict
        digest = hashlib.blake2b(_shown(trace), key=self._key, digest_size=16).digest()
        flips = [int.from_bytes(half) < self._rate * 2**64 for half in (digest[:8], digest[8:])]
        what = " and ".join(name for name, flip in zip(("u", "v"), flips, strict=True) if flip)
        return Verdict.ok(
            1.0 - u if flips[0] else u,
            1.0 - v if flips[1] else v,
            f"{verdict.reason} ({what} flipped)" if what else verdict.reason,
            verdict.cost,
        )


def _shown(trace: Trace) -> bytes:
    """What a judge reads of a trace, without the key."""
    rounds = [[r.text, r.action.to_json(), [hit.id for hit in r.hits], r.observation] for r in trace.rounds]
    return json.dumps([trace.question.id, trace.question.text, rounds], sort_keys=True).encode()
