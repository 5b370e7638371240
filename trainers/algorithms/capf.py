"""CAPF: credit-attenuated privileged feedback. In training a verifier gives feedback; what it helped with counts less.

Source: arXiv 2606.01830, of which only the abstract and the first figure were available to us. According to them, training
(and only training) offers a feedback act, which uses privileged knowledge to describe what is wrong with a draft answer;
the policy revises the draft in the same episode; the credit of the feedback act and of the acts before it is attenuated,
because the act does not exist at deployment. A third party mentions a retention factor that applies when credit passes
back across a feedback act.

The formula is ours. In episode i with feedback acts in rounds f_1 < … < f_K and retention ρ in [0, 1]:

    w_i^t = ρ^#{k : f_k ≥ t}          one factor ρ for each feedback act in this round or a later one
    A_i^t = w_i^t · A_i               A_i: GRPO's advantage; rounds after the last feedback act keep all of it

ρ = 1 makes feedback an ordinary tool; with ρ = 0 only what follows the last feedback act is trained.

Also ours, and therefore settings: ρ itself (`retention`), whether negative advantages are attenuated too
(`attenuate`), which episodes the baseline is computed from (`baseline`), the number of feedback acts per episode (`calls`)
and how much the feedback reveals (`level`; its texts are in searchgym/env/feedback.py). The paper's own choices, including
its learning rate and group size, are not known to us.

Departures from what is known of the paper:
1. The feedback is written by rules, from the gold derivation (exact, without cost). What writes the paper's is not known.
2. The training loop is GRPO's; the author's public scaffold uses REINFORCE with 8 samples per question.
3. The act exists in collected episodes only. Evaluations during training have neither the act nor its prompt
   (`EnvConfig.for_evaluation`), and `unassisted_em` reports the success of training episodes that did not use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError

from ..config import option
from ..core.credit import Credit
from ..core.groups import Group, Groups
from ..core.objective import group_advantages
from .grpo import GRPO, GRPOSettings

__all__ = ["CAPF", "CAPFSettings", "retention_weights"]


@dataclass(frozen=True)
class CAPFSettings(GRPOSettings):
    """Settings of `CAPF`; those of GRPO first."""

    retention: float = option(
        0.5, "rho: share of a round's credit that each later feedback act leaves", low=0.0, high=1.0
    )
    attenuate: Literal["both", "positive"] = option(
        "both", "attenuate all advantages, or positive ones only (failures with feedback then count in full)"
    )
    baseline: Literal["all", "unassisted"] = option(
        "all", "the group's mean is taken over all episodes, or over those that used no feedback"
    )
    level: Literal["kind", "hop", "revealing", "gold"] = option("kind", "how much the feedback reveals")
    calls: int = option(1, "feedback acts per episode", low=1)


class CAPF(GRPO):
    """GRPO with a training-only feedback act and attenuated credit; see the head of this file.

    Raises:
        ConfigError: baseline=unassisted with an advantage that does not subtract the group's mean.
    """

    settings_class = CAPFSettings
    settings: CAPFSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        s = self.settings
        if s.baseline == "unassisted" and s.advantage not in ("grpo", "dr-grpo"):
            raise ConfigError(
                f"baseline=unassisted replaces the mean of the group, which advantage={s.advantage} does not subtract: use "
                "advantage=grpo or dr-grpo"
            )

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        wanted = (self.settings.level, self.settings.calls)
        if (env_config.feedback_level, env_config.feedback_calls) == wanted:
            return env_config
        if env_config.has_feedback:
            raise ConfigError(
                f"the environment's feedback has level {env_config.feedback_level!r} and {env_config.feedback_calls} calls, capf's "
                f"settings say {wanted[0]!r} and {wanted[1]}: leave out --env-option feedback, capf switches it on"
            )
        return replace(env_config, feedback={"level": wanted[0], "calls": wanted[1]})

    def advantages(self, groups: Groups) -> list[NDArray[np.float64]]:
        if self.settings.baseline == "all":
            return super().advantages(groups)
        scaled = self.settings.advantage == "grpo"
        return [_over_unassisted(r_G, g, scaled) for r_G, g in zip(groups.rewards, groups, strict=True)]

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        values: list[list[NDArray[np.float64]]] = []
        calls: list[int] = []
        retained: list[float] = []
        for group, a_G in zip(groups, self.advantages(groups), strict=True):
            values.append([])
            for episode, a in zip(group, a_G, strict=True):
                feedback_R = np.array(
                    [round_.action.kind == "feedback" for round_ in episode.rounds], dtype=bool
                )
                weights_R = retention_weights(feedback_R, s.retention)
                attenuated = a > 0.0 or s.attenuate == "both"
                values[-1].append(a * weights_R if attenuated else np.full(len(feedback_R), a))
                calls.append(int(feedback_R.sum()))
                retained += weights_R.tolist() if calls[-1] and attenuated else []
        metrics = {"feedback_calls": float(np.mean(calls))} if calls else {}
        if retained:
            metrics["retained"] = float(np.mean(retained))
        return Credit.per_round(values, metrics)


def retention_weights(feedback_R: ArrayLike, retention: float) -> NDArray[np.float64]:
    """w^t = ρ^#{k : f_k ≥ t} of each round of an episode.

    Args:
        feedback_R: True where the round is a feedback act.
        retention: ρ.
    """
    later_R = np.cumsum(np.asarray(feedback_R, dtype=np.int64)[::-1])[::-1]
    return np.asarray(retention**later_R, dtype=np.float64)


def _over_unassisted(r_G: NDArray[np.float64], group: Group, scaled: bool) -> NDArray[np.float64]:
    """r minus the mean of the episodes without feedback (of all, where there are none).

    Scaled by the standard deviation of the whole group: that of a few unassisted failures would be 0.
    """
    alone_G = np.array([not episode.outcome.assisted for episode in group], dtype=bool)
    if len(r_G) == 1 or not alone_G.any():
        return group_advantages(r_G, "grpo" if scaled else "dr-grpo")
    if r_G.min() == r_G.max():
        return np.zeros_like(r_G)
    centred_G: NDArray[np.float64] = r_G - r_G[alone_G].mean()
    if scaled:
        centred_G /= r_G.std(ddof=1) + 1e-6
    return centred_G
