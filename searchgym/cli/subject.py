"""What `searchgym eval` evaluates: an agent and an environment that are named, or those of a training run."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..agent import Agent
from ..env.config import ARGUMENTS
from ..env.vector import SearchVectorEnv
from ..errors import ConfigError
from ..files import run_of
from ..judges.protocol import open_judge
from ..options import plugins
from ..rollouts.collection import open_agent, open_envs
from ..rollouts.evaluation import EvalResult
from .options import env_arguments, judge_spec, parse_pairs

__all__ = ["Subject", "open_subject", "run_path"]

_WEIGHTS = ("checkpoint", "model")  # options of agents that name their weights


@dataclass
class Subject:
    """What is evaluated.

    Attributes:
        agent: plays.
        envs: where.
        split: of the questions.
        episodes: number of questions; None: the whole split.
        seed: draws the questions; None: the first ones.
        title: of the table.
        run: the loaded training run; None for an agent that was named.
        changed: whether options replace some of the run's.
        note: what the user should know before trusting the figures; "" for nothing.
    """

    agent: Agent
    envs: SearchVectorEnv
    split: str | None
    episodes: int | None
    seed: int | None
    title: str
    run: Any = None
    changed: bool = False
    note: str = ""

    def lines(self, result: EvalResult) -> list[str]:
        """How the agent decoded, and how the figures compare with those that the run recorded.

        Args:
            result: the evaluation.
        """
        lines = []
        if hasattr(self.agent, "greedy"):
            sampled = f"sampled, temperature {getattr(self.agent, 'temperature', 1.0):g}"
            lines.append(f"decoding: {'greedy' if self.agent.greedy else sampled}")
        if self.run is not None and self.run.recorded is not None and not self.changed:
            recorded, em = self.run.recorded["metrics"]["em"]["mean"], result.metrics["em"].value
            agrees = (
                "the same" if abs(recorded - em) < 1e-9 else f"not {em:.3f}: data, versions or machine differ"
            )
            lines.append(f"the run recorded EM {recorded:.3f} after iteration {self.run.iteration}: {agrees}")
        return lines


def run_path(run: Path | None, checkpoint: Path | None) -> Path | None:
    """The training run that --run or --checkpoint names; None where --checkpoint names other weights.

    Args:
        run: the value of --run.
        checkpoint: the value of --checkpoint.

    Raises:
        ConfigError: --run names no training run, or both are given.
    """
    if run is not None and checkpoint is not None:
        raise ConfigError("--run and --checkpoint exclude each other: give one of them")
    if run is not None and run_of(run) is None:
        newest = sorted(Path("runs").glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        hint = f", e.g. --run {newest[-1].parent}" if newest else ""
        raise ConfigError(
            f"--run {run} is not a training run: give a directory that searchgym train wrote{hint}"
        )
    named = run or checkpoint
    return named if named is not None and run_of(named) is not None else None


def open_subject(ctx: click.Context) -> Subject:
    """Open what the options of `searchgym eval` name.

    Args:
        ctx: of the command; its parameters are read.

    Raises:
        SearchGymError: an option that cannot be used.
    """
    values = ctx.params
    path = run_path(values["run"], values["checkpoint"])
    return _named(values) if path is None else _trained(ctx, path)


def _named(values: dict[str, Any]) -> Subject:
    name, options = values["agent"], parse_pairs("--agent-option", values["agent_options"])
    if values["checkpoint"] is not None:
        options[_weights_option(name)] = str(values["checkpoint"])
    arguments = _arguments(values)
    spec = judge_spec(values["judge"], values["judge_pairs"])
    if spec is not None:
        arguments |= {"judge": spec, "judge_when": values["judge_when"]}
    agent = open_agent({"name": name, **options})
    split = values["split"]
    envs = open_envs(values["env_id"], agent, values["num_envs"], split, **arguments)
    weights = (options[option] for option in _WEIGHTS if isinstance(options.get(option), str))
    runs = [run for run in map(run_of, weights) if run is not None]
    note = (
        f"these weights belong to the training run {runs[0]}: searchgym eval --run evaluates them as the training did"
        if runs
        else ""
    )
    shown = name if agent.name == Agent.name else agent.name  # a class need not have a name of its own
    title = f"{shown} on {values['env_id']}, {split or 'dev'}"
    return Subject(agent, envs, split, values["episodes"] or None, values["seed"], title, note=note)


def _weights_option(agent: str) -> str:
    known = inspect.signature(plugins.load("agents", agent)).parameters
    for option in _WEIGHTS:
        if option in known:
            return option
    raise ConfigError(f"agent {agent!r} has no weights to open with --checkpoint: name another with --agent")


def _trained(ctx: click.Context, path: Path) -> Subject:
    values = ctx.params

    def given(name: str) -> bool:
        return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT

    for name, flag in (
        ("agent", "--agent"),
        ("env_id", "--env"),
        ("record", "--record"),
        ("replay", "--replay"),
    ):
        if given(name):
            raise ConfigError(
                f"{flag} {values[name]} does not go with the training run {path}, which names its agent and environment: "
                "leave it out"
            )
    arguments = _arguments(values)
    for name in arguments:
        if ARGUMENTS[name].metadata["training_only"]:
            raise ConfigError(f"--env-option {name}=… exists in training only: leave it out")
    options = parse_pairs("--agent-option", values["agent_options"])
    load_run = plugins.load("functions", "load_run")
    run = load_run(path, agent_options=options, env_options=arguments)
    config, num_envs = run.envs.config, values["num_envs"] if given("num_envs") else run.envs.num_envs
    spec = judge_spec(values["judge"], values["judge_pairs"])
    if spec is not None:
        judge = open_judge(spec, config.corpus)
        config = dataclasses.replace(config, judge=judge, judge_spec=spec, judge_when=values["judge_when"])
    # Greedy samples of one question are all the same.
    run.policy.greedy = values["samples"] == 1 and values["search"] is None
    asked = [name for name in ("split", "episodes", "seed") if given(name)]
    split = values["split"] if "split" in asked else run.split
    episodes = values["episodes"] if "episodes" in asked or run.episodes is None else run.episodes
    return Subject(
        agent=run.policy,
        envs=SearchVectorEnv.from_config(config, num_envs),
        split=split,
        episodes=episodes or None,
        seed=values["seed"] if "seed" in asked else run.seed,
        title=f"{run.policy.name} of {path}, iteration {run.iteration}, on {run.config.env}, {split}",
        run=run,
        changed=bool(asked or options or arguments or values["samples"] > 1)
        or bool(values["budgets"] or values["search"]),
    )


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    named = {name: values[name] for name in ("corpus", "retriever", "record", "replay")}
    return env_arguments(values["env_pairs"], **named)
