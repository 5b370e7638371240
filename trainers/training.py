"""Training from names and options, in one call: what `searchgym train` does.

result = train({"agent": "tiny", "iterations": 10}, run_dir="runs/mine")
result = resume("runs/mine")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import searchgym
from searchgym import plugins
from searchgym.agents.policy import Policy
from searchgym.errors import ConfigError
from searchgym.rollouts import open_agent
from searchgym.vector import SearchVectorEnv, make_vec

from .alarms import Alarms, parse_stops
from .algorithm import Algorithm, training_envs
from .config import TrainConfig, make_config, parse_settings
from .distributed import connect, open_run
from .groups import Credit, Groups
from .loop import Result, Trainer
from .optimizers import check_optimizer
from .processes import current
from .progress import Display
from .run import RunDirectory, check_free, default_run_directory, read_card
from .tasks import TaskSampler
from .trackers import Displays, TrackerDisplay, check_trackers

__all__ = ["Parts", "open_parts", "resume", "train"]

Probe = Callable[[Groups, Credit], dict[str, float]]


def train(
    config: TrainConfig | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    display: Display | None = None,
    probe: Probe | None = None,
) -> Result:
    """Train an agent; what `searchgym train` does.

    Args:
        config: a `TrainConfig` or some of its fields.
        run_dir: a missing or empty directory; default: a new one under runs/.
        display: shows progress; default: nothing.
        probe: see `Trainer`.

    Raises:
        ConfigError: an option that cannot be used; nothing was written.
        RunDirectoryError: the directory is not empty, or in use.
        TrainingError: training could not go on.
    """
    if not isinstance(config, TrainConfig):
        config = make_config(config or {})
    processes = connect(config.process_timeout)
    config = _checked_streams(config, processes.count)
    for name, tape in _tapes(config).items():  # a resumed run may start in another directory
        config = replace(config, **{name: os.path.abspath(tape)})
    path = processes.main_says(  # the name that the main process finds free is everybody's
        lambda: Path(run_dir) if run_dir is not None else default_run_directory(config.trainer, config.env)
    )
    processes.main_says(lambda: check_free(path))  # before the seconds that opening an agent takes
    parts = open_parts(config)
    card = {
        "config": asdict(config),
        "settings": asdict(parts.algorithm.settings),
        "policy": parts.policy.describe(),
        "versions": {"searchgym": searchgym.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    # The run directory comes last: workers that cannot start leave none behind.
    with _players(config) as players, open_run(lambda: RunDirectory.create(path, card)) as run:
        display = _with_trackers(config, display)
        trainer = Trainer(**vars(parts), **players, config=config, run=run, display=display, probe=probe)
        return trainer.run_to_end()


def resume(
    run_dir: str | Path,
    iterations: int | None = None,
    display: Display | None = None,
    probe: Probe | None = None,
) -> Result:
    """Continue a run from its last complete checkpoint, bit for bit on a CPU.

    Args:
        run_dir: of a run that was interrupted, killed or finished.
        iterations: a new total; default: what the run was started with.
        display: shows progress.
        probe: see `Trainer`.

    Raises:
        RunDirectoryError: not a run directory, or in use.
        CheckpointError: the checkpoint is damaged or of another architecture.
        ConfigError: fewer iterations than the run already has.
    """
    path = Path(run_dir)
    config = parse_settings(TrainConfig, read_card(path)["config"], f"option in {path / 'config.json'}:")
    processes = connect(config.process_timeout)
    if iterations is not None:
        config = replace(config, iterations=iterations)
    if _checked_streams(config, processes.count) != config:
        raise ConfigError(
            f"run {str(path)!r} was started by one process and draws from one random stream: resume it with one process"
        )
    with open_run(lambda: RunDirectory.open(path)) as run, _players(config) as players:
        parts = open_parts(config)
        display = _with_trackers(config, display)
        trainer = Trainer(**vars(parts), **players, config=config, run=run, display=display, probe=probe)
        run.update_card(config=asdict(config))
        return trainer.run_to_end()


def _checked_streams(config: TrainConfig, processes: int) -> TrainConfig:
    """Episodes that others may play have random streams of their own.

    Raises:
        ConfigError: a tape, which is one sequence of calls.
    """
    others = processes > 1 or config.rollout_workers > 0 or config.rollout_lag > 0
    if others and _tapes(config):
        raise ConfigError(
            "record and replay need one process that does one thing after the other: leave out rollout_workers and "
            "rollout_lag, and start one process"
        )
    return replace(config, streams="episode") if others else config


@contextmanager
def _players(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Who plays beside the policy itself: the arguments `workers` and `twin` of `Trainer`."""
    players: dict[str, Any] = {}
    if config.rollout_lag:
        torch.manual_seed(config.seed)
        players["twin"] = open_agent({**config.agent_options, "name": config.agent})
    if not config.rollout_workers:
        yield players
        return
    from .ray_rollouts import RayWorkers

    with RayWorkers(config) as workers:
        yield {**players, "workers": workers}


def _with_trackers(config: TrainConfig, display: Display | None) -> Display | None:
    if not current().main:
        return None
    trackers = check_trackers(config.tracker, config.tracker_options)
    opened = [TrackerDisplay(name, options) for name, options in trackers.items()]
    return Displays([display or Display(), *opened]) if opened else display


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
