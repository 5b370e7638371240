"""CAPO: several critiques vote on every round, and the tokens of rounds that all of them call wrong are penalized.

Source: arXiv 2508.02298. With r_i the reward of episode i, in [0, 1], and w_i,t = 1 if the critiques call round t wrong:

    R_i,t = C · r_i − P · w_i,t                                                C = 2, P = 1
    A_i,t = (R_i,t − mean R) / (std R + 1e-6)                                   over the sampled tokens of the group

so C for the rounds of a right answer, C − P for a wrong round in it, 0 for the sound rounds of a failure and −P for a wrong
one in it. Then GRPO's clipped surrogate. Outcomes weigh more than rounds: P ≥ C is refused.

The critiques are the environment's judge. `{"name": "ensemble", "vote": "all", "judges": […]}` is the paper's vote: a round is wrong only
if every member says so (docs/judges-local.md); four members as in the third-party re-implementation below, e.g. four samples of
one language model. A round is wrong if its verdict's v (`criterion`) is below one half.

Departures:
1. [OURS] The paper's text was not available to us beyond its abstract, and its repository (andyclsr/CAPO at 95b8f34) holds no code.
   C, P and the shape of R are those of a third-party re-implementation; the paper's weights are not known to us.
2. [OURS] R is normalized over the sampled tokens of the group (`unit=token`), since the paper calls its rewards
   token-level. unit=episode pays an episode C r − P max_t w for all of its tokens, the other reading of that shape.
3. The paper's critiques judge the steps of a mathematical solution in one pass of a language model; here each round is
   judged by itself, with everything before it.
4. A round without a verdict (the judge failed, feedback acts) is not called wrong; the share is logged as `unjudged`.
5. The control `permute_rewards` leaves the verdicts out: they would still tell episodes apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError

from ...components.evidence import require_judge, verdicts
from ...components.round_scores import differ_by_set, standardize
from ...config import option
from ...core.credit import Credit
from ...core.groups import Groups
from ...core.objective import group_advantages
from ..grpo import GRPO, GRPOSettings

__all__ = ["CAPO", "CAPOSettings"]


@dataclass(frozen=True)
class CAPOSettings(GRPOSettings):
    """Settings of `CAPO`; those of GRPO first."""

    correct: float = option(2.0, "C: weight of the outcome", low=0.0)
    penalty: float = option(1.0, "P: what a wrong round costs; below C", low=0.0)
    unit: Literal["token", "episode"] = option(
        "token", "penalize the tokens of wrong rounds, or all tokens of an episode with a wrong round"
    )
    criterion: Literal["reasoning", "contribution"] = option(
        "reasoning", "a round is wrong if this of its verdict is below 0.5: v, or u times v (of answers: v)"
    )


class CAPO(GRPO):
    """GRPO with penalized rounds; see the head of this file.

    Raises:
        ConfigError: P is not below C.
    """

    settings_class = CAPOSettings
    settings: CAPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()
        s = self.settings
        if s.penalty >= s.correct:
            raise ConfigError(
                f"penalty is {s.penalty:g} and correct is {s.correct:g}: a wrong round must weigh less than the outcome; give a "
                "penalty below correct"
            )

    @property
    def group_relative(self) -> bool:
        return self.settings.penalty == 0.0

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self.settings.penalty:
            require_judge(env_config, "capo", "penalizes wrong rounds")
        return env_config

    def select(self, groups: Groups) -> list[bool]:
        wanted = super().select(groups)
        if not self.settings.skip_equal or self.settings.permute_rewards:
            return wanted
        differ = differ_by_set(self._paid(groups), groups.group_R, len(groups)).tolist()
        return [outcome or rounds for outcome, rounds in zip(wanted, differ, strict=True)]

    def credit(self, groups: Groups) -> Credit:
        if not len(groups):
            return Credit.per_round([])
        paid_R = self._paid(groups)
        if self.settings.unit == "token":
            tokens_R = np.bincount(groups.round_of_token_N, minlength=len(paid_R)).astype(np.float64)
            credit_R = standardize(paid_R, groups.group_R, weights_R=tokens_R)
        else:
            ends = np.cumsum([len(group) for group in groups])[:-1]
            worst_E = np.full(len(groups.episodes), np.inf)
            np.minimum.at(worst_E, groups.episode_R, paid_R)
            worst_E[np.isinf(worst_E)] = 0.0  # an episode without rounds has no tokens either
            credit_R = np.concatenate([group_advantages(p_G) for p_G in np.split(worst_E, ends)])[
                groups.episode_R
            ]
        v_R = verdicts(groups, self.settings.criterion)
        metrics = {"wrong_rounds": float((v_R < 0.5).mean()), "unjudged": float(np.isnan(v_R).mean())}
        return Credit.flat("round", credit_R, groups, metrics)

    def _paid(self, groups: Groups) -> NDArray[np.float64]:
        """R of all rounds, in order."""
        s = self.settings
        outcome_R = s.correct * np.concatenate([*groups.rewards, np.zeros(0)])[groups.episode_R]
        if s.permute_rewards:
            return outcome_R
        return outcome_R - s.penalty * (verdicts(groups, s.criterion) < 0.5)  # NaN < 0.5 is False
