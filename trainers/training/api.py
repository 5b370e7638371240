"""Training from names and options, in one call: what `searchgym train` does.

result = train(agent="tiny", iterations=10, run_dir="runs/mine")
result = train(trainer=MyRule, agent="candidate")
result = resume("runs/mine")
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchgym._version import __version__
from searchgym.env.reward_weights import portable_reward
from searchgym.errors import ConfigError, MissingSecret, RunDirectoryError, expand, strip
from searchgym.options.sources import absolute_name
from searchgym.rollouts.collection import open_agent

from ..config import TrainConfig, make_config, parse_settings
from ..core.algorithm import Algorithm
from ..core.registry import check_trainer_class, trainer_label, trainer_name
from ..distributed.launch import connect
from ..processes import world
from ..runs.directory import RunDirectory, check_free, default_run_directory, read_run_metadata
from ..runs.display import Display
from ..runs.inputs import check_allowed, check_inputs, describe_inputs
from ..runs.shared import open_run
from ..runs.trackers import Displays, TrackerDisplay, check_trackers
from .loop import Players, Probe
from .parts import Parts, open_parts, tape_options
from .trainer import Result, Trainer

__all__ = ["resume", "train"]


def train(
    config: TrainConfig | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    display: Display | None = None,
    probe: Probe | None = None,
    *,
    browsable: bool = True,
    trainer: str | type[Algorithm] | None = None,
    **options: Any,
) -> Result:
    """Train an agent; what `searchgym train` does.

    Args:
        config: a `TrainConfig` or some of its fields.
        run_dir: a missing or empty directory; default: a new one under runs/.
        display: shows progress; default: nothing.
        probe: measures the credit of every iteration; see `loop.Probe`.
        browsable: also keep what is there to be looked at: episodes with their credit, and `curve.png`. The run itself
            and what resumes it are the same without.
        trainer: a registered name, "file.py:Class", "package.module:Class", or the class itself, which needs no package:
            it may be defined in a notebook.
        **options: more fields of `TrainConfig`; they win over `config`.

    Returns:
        The run directory, the trained policy and the metrics.

    Raises:
        ConfigError: an option that cannot be used; nothing was written.
        RunDirectoryError: the directory is not empty, or in use.
        TrainingError: an iteration failed; its episodes and the weights are saved in the run directory.
    """
    kind = _given_class(trainer)
    if trainer is not None:
        options["trainer"] = trainer_name(kind) if kind is not None else trainer
    if not isinstance(config, TrainConfig):
        config = make_config({**(config or {}), **options})
    elif options:
        config = make_config({**asdict(config), **options})
    connect(config.process_timeout)
    config = _checked_streams(config, world().count)
    # A resumed run may start in another directory.
    config = replace(
        config, trainer=absolute_name(config.trainer), env_options=_portable_options(config.env_options)
    )
    for name, tape in tape_options(config).items():
        config = replace(config, **{name: os.path.abspath(tape)})
    label = trainer_label(config.trainer)
    path = world().from_main(  # the name that the main process finds free is that of all
        lambda: Path(run_dir) if run_dir is not None else default_run_directory(label, config.env)
    )
    world().from_main(lambda: check_free(path))  # before the seconds that opening an agent takes
    parts = open_parts(config, kind)
    metadata = {
        "config": strip(asdict(config)),
        "inputs": _inputs(config, parts),
        "settings": asdict(parts.algorithm.settings),
        "policy": parts.policy.describe(),
        "versions": {"searchgym": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    # The run directory comes last, so that workers that cannot start leave none behind.
    with _players(config, kind) as players, open_run(lambda: RunDirectory.create(path, metadata)) as run:
        display = _with_trackers(config, display)
        return Trainer(parts, config, run, display, probe=probe, players=players).run_to_end(browsable)


def resume(
    run_dir: str | Path,
    iterations: int | None = None,
    display: Display | None = None,
    probe: Probe | None = None,
    *,
    browsable: bool = True,
    trainer: type[Algorithm] | None = None,
    allow_changed: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> Result:
    """Continue a run from its last complete checkpoint, bit for bit on a CPU.

    Args:
        run_dir: of a run that was interrupted, killed or finished.
        iterations: a new total; default: that of the run's configuration.
        display: shows progress; default: nothing.
        probe: measures the credit of every iteration; see `loop.Probe`.
        browsable: also keep what is there to be looked at: episodes with their credit, and `curve.png`. The run itself
            and what resumes it are the same without.
        trainer: the class of a run that was started with a class of a notebook.
        allow_changed: names of inputs that may differ from those the run was started with (`trainers.runs.inputs.INPUTS`), or
            "all".
        given: options of the run that hold credentials, which a run directory does not keep; they must be the run's
            otherwise. Without them, credentials are read from the environment.

    Raises:
        RunDirectoryError: not a run directory, in use, damaged, or with other inputs than it was started with.
        CheckpointError: the checkpoint is damaged or of another architecture.
        ConfigError: fewer iterations than the run already has, or a class that is needed is missing.
    """
    path = Path(run_dir)
    allowed = check_allowed([allow_changed] if isinstance(allow_changed, str) else allow_changed)
    config = stored_config(path)
    for name, value in (given or {}).items():
        if getattr(config, name, None) != strip({name: value})[name]:
            raise ConfigError(
                f"{name} is not what run {str(path)!r} was started with: leave it out, or start a new run"
            )
        config = replace(config, **{name: value})
    kind = _given_class(trainer)
    if kind is not None and config.trainer not in (trainer_name(kind), f"<{kind.__name__}>"):
        raise ConfigError(
            f"run {str(path)!r} trains with {trainer_label(config.trainer)}, you gave {kind.__name__}: resume it with "
            "the same trainer, or start a new run"
        )
    connect(config.process_timeout)
    if iterations is not None:
        config = replace(config, iterations=iterations)
    if _checked_streams(config, world().count) != config:
        raise ConfigError(
            f"run {str(path)!r} was started by one process and draws from one random stream: resume it with one process"
        )
    with open_run(lambda: RunDirectory.open(path)) as run, _players(config, kind) as players:
        parts = open_parts(config, kind)
        inputs = _inputs(config, parts)
        world().from_main(lambda: check_inputs(path, run.metadata.get("inputs"), inputs, allowed))
        display = _with_trackers(config, display)
        loop = Trainer(parts, config, run, display, probe=probe, players=players)
        run.update_metadata(config=strip(asdict(config)), inputs=inputs)
        return loop.run_to_end(browsable)


def stored_config(path: Path) -> TrainConfig:
    """The configuration of a run directory; credentials in it are references to the environment.

    Raises:
        RunDirectoryError: not a run directory, or damaged.
        ConfigError: an option that this version does not have.
    """
    metadata = read_run_metadata(path)
    if "config" not in metadata:
        raise RunDirectoryError(f"{path / 'config.json'} is damaged (it has no config): start a new run")
    return parse_settings(TrainConfig, metadata["config"], f"option in {path / 'config.json'}:")


def _portable_options(env_options: dict[str, Any]) -> dict[str, Any]:
    if "reward" not in env_options:
        return env_options
    return {**env_options, "reward": portable_reward(env_options["reward"])}


def _inputs(config: TrainConfig, parts: Parts) -> dict[str, str]:
    """The digests of what the run reads from outside, computed by the main process."""
    return world().from_main(lambda: describe_inputs(config, parts.envs.config, parts.policy.describe()))


def _given_class(trainer: str | type[Algorithm] | None) -> type[Algorithm] | None:
    if trainer is None or isinstance(trainer, str):
        return None
    return check_trainer_class(getattr(trainer, "__name__", str(trainer)), trainer)


def _checked_streams(config: TrainConfig, processes: int) -> TrainConfig:
    """Episodes that may be played elsewhere have random streams of their own.

    Raises:
        ConfigError: a tape, which is one sequence of calls.
    """
    elsewhere = processes > 1 or config.rollout_workers > 0 or config.rollout_lag > 0
    if elsewhere and tape_options(config):
        raise ConfigError(
            "record and replay need one process that does one thing after the other: leave out rollout_workers and "
            "rollout_lag, and start one process"
        )
    return replace(config, streams="episode") if elsewhere else config


@contextmanager
def _players(config: TrainConfig, kind: type[Algorithm] | None) -> Iterator[Players]:
    """Who plays in addition to the policy itself."""
    rollout_policy: Any = None
    if config.rollout_lag:
        torch.manual_seed(config.seed)
        rollout_policy = open_agent({**config.agent_options, "name": config.agent})
    if not config.rollout_workers:
        yield Players(rollout_policy=rollout_policy)
        return
    from ..distributed.ray_workers import RayWorkers

    with RayWorkers(config, partial(open_parts, kind=kind)) as workers:
        yield Players(workers, rollout_policy)


def _with_trackers(config: TrainConfig, display: Display | None) -> Display | None:
    if not world().main:
        return None
    try:
        trackers = check_trackers(config.tracker, expand(config.tracker_options))
    except MissingSecret as error:
        raise ConfigError(f"tracker options: {error}") from None
    opened = [TrackerDisplay(name, options) for name, options in trackers.items()]
    return Displays([display or Display(), *opened]) if opened else display
