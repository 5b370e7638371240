"""Options several commands share."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..env.config import check_names
from ..errors import ConfigError, UnknownIdError
from ..specs import Spec

__all__ = [
    "SPEC_HELP",
    "agent_option",
    "config_option",
    "env_arguments",
    "env_options",
    "judge_options",
    "judge_spec",
    "merge_pairs",
    "parse_pairs",
    "read_config",
    "read_file",
    "read_spec",
    "tape_options",
]

SPEC_HELP = 'A registered name, a path, or JSON like {"name": "hub", "corpus": "wiki-18"}.'


def read_spec(text: str) -> Spec:
    """A corpus as the command line gives it: a name, a directory, or JSON.

    Raises:
        ConfigError: it begins like JSON and is not a JSON object.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        spec: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"corpus {text!r} is not JSON: {error}") from None
    return spec


def parse_pairs(option: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE strings to a dict; a value that is JSON is read as JSON, anything else is a string.

    Raises:
        ConfigError: a pair without "=".
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} is {pair!r}: write KEY=VALUE, e.g. top_k=5 or hops=[2,3]")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def read_file(path: Path) -> dict[str, Any]:
    """The table a TOML or JSON file holds.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"config file {path} is not {kind}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"config file {path} holds a {type(values).__name__}: give a table of option = value"
        )
    return values


def read_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make a file's values the command's defaults, so that flags win over the file, and a later file over an earlier.

    A table `recipe` describes the file itself and is no option.
    """
    if path is None:
        return None
    values = read_file(path)
    values.pop("recipe", None)
    # Keys are the flags as --help shows them, without dashes in front; "_" is as good as "-".
    options = {
        flag.removeprefix("--").replace("-", "_"): p
        for p in ctx.command.params
        if isinstance(p, click.Option) and p.expose_value
        for flag in p.opts
        if flag.startswith("--")
    }
    by_name = {p.name: p for p in options.values()}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        option = options.get(name) or by_name.get(name)
        if option is None:
            raise UnknownIdError(f"key in config file {path}:", key, options)
        if option.multiple:
            if isinstance(value, dict):
                value = [f"{k}={json.dumps(v)}" for k, v in value.items()]
            elif not isinstance(value, list):
                value = [value]
            value = [*(ctx.default_map or {}).get(str(option.name), ()), *value]
        defaults[str(option.name)] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


def merge_pairs(ctx: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> tuple[str, ...]:
    """Pairs of the file first, so that a flag replaces the file's pair of the same key and keeps the others."""
    name = str(parameter.name)
    if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return pairs
    return (*(ctx.default_map or {}).get(name, ()), *pairs)


def env_arguments(
    pairs: tuple[str, ...], record: str | None = None, replay: str | None = None
) -> dict[str, Any]:
    """The arguments of --env-option, with their names checked, and of `tape_options`.

    Raises:
        UnknownIdError: the environment has no such argument.
        ConfigError: not KEY=VALUE, or an argument that has an option of its own.
    """
    arguments = parse_pairs("--env-option", pairs)
    check_names(arguments)
    for name in ("split", "record", "replay"):
        if name in arguments:
            raise ConfigError(f"--env-option {name}={arguments[name]}: use --{name} {arguments[name]}")
    return arguments | {n: path for n, path in (("record", record), ("replay", replay)) if path is not None}


def judge_spec(judge: str | None, pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """What `open_judge` takes, from --judge and --judge-option; None without --judge.

    Raises:
        ConfigError: not KEY=VALUE, or options of no judge.
    """
    options = parse_pairs("--judge-option", pairs)
    if judge is None:
        if pairs:
            raise ConfigError(f"--judge-option {pairs[0]} belongs to no judge: name one with --judge")
        return None
    if "name" in options:
        raise ConfigError(f"--judge-option name={options['name']}: name the judge with --judge")
    return {"name": judge, **options}


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="TOML or JSON file with values for these options; flags win over the file.",
)
agent_option = click.option(
    "--agent-option",
    "agent_options",
    metavar="KEY=VALUE",
    multiple=True,
    callback=merge_pairs,
    help="Option of the agent, e.g. checkpoint=runs/demo/checkpoints/step-000020/policy. Repeatable.",
)


def env_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--env, --env-option and --split."""
    for decorator in (
        click.option("--split", default=None, help="Which questions: train, dev or test."),
        click.option(
            "--env-option",
            "env_pairs",
            metavar="KEY=VALUE",
            multiple=True,
            callback=merge_pairs,
            help="Argument of the environment, e.g. top_k=5, hops=[2,3], corpus=path/to/folder. Repeatable.",
        ),
        click.option("--env", "env_id", default="SearchQA-v0", show_default=True, help="Environment id."),
    ):
        function = decorator(function)
    return function


def tape_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--record and --replay, as the parameters `record` and `replay`; `env_arguments` takes them."""
    for decorator in (
        click.option(
            "--replay", metavar="TAPE", help="Take them from this tape; neither index nor judge is opened."
        ),
        click.option("--record", metavar="TAPE", help="Write every retrieval and judge call to this tape."),
    ):
        function = decorator(function)
    return function


def judge_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--judge and --judge-option, as the parameters `judge` and `judge_pairs`; `judge_spec` reads them."""
    for decorator in (
        click.option(
            "--judge-option",
            "judge_pairs",
            metavar="KEY=VALUE",
            multiple=True,
            callback=merge_pairs,
            help="Option of the judge, e.g. model=gpt-oss-120b. Repeatable.",
        ),
        click.option("--judge", default=None, help="Registered judge: oracle, rules, …"),
    ):
        function = decorator(function)
    return function
