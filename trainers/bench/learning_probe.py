"""What a benchmark with an `audit` measures while a policy learns: its true EM, and how close its trainer's credit is to
the truth. Both are exact: the states of the questions are enumerated once per process and serve all runs.

The truth is that of exact match in the benchmark's environment without judge and feedback, whatever a trainer's own reward.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

import numpy as np

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError

from ..core.credit import Credit
from ..core.groups import Groups
from ..credit_audit.exact import ExactValues
from ..credit_audit.gradients import gradient_scores, score_vectors
from ..credit_audit.graph import shared_graphs
from ..credit_audit.scores import credit_scores, gather_rounds
from ..credit_audit.truth import TrueCredit
from .audit_plan import AuditPlan, Scope
from .probe import credit_per_round

__all__ = ["FIDELITY", "LearningProbe"]

FIDELITY = ("sign", "within", "pearson", "cosine", "snr")
"""What is measured of credit; see `credit_audit.scores` and `credit_audit.gradients`."""


class LearningProbe:
    """Measures one run.

    Args:
        plan: what to measure when.
        scope: the environment and the questions of the true EM.

    Raises:
        ConfigError: the split has too few questions.
    """

    def __init__(self, plan: AuditPlan, scope: Scope) -> None:
        self._plan = plan
        self._envs = _open(json.dumps([scope.env, scope.env_options], sort_keys=True))
        self._questions = self._envs.task_ids(scope.split)[: plan.questions]
        if len(self._questions) < plan.questions:
            raise ConfigError(
                f"split {scope.split!r} has {len(self._questions)} questions and audit.questions is {plan.questions}: "
                "give the corpus more, or request fewer"
            )

    def __call__(self, iteration: int, policy: Policy, groups: Groups, credit: Credit) -> dict[str, float]:
        """The numbers of an iteration, before its update: `audit_em`, and `audit_<score>` for each of `FIDELITY`."""
        found: dict[str, float] = {}
        if (iteration - 1) % self._plan.every == 0:
            found["audit_em"] = float(np.mean(self.values(policy)))
        if iteration in self._plan.at and groups.episodes:
            found |= {
                f"audit_{name}": value for name, value in self._fidelity(policy, groups, credit).items()
            }
        return found

    def values(self, policy: Policy) -> list[float]:
        """The probability of a right answer to each question."""
        exact = self._exact(policy)
        exact.solve(self._questions)
        return [exact.value(task) for task in self._questions]

    def _exact(self, policy: Policy) -> ExactValues:
        return ExactValues(policy, self._envs, graphs=shared_graphs(policy, self._envs.config))

    def _fidelity(self, policy: Policy, groups: Groups, credit: Credit) -> dict[str, float]:
        episodes = groups.episodes
        if any(record.action.kind == "feedback" for episode in episodes for record in episode.rounds):
            return {}  # the act does not exist in the environment whose values are enumerated
        counts = dict.fromkeys(dict.fromkeys(episode.task_id for episode in episodes), 0)
        for episode in episodes:
            counts[episode.task_id] += 1
        exact = self._exact(policy)
        exact.solve(list(counts), [count / len(episodes) for count in counts.values()])
        truth = [TrueCredit.exact(e.episode_id, *exact.true_credit(e)) for e in episodes]
        rounds, credit_R = gather_rounds(episodes, truth), credit_per_round(groups, credit)
        scores = credit_scores(rounds, credit_R, ("sign", "within", "pearson"))
        gradient_P = exact.policy_gradient().numpy()
        scores |= gradient_scores(score_vectors(policy, episodes), credit_R, rounds.episode_R, gradient_P)
        return {name: value for name, value in scores.items() if math.isfinite(value)}


@lru_cache(maxsize=64)
def _open(place: str) -> SearchVectorEnv:
    """The environment whose values are enumerated, for all runs of this process."""
    env, options = json.loads(place)
    plain: dict[str, Any] = {k: v for k, v in options.items() if k not in ("judge", "judge_when", "feedback")}
    return make_vec(env, 1, **{**plain, "reward": "em"})
