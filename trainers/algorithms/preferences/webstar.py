"""WebSTAR: step-filtered imitation. A judge grades every step; only good ones are learned from, whatever the outcome.

Source: WebSTAR, arXiv 2512.10962, of which we know the abstract: a judge grades every step of recorded trajectories from 1 to
10, and only good steps enter SFT. The threshold is not known to us.

    grade_t = 1 + 9 (u_t + v_t) / 2      of a search, from the judge's verdict (u: found something new, v: sound and useful)
    grade_t = 1 + 9 EM                   of a round that answers; answers=verdict: 1 + 9 v_t
    L       = − 1/|K| Σ_{k in K} log π_θ(token k | everything before it),     K: the tokens of rounds with grade_t ≥ threshold

The loss, the options and recorded files (`episodes`) are those of sft.py. The policy of each iteration plays, and learns from its
good steps; a failed episode teaches its good steps as well.

Departures from the abstract:
1. [OURS] threshold=7. With a judge of two values (`oracle`), that keeps the searches with u = v = 1 and the answers with v = 1.
2. [OURS] Our judges do not give one grade; the formula makes it of u and v. A judge with finer scores gives finer grades.
3. [OURS] Episodes are not filtered by reward (min_reward=0): good steps of failed episodes are learned from, too. An answer
   is graded by whether it is right. answers=verdict grades it by v, its support by what was retrieved, as a judge without gold
   answers would: then wrong answers that stand in a retrieved text are imitated (the page shows what that does).
4. The steps' thoughts are learned as they are: the paper augments them.
5. The policy learns from its own steps, in a loop; the paper's trajectories come from other models.
6. The control `permute_rewards` is refused: it does not change grades. Rounds without a verdict are left out and counted (`unjudged`). Invalid acts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Round

from ...components.evidence import require_judge
from ...config import option
from ..sft import SFT, SFTSettings

__all__ = ["WebSTAR", "WebSTARSettings", "grade"]


@dataclass(frozen=True)
class WebSTARSettings(SFTSettings):
    """Settings of `WebSTAR`; those of SFT first."""

    min_reward: float = option(0.0, "learn from episodes with at least this reward")
    answers: Literal["right", "verdict"] = option(
        "right", "an answer is graded by whether it is right, or by the judge's v"
    )
    threshold: float = option(7.0, "learn from rounds with at least this grade", low=1.0, high=10.0)


class WebSTAR(SFT):
    """Imitation of steps with good grades; see the head of this file."""

    settings_class = WebSTARSettings
    settings: WebSTARSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        if self.settings.permute_rewards:
            raise ConfigError(
                "webstar has no control permute_rewards: grades do not depend on rewards, so the control would be the run that "
                "it is meant to check; leave it out"
            )

    @property
    def needs_verdicts(self) -> bool:
        return True

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if not self.settings.episodes:
            require_judge(env_config, "webstar", "grades steps")
        return super().configure_env(env_config)

    def _worth_learning(self, episode: Episode, round_: Round) -> bool:
        right = episode.outcome.em if self.settings.answers == "right" else None
        graded = grade(round_, right)
        return (
            super()._worth_learning(episode, round_)
            and graded is not None
            and graded >= self.settings.threshold
        )


def grade(round_: Round, right: float | None = None) -> float | None:
    """The grade of a round, from 1 to 10; None without a verdict.

    Args:
        round_: the round.
        right: how right its answer is, if it answers; None: answers are graded by v.
    """
    u, v = round_.judge.utility, round_.judge.reasoning
    if round_.action.kind == "answer" and right is not None:
        return 1.0 + 9.0 * right
    if u is None or v is None:
        return None
    return 1.0 + 9.0 * (v if round_.action.kind == "answer" else (u + v) / 2.0)
