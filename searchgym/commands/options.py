"""Options several commands share."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from searchgym.errors import ConfigError, UnknownIdError

__all__ = ["agent_option", "config_option", "env_options", "parse_pairs"]


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


def _read_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make a file's values the command's defaults, so that flags win over the file."""
    if path is None:
        return None
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
    by_name = {p.name: p for p in ctx.command.params if p.name not in (None, "config")}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in by_name:
            raise UnknownIdError(f"key in config file {path}:", key, [str(n) for n in by_name])
        if by_name[name].multiple if isinstance(by_name[name], click.Option) else False:
            if isinstance(value, dict):
                value = [f"{k}={json.dumps(v)}" for k, v in value.items()]
            elif not isinstance(value, list):
                value = [value]
        defaults[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML or JSON file with values for these options; flags win over the file.",
)
agent_option = click.option(
    "--agent-option",
    "agent_options",
    metavar="KEY=VALUE",
    multiple=True,
    help="Option of the agent, e.g. checkpoint=runs/demo/checkpoints/last. Repeatable.",
)


def env_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--env, --env-option and --split."""
    for decorator in (
        click.option("--split", default=None, help="Which questions: train, dev or test."),
        click.option(
            "--env-option",
            "env_arguments",
            metavar="KEY=VALUE",
            multiple=True,
            help="Argument of the environment, e.g. top_k=5, hops=[2,3], corpus=path/to/folder. Repeatable.",
        ),
        click.option("--env", "env_id", default="SearchQA-v0", show_default=True, help="Environment id."),
    ):
        function = decorator(function)
    return function
