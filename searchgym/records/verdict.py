"""What a judge returns: the verdict on a round and the grade of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError

__all__ = ["Grade", "Verdict", "no_verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement of a round.

    Attributes:
        status: "ok" or "error" when a judge returned it; "off" or "pending" in the record of a round that was not judged
            or has yet to be judged.
        utility: u in [0, 1]: the round retrieved something relevant and new. None unless the status is "ok".
        reasoning: v in [0, 1]: the thinking is grounded and the action useful. None unless the status is "ok".
        reason: a short explanation, or what went wrong.
        cost: what the judgement cost: any of "calls", "input_tokens", "output_tokens" and "usd".
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
        """A successful judgement.

        Args:
            utility: u.
            reasoning: v.
            reason: a short explanation.
            cost: what it cost.

        Raises:
            ConfigError: a number is outside [0, 1].
        """
        if not (0.0 <= utility <= 1.0 and 0.0 <= reasoning <= 1.0):  # also refuses NaN
            raise ConfigError(f"verdict u={utility!r}, v={reasoning!r}: both must lie in [0, 1]")
        return cls("ok", float(utility), float(reasoning), reason, cost or {})

    @classmethod
    def error(cls, reason: str, cost: Mapping[str, float] | None = None) -> Verdict:
        """A judgement that failed. It carries no number: a failure never counts as a zero.

        Args:
            reason: what went wrong.
            cost: what it cost nevertheless.
        """
        return cls("error", None, None, reason, cost or {})

    @property
    def contribution(self) -> float | None:
        """u · v, the contribution of the round (CW-GRPO's p); None unless the status is "ok"."""
        u, v = self.utility, self.reasoning
        return None if u is None or v is None else u * v

    def to_info(self) -> dict[str, Any]:
        """The JSON value of `info["judge"]` and of `judge` in an episode file."""
        return {
            "status": self.status,
            "utility": self.utility,
            "reasoning": self.reasoning,
            "reason": self.reason,
        }

    def without_cost(self) -> Verdict:
        """The same verdict as records keep it: costs are not deterministic and are counted elsewhere."""
        return replace(self, cost={}) if self.cost else self


def no_verdict(status: str, reason: str = "") -> Verdict:
    """The verdict of a round without a judgement.

    Args:
        status: "off" or "pending".
        reason: why there is no judgement.
    """
    return Verdict(status, None, None, reason)


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
        """A grade.

        Args:
            score: 1 for a right answer, 0 for a wrong one, or anything between.
            reason: a short explanation.
            cost: what it cost.

        Raises:
            ConfigError: the score is outside [0, 1].
        """
        if not 0.0 <= score <= 1.0:  # also refuses NaN
            raise ConfigError(f"grade {score!r}: it must lie in [0, 1]")
        return cls("ok", float(score), reason, cost or {})

    @classmethod
    def error(cls, reason: str, cost: Mapping[str, float] | None = None) -> Grade:
        """A grade that failed. It carries no number: a failure never counts as a zero.

        Args:
            reason: what went wrong.
            cost: what it cost nevertheless.
        """
        return cls("error", None, reason, cost or {})
