"""What a run is made of, opened from names and options: policy, algorithm, environments and questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from searchgym import plugins
from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import open_agent

from ..algorithm import Algorithm, training_envs
from ..config import TrainConfig
from ..learner.optimizers import check_optimizer
from ..runs.alarms import Alarms, parse_stops
from ..runs.trackers import check_trackers
from ..tasks import TaskSampler

__all__ = ["Parts", "open_parts"]


def _tapes(config: TrainConfig) -> dict[str, Any]:
    """The environment's arguments `record` and `replay`, as far as they are given."""
    return {name: tape for name in ("record", "replay") if (tape := getattr(config, name))}


@dataclass
class Parts:
    """What a run is made of, opened."""

    policy: Policy
    algorithm: Algorithm
    envs: SearchVectorEnv
    tasks: TaskSampler


def open_parts(config: TrainConfig) -> Parts:
    """Policy, algorithm, environments and questions, from names and options.

    Raises:
        ConfigError: an option that cannot be used.
    """
    kind = plugins.load("trainers", config.trainer)
    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        raise ConfigError(f"trainer {config.trainer!r} is {kind!r}: register a subclass of Algorithm")
    algorithm = kind(config.settings)
    Alarms(config.alarms)  # what is no alarm is refused before anything is opened
    parse_stops(config.stop_on_alarm)
    check_trackers(config.tracker, config.tracker_options)
    check_optimizer(config.optimizer, config.optimizer_options)
    if config.keep_best and not (config.eval_episodes and config.eval_every):
        raise ConfigError(
            f"keep_best is {config.keep_best!r}, and nothing is evaluated on the way: set eval_every and eval_episodes"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # an agent that draws its initial weights draws the same ones again
    num_envs = config.num_envs or config.questions * algorithm.settings.group_size
    arguments = {**config.env_options, "split": config.split, **_tapes(config)}
    envs = training_envs(algorithm, make_vec(config.env, num_envs, **arguments))
    if config.eval_episodes and not envs.task_ids(config.eval_split):
        raise ConfigError(
            f"no questions to evaluate on in split {config.eval_split!r}: set eval_episodes to 0"
        )
    policy = open_agent({**config.agent_options, "name": config.agent})
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"agent {config.agent!r} cannot be trained: it has no weights (try 'tiny' or 'candidate')"
        )
    return Parts(policy, algorithm, envs, TaskSampler(envs.task_ids(), config.questions, config.seed))
