"""Training from names and options, in one call: what `searchgym train` does.

result = train({"agent": "tiny", "iterations": 10}, run_dir="runs/mine")
result = resume("runs/mine")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchgym._version import __version__
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import open_agent

from ..config import TrainConfig, make_config, parse_settings
from ..credit import Credit
from ..distributed.launch import connect
from ..groups import Groups
from ..processes import world
from ..runs.directory import RunDirectory, check_free, default_run_directory, read_run_metadata
from ..runs.display import Display
from ..runs.shared import open_run
from ..runs.trackers import Displays, TrackerDisplay, check_trackers
from .loop import Result, Trainer
from .parts import _tapes, open_parts

__all__ = ["resume", "train"]

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
    connect(config.process_timeout)
    config = _checked_streams(config, world().count)
    for name, tape in _tapes(config).items():  # a resumed run may start in another directory
        config = replace(config, **{name: os.path.abspath(tape)})
    path = world().from_main(  # the name that the main process finds free is everybody's
        lambda: Path(run_dir) if run_dir is not None else default_run_directory(config.trainer, config.env)
    )
    world().from_main(lambda: check_free(path))  # before the seconds that opening an agent takes
    parts = open_parts(config)
    metadata = {
        "config": asdict(config),
        "settings": asdict(parts.algorithm.settings),
        "policy": parts.policy.describe(),
        "versions": {"searchgym": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    # The run directory comes last: workers that cannot start leave none behind.
    with _players(config) as players, open_run(lambda: RunDirectory.create(path, metadata)) as run:
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
    config = parse_settings(
        TrainConfig, read_run_metadata(path)["config"], f"option in {path / 'config.json'}:"
    )
    connect(config.process_timeout)
    if iterations is not None:
        config = replace(config, iterations=iterations)
    if _checked_streams(config, world().count) != config:
        raise ConfigError(
            f"run {str(path)!r} was started by one process and draws from one random stream: resume it with one process"
        )
    with open_run(lambda: RunDirectory.open(path)) as run, _players(config) as players:
        parts = open_parts(config)
        display = _with_trackers(config, display)
        trainer = Trainer(**vars(parts), **players, config=config, run=run, display=display, probe=probe)
        run.update_metadata(config=asdict(config))
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
    """Who plays beside the policy itself: the arguments `workers` and `rollout_policy` of `Trainer`."""
    players: dict[str, Any] = {}
    if config.rollout_lag:
        torch.manual_seed(config.seed)
        players["rollout_policy"] = open_agent({**config.agent_options, "name": config.agent})
    if not config.rollout_workers:
        yield players
        return
    from ..distributed.ray_workers import RayWorkers

    with RayWorkers(config, open_parts) as workers:
        yield {**players, "workers": workers}


def _with_trackers(config: TrainConfig, display: Display | None) -> Display | None:
    if not world().main:
        return None
    trackers = check_trackers(config.tracker, config.tracker_options)
    opened = [TrackerDisplay(name, options) for name, options in trackers.items()]
    return Displays([display or Display(), *opened]) if opened else display
