"""Greedy evaluation of a policy that is being trained."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.rollouts.collection import choose_tasks
from searchgym.rollouts.evaluation import EvalResult, evaluate_tasks, summarize

from ..processes import world
from ..rollouts import RolloutRequest, run_requests

__all__ = ["evaluate_on", "greedy"]

_EVAL_SEED = 0  # the evaluation questions do not depend on the run's seed


@contextmanager
def greedy(policy: Policy) -> Iterator[None]:
    """The policy takes the most likely tokens; its sampling settings and generator are left as they were."""
    state, before = policy.generator.get_state(), policy.greedy
    policy.greedy = True
    try:
        yield
    finally:
        policy.greedy = before
        policy.generator.set_state(state)


def evaluate_on(
    envs: SearchVectorEnv, policy: Policy, split: str, episodes: int | None, ids: random.Random
) -> EvalResult:
    """Play questions of a split under the configuration of the training environments.

    Feedback act and judge are left out, because a deployed agent does not have them.

    Args:
        envs: provide the configuration; they are not stepped.
        policy: plays.
        split: of the questions.
        episodes: number of questions of that split; None: all.
        ids: draws the episodes' ids.
    """
    fresh = SearchVectorEnv.from_config(envs.config.for_evaluation(), envs.num_envs)
    tasks = choose_tasks(fresh.config, split, None, _EVAL_SEED)[:episodes]
    if world().count > 1:
        requests = [RolloutRequest(task, 1, ids.getrandbits(63)) for task in tasks]
        played = world().all_gather_ordered(run_requests(policy, fresh, world().shard(requests)))
        return summarize([episode for group in played for episode in group])
    return evaluate_tasks(fresh, policy, tasks, ids=ids)
