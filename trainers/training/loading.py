"""Trained runs, opened again to evaluate them: `searchgym.load_run` and `searchgym eval --run`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import torch

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.files import policy_directory, run_of, step_of
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import open_agent
from searchgym.rollouts.evaluation import EvalResult, evaluate_tasks

from ..config import TrainConfig
from ..core.algorithm import Algorithm, training_envs
from ..core.registry import load_trainer
from ..learner.checkpoint import load_policy
from ..runs.directory import RunDirectory, read_run_metadata
from ..runs.inputs import check_evaluated, describe_inputs
from .api import stored_config
from .evaluation import EVAL_SEED, evaluation_ids, evaluation_tasks

__all__ = ["LoadedRun", "load_run"]


@dataclass(frozen=True)
class LoadedRun:
    """A trained policy with the environments and questions of its run's evaluations.

    Attributes:
        path: the run directory.
        iteration: of the checkpoint that was loaded.
        config: of the run.
        policy: with the weights of that checkpoint; greedy.
        envs: the environments of the run's evaluations: those of the training, without judge and feedback act.
        split: of the questions that the run evaluates on.
        episodes: number of these questions; None: the whole split, if the run made no evaluations.
        seed: draws the questions.
        recorded: the evaluation that the run recorded at this iteration; None if it made none.
    """

    path: Path
    iteration: int
    config: TrainConfig = field(repr=False)
    policy: Policy = field(repr=False)
    envs: SearchVectorEnv = field(repr=False)
    split: str
    episodes: int | None
    seed: int
    recorded: dict[str, Any] | None = field(repr=False)

    def evaluate(self, on_episode: Callable[[Episode], None] | None = None) -> EvalResult:
        """Evaluate as the run did: the same questions, greedily; the episodes equal the recorded ones.

        Args:
            on_episode: called as each episode ends.
        """
        tasks = evaluation_tasks(self.envs, self.split, self.episodes)
        ids: random.Random = evaluation_ids(self.config.seed, self.iteration)
        return evaluate_tasks(self.envs, self.policy, tasks, ids=ids, on_episode=on_episode)


def load_run(
    run: str | Path,
    *,
    trainer: type[Algorithm] | None = None,
    agent_options: Mapping[str, Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> LoadedRun:
    """Open the policy of a training run, and what the run evaluates it on.

    Sets the number of torch's threads to the run's, because the rounding of a language model depends on it.

    Args:
        run: a run directory (its newest checkpoint), or one checkpoint of it, e.g. runs/mine/checkpoints/step-000050.
        trainer: the class of a run that was started with a class of a notebook.
        agent_options: options of the agent that replace the run's, e.g. {"device": "cpu"}.
        env_options: arguments of the environment that replace the run's.

    Returns:
        The policy, environments and questions.

    Raises:
        RunDirectoryError: not a run directory, or its corpus, index or evaluation questions have changed since and no
            `env_options` are given.
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: the agent or the environment of the run cannot be opened here.
    """
    path = run_of(run) or Path(run)
    metadata = read_run_metadata(path)
    config = stored_config(path)
    checkpoint = policy_directory(run).parent
    iteration = step_of(checkpoint)
    assert iteration is not None
    if config.threads:
        torch.set_num_threads(config.threads)
    algorithm = (trainer or load_trainer(config.trainer))(config.settings)
    arguments = {**config.env_options, **(env_options or {}), "split": config.split}
    num_envs = config.num_envs or config.questions * algorithm.settings.group_size
    training = training_envs(algorithm, make_vec(config.env, num_envs, **arguments))
    torch.manual_seed(config.seed)
    policy = open_agent({**config.agent_options, **(agent_options or {}), "name": config.agent})
    if not isinstance(policy, Policy):
        raise ConfigError(f"agent {config.agent!r} of run {str(path)!r} is not trainable with these options")
    if not env_options:
        check_evaluated(
            path, metadata.get("inputs"), describe_inputs(config, training.config, policy.describe())
        )
    policy.version = load_policy(checkpoint, policy)["policy_version"]
    policy.temperature, policy.top_p, policy.greedy = config.temperature, 1.0, True
    lock = filelock.FileLock(path / ".lock")  # not acquired: the run is only read, and may be in use
    rows = RunDirectory(path, metadata, lock).rows("metrics.jsonl")
    return LoadedRun(
        path=path,
        iteration=iteration,
        config=config,
        policy=policy,
        envs=SearchVectorEnv.from_config(training.config.for_evaluation(), num_envs),
        split=config.eval_split,
        episodes=config.eval_episodes or None,
        seed=EVAL_SEED,
        recorded=next((row["eval"] for row in rows if row["iteration"] == iteration and "eval" in row), None),
    )
