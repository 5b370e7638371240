"""`searchgym train`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource
from rich.table import Table

from searchgym.cli.command import Command, option
from searchgym.cli.console import Console, say
from searchgym.cli.listing import listing_options
from searchgym.cli.options import SPEC_HELP, config_option, merge_pairs, parse_pairs, read_config, read_spec
from searchgym.errors import ConfigError, MissingExtraError, strip, with_credentials
from searchgym.options import plugins

from ..config import TrainConfig, describe_settings, make_config
from ..recipes import RECIPES, describe_recipe, find_recipe

__all__ = ["train"]

_EXPERIMENT = "Trainer, agent and environment"
_RECIPES = "Recipes"
_RUN = "Run"
_GROUPS = {
    _EXPERIMENT: ("trainer", "settings", "agent", "agent_options", "env", "env_options", "split"),
    "Length of the run": ("iterations", "questions", "max_episodes", "max_tokens", "max_seconds"),
    "Optimization": (
        "lr",
        "lr_schedule",
        "lr_warmup",
        "lr_floor",
        "optimizer",
        "optimizer_options",
        "weight_decay",
        "epochs",
        "minibatches",
        "grad_clip",
        "token_budget",
    ),
    "Rollouts": (
        "temperature",
        "num_envs",
        "streams",
        "rollout_workers",
        "worker_options",
        "ray_address",
        "rollout_lag",
        "process_timeout",
        "record",
        "replay",
    ),
    "Evaluation and checkpoints": (
        "eval_split",
        "eval_episodes",
        "eval_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_best",
    ),
    "Logging and alarms": ("tracker", "tracker_options", "alarms", "stop_on_alarm"),
    _RUN: ("seed", "threads"),
}
"""The fields of `TrainConfig` under each heading of the help page."""

_PAIRS = {
    "settings": ("--set", "Setting of the trainer, e.g. kl_coef=0.01; see --list-settings. Repeatable."),
    "alarms": ("--alarm", "Threshold of an alarm, e.g. step_kl=0.5; null disables the alarm. Repeatable."),
    "optimizer_options": (
        "--optimizer-option",
        "Option of the optimizer, e.g. betas=[0.9,0.95]. Repeatable.",
    ),
    "tracker_options": ("--tracker-option", "Option of a tracker, e.g. wandb.mode=offline. Repeatable."),
    "worker_options": (
        "--worker-option",
        "Ray resource of each rollout worker, e.g. num_gpus=1. Repeatable.",
    ),
    "agent_options": ("--agent-option", "Option of the agent; see --list-agents. Repeatable."),
    "env_options": (
        "--env-option",
        'Argument of the environment. Repeatable.  [default: types=["chain"] and hops=[2,3] if neither --env nor a '
        "corpus is given]",
    ),
}


def _config_options(function: Any) -> Any:
    """One option per field of `TrainConfig`, with its explanation and default."""
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    hints = get_type_hints(TrainConfig)
    for heading, names in reversed(_GROUPS.items()):
        for name in reversed(names):
            function = _config_option(fields[name], hints[name], heading)(function)
    return function


def _config_option(field: dataclasses.Field[Any], hint: Any, heading: str) -> Callable[[Any], Any]:
    if field.name in _PAIRS:
        flag, text = _PAIRS[field.name]
        return option(
            flag,
            field.name,
            metavar="KEY=VALUE",
            multiple=True,
            callback=merge_pairs,
            group=heading,
            help=text,
        )
    kind: Any = hint
    metavar = None
    if get_origin(hint) is Literal:
        kind = _Choice(get_args(hint))
        metavar = f"[{'|'.join(kind.named)}]"
    text = f"{field.metadata['help'][0].upper()}{field.metadata['help'][1:]}."
    if field.name == "trainer":
        text = f"Registered trainer ({', '.join(plugins.names('trainers'))}), or FILE.py:CLASS."
    return option(
        "--" + field.name.replace("_", "-"),
        field.name,
        type=kind,
        metavar=metavar,
        default=field.default,
        show_default=field.default != "",
        group=heading,
        help=text,
    )


class _Choice(click.Choice[str]):
    """A choice in which "" stands for the absence of a choice, and is not offered."""

    @property
    def named(self) -> list[str]:
        return [choice for choice in self.choices if choice]

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return f"{value!r} is not one of {', '.join(map(repr, self.named))}."


def _use_recipe(ctx: click.Context, parameter: click.Parameter, source: str | None) -> Path | None:
    """Read a recipe: a config file that may be given by name."""
    if source is None:
        return None
    path = find_recipe(source)
    describe_recipe(path)  # reports a malformed table `recipe`, which `read_config` ignores
    return read_config(ctx, parameter, path)


@click.command("train", cls=Command)
@_config_options
@option(
    "--group-size",
    type=int,
    group=_EXPERIMENT,
    help="Episodes per question; the same as --set group_size=N.",
)
@option(
    "--corpus",
    metavar="SPEC",
    group=_EXPERIMENT,
    help=f"Corpus; the same as --env-option corpus=SPEC. {SPEC_HELP}",
)
@option(
    "--retriever",
    metavar="SPEC",
    group=_EXPERIMENT,
    help="Retriever; the same as --env-option retriever=SPEC: a registered name, the directory of a built index, or JSON.",
)
@option("--list-settings", is_flag=True, group=_EXPERIMENT, help="Show the settings of --trainer and exit.")
@option(
    "--run-dir",
    type=click.Path(path_type=Path),
    group=_RUN,
    show_default="a new directory in runs/",
    help="Directory to write the run to.",
)
@option("--resume", is_flag=True, group=_RUN, help="Continue the run in --run-dir from its last checkpoint.")
@option(
    "--allow-changed",
    metavar="NAMES",
    default="",
    group=_RUN,
    help="With --resume: inputs that may have changed since the run was started, comma-separated (corpus, index, questions, "
    "eval_questions, agent_files, trainer_files), or all.",
)
@option(
    "--dry-run",
    is_flag=True,
    group=_RUN,
    help="Check everything except the weights, estimate memory and time, and exit.",
)
@option(
    "--recipe",
    metavar="NAME",
    is_eager=True,
    callback=_use_recipe,
    group=_RECIPES,
    help="Start from a recipe: a name from --list-recipes, or a file. Flags and --config take precedence.",
)
@option("--list-recipes", is_flag=True, group=_RECIPES, help="Show the recipes of the package and exit.")
@listing_options
@config_option
@click.pass_context
def train(
    ctx: click.Context,
    /,
    run_dir: Path | None,
    resume: bool,
    allow_changed: str,
    list_settings: bool,
    recipe: Path | None,
    list_recipes: bool,
    dry_run: bool,
    group_size: int | None,
    corpus: str | None,
    retriever: str | None,
    **options: Any,
) -> None:
    """Train an agent and evaluate it before and after.

    Without arguments, GRPO trains the tiny language model to answer two- and three-hop questions.
    """
    console = Console()
    if list_recipes:
        _print_recipes(console)
        return
    if importlib.util.find_spec("torch") is None:  # report a missing extra before anything else
        raise MissingExtraError("searchgym train", "torch", "train")
    if list_settings:
        _print_settings(console, options["trainer"])
        return
    given = _given(ctx, options, group_size, {"corpus": corpus, "retriever": retriever})
    if dry_run:
        if resume:
            raise ConfigError("--dry-run checks a run before it starts: leave out --resume")
        ctx.exit(_dry_run(console, given, run_dir, recipe))
    from ..runs.display import make_display, result_table

    display = make_display(console)
    try:
        with (
            display.opening() if os.environ.get("RANK", "0") == "0" else nullcontext()
        ):  # torch alone takes seconds
            from ..processes import world
            from . import api

            if resume:
                path = _resumable(run_dir)
                iterations, secrets = _given_again(path, given)
                allowed = [name.strip() for name in allow_changed.split(",") if name.strip()]
                result = api.resume(path, iterations, display, allow_changed=allowed, given=secrets)
            else:
                config = make_config(given)
                if run_dir is None:
                    from ..core.registry import trainer_label
                    from ..runs.directory import default_run_directory

                    run_dir = default_run_directory(trainer_label(config.trainer), config.env)
                result = api.train(config, run_dir, display)
    except KeyboardInterrupt:
        if run_dir is not None and (run_dir / "config.json").exists():
            command = shlex.join(["searchgym", "train", "--resume", "--run-dir", str(run_dir)])
            say(f"\ninterrupted; continue with: {command}", err=True)
        else:
            say("\ninterrupted before the run started; nothing was written", err=True)
        ctx.exit(130)
    if not world().main:
        return
    if result.before is not None and result.after is not None:
        console.print(result_table(result.before, result.after, "greedy evaluation on held-out questions"))
    console.print(
        f"{result.seconds:.1f} s; metrics, checkpoints and curve.png are in {result.run_dir}", soft_wrap=True
    )
    command = shlex.join(["searchgym", "eval", "--run", str(result.run_dir)])
    console.print(f"evaluate it again with: {command}", soft_wrap=True)


def _dry_run(console: Console, given: dict[str, Any], run_dir: Path | None, recipe: Path | None) -> int:
    """Print the dry run; returns the exit status, 0 if every check passed."""
    from ..core.registry import trainer_label
    from ..planning.dry_run import dry_run
    from ..planning.report import print_dry_run
    from ..runs.directory import default_run_directory

    config = make_config(given)
    about, expected = describe_recipe(recipe) if recipe else (None, None)
    if os.environ.get("RANK", "0") != "0":  # one of several processes reports
        return 0
    result = dry_run(
        config, run_dir or default_run_directory(trainer_label(config.trainer), config.env), about, expected
    )
    hardware = about.hardware if about else ""
    print_dry_run(console, result, hardware)
    if about is not None and about.needs and not result.passed:
        console.print("Before the first run:", *about.needs, sep="\n  ", soft_wrap=True)
    return 0 if result.passed else 2


def _given(
    ctx: click.Context, options: dict[str, Any], group_size: int | None, specs: dict[str, str | None]
) -> dict[str, Any]:
    """The options given on the command line or in a file; `specs` are the values of --corpus and --retriever."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name in _PAIRS:
            if value:
                given[name] = parse_pairs(_PAIRS[name][0], value)
        elif ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            given[name] = value
    if group_size is not None:
        given["settings"] = {**given.get("settings", {}), "group_size": group_size}
    for name, spec in specs.items():
        if spec is None:
            continue
        if name in given.get("env_options", {}):
            raise ConfigError(f"--{name} and --env-option {name}=… exclude each other: give one of them")
        given["env_options"] = {**given.get("env_options", {}), name: read_spec(spec, name)}
    return given


def _resumable(run_dir: Path | None) -> Path:
    if run_dir is None:
        newest = sorted(Path("runs").glob("*/config.json"), key=lambda p: p.stat().st_mtime)
        hint = f", e.g. --run-dir {newest[-1].parent}" if newest else ""
        raise ConfigError(f"--resume needs --run-dir{hint}")
    return run_dir


def _given_again(run_dir: Path, given: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """The new number of iterations, if given, and the options that hold credentials, which a run directory does not keep.

    A resumed run keeps the rest of its configuration.
    """
    from searchgym.env.reward_weights import portable_reward
    from searchgym.options.sources import absolute_name

    from .api import stored_config

    config = dataclasses.asdict(stored_config(run_dir))
    again: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("record", "replay"):
            value = os.path.abspath(value)
        if name == "trainer":
            value = absolute_name(value)
        if name == "env_options" and "reward" in value:
            value = {**value, "reward": portable_reward(value["reward"])}
        stripped = strip({name: value})[name]
        before = {k: config[name].get(k) for k in value} if name in _PAIRS else config.get(name)
        if name != "iterations" and before != stripped:
            raise ConfigError(
                f"{name} cannot change when resuming (the run has {before!r}, you gave {stripped!r}): leave it out, or "
                "start a new run"
            )
        again[name] = {**config[name], **value} if name in _PAIRS else value
    return given.get("iterations"), with_credentials(again)


def _print_recipes(console: Console) -> None:
    table = Table("recipe", "description", "hardware", "measured")
    for name in RECIPES:
        about, _ = describe_recipe(find_recipe(name))
        table.add_row(name, about.title, f"{about.gpus} x {about.hardware}", about.run)
    console.print(table)


def _print_settings(console: Console, trainer: str) -> None:
    from ..core.registry import load_trainer

    for name, kind, default, text in describe_settings(load_trainer(trainer).settings_class):
        console.print(f"{name} = {default}  ({kind})\n    {text}")
