"""Greedy evaluation of a policy that is being trained."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.rollouts.collection import choose_tasks
from searchgym.rollouts.evaluation import EvalResult, evaluate_tasks, summarize

from ..core.rollouts import RolloutRequest, run_requests
from ..processes import world

__all__ = ["EVAL_SEED", "evaluate_on", "evaluation_ids", "evaluation_tasks", "greedy"]

EVAL_SEED = 0
"""Draws the questions of evaluations, which do not depend on the run's seed."""


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


def evaluation_tasks(envs: SearchVectorEnv, split: str, episodes: int | None) -> list[str]:
    """Ids of the questions that a run evaluates on.

    Args:
        envs: offer the questions.
        split: of the questions.
        episodes: number of questions; None: all of the split.
    """
    return choose_tasks(envs.config, split, None, EVAL_SEED)[:episodes]


def evaluation_ids(seed: int, iteration: int) -> random.Random:
    """The source of the ids of an evaluation's episodes.

    Args:
        seed: of the run.
        iteration: after which the policy is evaluated.
    """
    return random.Random(f"evaluation {seed} {iteration}")


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
    tasks = evaluation_tasks(fresh, split, episodes)
    if world().count > 1:
        requests = [RolloutRequest(task, 1, ids.getrandbits(63)) for task in tasks]
        played = world().all_gather_ordered(run_requests(policy, fresh, world().shard(requests)))
        return summarize([episode for group in played for episode in group])
    return evaluate_tasks(fresh, policy, tasks, ids=ids)
