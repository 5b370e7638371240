"""A trainer that is told the truth: GRPO's loop with the true advantage of every round as its credit.

    credit of round t = A(s_t, a_t) / rms(A) + noise · N(0, 1)

with A by enumeration under the current policy. No rule can do this outside a world that can be enumerated: it shows what
better credit could gain at most, and with `noise` how much of it survives errors of a known size. Reference only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError

from ..algorithms.grpo import GRPO, GRPOSettings
from ..config import option
from ..core.credit import Credit
from ..core.groups import Group, Groups
from ..core.tasks import TaskSampler
from .exact import ExactValues
from .graph import shared_graphs

__all__ = ["ExactCredit", "ExactCreditSettings"]


@dataclass(frozen=True)
class ExactCreditSettings(GRPOSettings):
    """Settings of `ExactCredit`; those of GRPO first."""

    noise: float = option(
        0.0, "standard deviation of the noise, in units of the credit's root mean square", low=0.0
    )


class ExactCredit(GRPO):
    """GRPO's loop with exact credit; see the head of this file.

    Raises:
        ConfigError: a policy or an environment whose values cannot be enumerated.
    """

    settings_class = ExactCreditSettings
    settings: ExactCreditSettings

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        """See `Algorithm`; remembers the environment."""
        if envs.config.has_feedback:
            raise ConfigError("exact credit is not computed with feedback: leave env option feedback out")
        self._graphs = shared_graphs(policy, envs.config)
        return super().collect(policy, envs, tasks)

    def credit(self, groups: Groups) -> Credit:
        """See `Algorithm`."""
        exact = ExactValues(self.context.policy, self._graphs.envs, graphs=self._graphs)
        exact.solve(list(dict.fromkeys(episode.task_id for episode in groups.episodes)))
        true_R = np.concatenate([exact.true_credit(episode)[1] for episode in groups.episodes])
        scale = float(np.sqrt(np.mean(true_R**2)))
        credit_R = true_R / scale if scale > 0.0 else true_R
        if self.settings.noise:
            credit_R = credit_R + self.settings.noise * self.context.rng.standard_normal(len(credit_R))
        return Credit.flat("round", credit_R, groups)
