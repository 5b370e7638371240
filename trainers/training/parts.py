"""What a run is made of, opened from names and options: policy, algorithm, environments and questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import agent_context_of, open_agent

from ..config import TrainConfig
from ..core.algorithm import Algorithm, training_envs
from ..core.registry import load_trainer
from ..core.tasks import TaskSampler
from ..learner.optimizers import check_optimizer
from ..runs.alarms import Alarms, parse_stops
from ..runs.trackers import check_trackers

__all__ = ["Parts", "open_parts", "tape_options"]


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        policy: is trained; at its initial weights.
        algorithm: learns.
        envs: where episodes are played, under `algorithm.configure_env` (see `algorithm.training_envs`).
        tasks: the questions.
    """

    policy: Policy
    algorithm: Algorithm
    envs: SearchVectorEnv
    tasks: TaskSampler


def tape_options(config: TrainConfig) -> dict[str, Any]:
    """The environment arguments `record` and `replay`, if they are given."""
    return {name: tape for name in ("record", "replay") if (tape := getattr(config, name))}


def open_parts(config: TrainConfig, kind: type[Algorithm] | None = None) -> Parts:
    """Open policy, algorithm, environments and questions.

    Args:
        config: names and options.
        kind: the class of the trainer; default: the one that `config.trainer` names.

    Raises:
        ConfigError: an option that cannot be used.
    """
    algorithm = (kind or load_trainer(config.trainer))(config.settings)
    Alarms(config.alarms)  # refuses unknown alarms before anything is opened
    parse_stops(config.stop_on_alarm)
    check_trackers(config.tracker, config.tracker_options)
    check_optimizer(config.optimizer, config.optimizer_options)
    if config.keep_best and not (config.eval_episodes and config.eval_every):
        raise ConfigError(
            f"keep_best is {config.keep_best!r}, but nothing is evaluated during training: set eval_every and "
            "eval_episodes"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # agents that draw their initial weights draw the same ones again
    num_envs = config.num_envs or config.questions * algorithm.settings.group_size
    arguments = {**config.env_options, "split": config.split, **tape_options(config)}
    envs = training_envs(algorithm, make_vec(config.env, num_envs, **arguments))
    if config.eval_episodes and not envs.task_ids(config.eval_split):
        raise ConfigError(
            f"split {config.eval_split!r} has no questions to evaluate on: set eval_episodes to 0"
        )
    if config.keep_best == "recall" and not any(
        question.supporting_ids for question in envs.config.corpus.questions(config.eval_split)
    ):
        raise ConfigError(
            f"keep_best is 'recall', but no question of split {config.eval_split!r} names its gold passages: use 'em'"
        )
    policy = open_agent({**config.agent_options, "name": config.agent})
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"agent {config.agent!r} cannot be trained: it has no weights (choose another, e.g. 'tiny' or 'candidate')"
        )
    algorithm.check_policy(policy)
    policy.bind(
        agent_context_of(envs.config)
    )  # an environment that it cannot play is refused before anything is written
    if config.streams == "episode":
        try:
            policy.seed([], [])
        except NotImplementedError as error:
            raise ConfigError(
                f"every episode has a random stream of its own (streams=episode), but {error}"
            ) from error
    for name in ("rollout_lag", "rollout_workers"):
        if getattr(config, name) and algorithm.changes_memory(policy):
            raise ConfigError(
                f"{name} is {getattr(config, name)}, but {config.trainer} changes the memory of the agent {policy.name!r}, and "
                f"agents that play elsewhere get its weights alone: leave {name} out"
            )
    return Parts(policy, algorithm, envs, TaskSampler(envs.task_ids(), config.questions, config.seed))
