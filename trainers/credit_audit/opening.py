"""The policies that an audit plays with, and the trainers that it scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError, SearchGymError
from searchgym.files import run_of, step_of
from searchgym.options import plugins
from searchgym.rollouts.collection import open_agent

from ..core.algorithm import Algorithm
from ..core.registry import load_trainer, trainer_label
from ..runs.directory import read_run_metadata
from ..training.loading import LoadedRun, load_run
from .auditing import configure_for
from .monte_carlo import check_can_continue
from .weightless import WeightlessPolicy

__all__ = ["WITHOUT_CREDIT", "check_world", "open_policy", "open_run", "open_trainers"]

WITHOUT_CREDIT = {
    "sft": "it imitates demonstrations, so its credit does not depend on what an episode earned",
    "skillrl": "its credit is that of grpo, and its agent must read skills written in words",
    "structrag": "it trains the router of its agent, whose choice is not a round of an episode",
}
"""Registered trainers that an audit of all leaves out, and why."""


def open_policy(name: str, options: Mapping[str, Any]) -> Policy:
    """A policy, or an agent without weights that can fork and resume.

    Args:
        name: a registered agent.
        options: its options.

    Raises:
        ConfigError: the agent cannot be opened, or cannot continue episodes.
    """
    agent = open_agent({**options, "name": name})
    if isinstance(agent, Policy):
        return agent
    check_can_continue(agent)
    return WeightlessPolicy(agent)


def open_run(
    run: Path, count: int, agent_options: Mapping[str, Any], env_options: Mapping[str, Any]
) -> Iterator[tuple[str, LoadedRun]]:
    """Checkpoints of a training run, from the first to the newest, evenly spaced; their policies sample.

    Args:
        run: a run directory, or one checkpoint.
        count: number of checkpoints; 1: the newest, or the one that was given.
        agent_options: options of the agent that replace the run's.
        env_options: arguments of the environment that replace the run's.

    Yields:
        Its label, "" where there is one, and the run with the weights of this checkpoint.

    Raises:
        ConfigError: fewer checkpoints than requested were kept.
        RunDirectoryError: see `load_run`.
        CheckpointError: see `load_run`.
    """
    paths = {"": run} if count == 1 else _checkpoints(run, count)
    for label, path in paths.items():
        loaded = load_run(path, agent_options=agent_options, env_options=env_options)
        loaded.policy.greedy = False
        yield label, loaded


def check_world(run: Path, config: EnvConfig) -> None:
    """Refuse a policy that was trained on another corpus than the environment has.

    Args:
        run: the training run, or a checkpoint of it.
        config: the environment.

    Raises:
        ConfigError: the corpus is another one.
    """
    trained = read_run_metadata(run_of(run) or run).get("inputs", {}).get("corpus", config.corpus.hash)
    if trained != config.corpus.hash:
        raise ConfigError(
            f"run {str(run)!r} was trained on a corpus with hash {trained[:12]}, and this environment's is "
            f"{config.corpus.hash[:12]}: leave out --corpus and --env-option corpus, or audit it there on purpose with "
            f"--agent and --agent-option checkpoint={run}"
        )


def _checkpoints(run: Path, count: int) -> dict[str, Path]:
    if step_of(run) is not None:
        raise ConfigError(f"{str(run)!r} is one checkpoint: give the run directory, or --checkpoints 1")
    folder = (run_of(run) or run) / "checkpoints"
    kept = sorted(folder.glob("step-*"), key=step_of) if folder.is_dir() else []  # type: ignore[arg-type]
    if len(kept) < count:
        raise ConfigError(
            f"run {str(run)!r} has {len(kept)} checkpoints and --checkpoints requests {count}: request fewer, or train with "
            "a larger --keep-checkpoints"
        )
    places = np.linspace(0, len(kept) - 1, count).round().astype(int)
    return {kept[place].name: kept[place] for place in places}


def open_trainers(
    names: Sequence[str], settings: Mapping[str, Any], group_size: int, config: EnvConfig
) -> tuple[dict[str, Algorithm], dict[str, str]]:
    """The trainers to score, and why others are left out.

    A trainer that was named must work; of the registered ones, those that refuse the environment are left out.

    Args:
        names: registered names or file.py:Class; empty: all registered ones that assign credit.
        settings: KEY or TRAINER.KEY -> value.
        group_size: episodes per question.
        config: the environment.

    Returns:
        label -> trainer, and label -> reason.

    Raises:
        ConfigError: a trainer that was named cannot be audited, or a setting of one that is not audited.
        UnknownIdError: a trainer that is not registered.
    """
    wanted = names or tuple(name for name in plugins.names("trainers") if name not in WITHOUT_CREDIT)
    labels = [trainer_label(name) for name in wanted]
    for key in settings:
        owner = key.rpartition(".")[0]
        if owner and owner not in labels:
            raise ConfigError(
                f"--set {key}: trainer {owner!r} is not audited; audited are {', '.join(labels)}"
            )
    opened: dict[str, Algorithm] = {}
    refused: dict[str, str] = {} if names else dict(WITHOUT_CREDIT)
    for name, label in zip(wanted, labels, strict=True):
        try:
            kind = load_trainer(name)
            fields = {field.name for field in dataclasses.fields(kind.settings_class)}
            own = {k.removeprefix(f"{label}."): v for k, v in settings.items() if k.startswith(f"{label}.")}
            common = {k: v for k, v in settings.items() if "." not in k and (k in fields or names)}
            algorithm = _open_trainer(kind, {**common, **own}, group_size)
            configure_for(algorithm, config)
            opened[label] = algorithm
        except SearchGymError as error:
            if names:
                raise
            refused[label] = str(error)
    return opened, refused


def _open_trainer(kind: Any, settings: dict[str, Any], group_size: int) -> Algorithm:
    """A trainer with groups of the audit's size or, where it cannot use that size, of its own default size."""
    algorithm: Algorithm
    if "group_size" in settings:
        algorithm = kind(settings)
        return algorithm
    try:
        algorithm = kind({"group_size": group_size, **settings})
    except ConfigError:
        algorithm = kind(settings)
    return algorithm
