"""What a method's credit costs beyond the episodes themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from searchgym.env.config import EnvConfig

from ..core.groups import Group

__all__ = ["MethodCost", "judge_calls"]


@dataclass(frozen=True, slots=True)
class MethodCost:
    """Costs of one method on some episodes.

    Attributes:
        episodes: number of episodes.
        tokens: tokens sampled for them; those of shared rounds count once.
        restores: episodes that began in a restored state.
        pass_tokens: tokens of forward passes that the credit needs.
        judge_calls: verdicts that the credit needs.
        feedback_calls: feedback acts in the episodes.
        seconds: processor time of the credit.
    """

    episodes: int = 0
    tokens: int = 0
    restores: int = 0
    pass_tokens: int = 0
    judge_calls: int = 0
    feedback_calls: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, float]:
        """A JSON value."""
        return asdict(self)


def judge_calls(groups: Sequence[Group], config: EnvConfig) -> int:
    """How many verdicts a judge gives for some episodes.

    Args:
        groups: the episodes of each question.
        config: its `judge_when` tells which are judged.
    """
    when, calls = config.judge_when, 0
    for group in groups:
        unequal = len({episode.reward for episode in group}) > 1
        for episode in group:
            if "success" in when and not episode.outcome.em:
                continue
            if "unequal" in when and not unequal:
                continue
            calls += sum(record.action.kind != "feedback" for record in episode.rounds)
    return calls
