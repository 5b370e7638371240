"""Options that several commands share."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..env.config import check_names
from ..errors import ConfigError, UnknownIdError
from ..specs import Spec
from .command import option

__all__ = [
    "AGENT",
    "ENVIRONMENT",
    "JUDGE",
    "OUTPUT",
    "SPEC_HELP",
    "TAPE",
    "agent_option",
    "config_option",
    "env_arguments",
    "env_options",
    "judge_options",
    "judge_spec",
    "merge_pairs",
    "parse_pairs",
    "question_options",
    "read_config",
    "read_file",
    "read_spec",
    "sampling_options",
    "save_options",
    "tape_options",
]

F = TypeVar("F", bound=Callable[..., Any])

AGENT, ENVIRONMENT, JUDGE, OUTPUT = "Agent", "Environment", "Judge", "Output"
TAPE = "Recording and replay"
"""Headings of the help pages that several commands share."""

SPEC_HELP = 'A registered name, a path, or JSON like {"name": "hub", "corpus": "wiki-18"}.'


def read_spec(text: str, kind: str = "corpus") -> Spec:
    """The corpus or retriever that a command-line argument names: a registered name, a path, or JSON.

    Args:
        text: the argument.
        kind: what it names, for the error message.

    Raises:
        ConfigError: the text starts with "{" and is not a JSON object.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        spec: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{kind} {text!r} is not valid JSON: {error}") from None
    return spec


def parse_pairs(option: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Convert KEY=VALUE strings to a dict. A value that is valid JSON is parsed; any other value is a string.

    Args:
        option: the flag the pairs belong to, for the error message.
        pairs: the strings.

    Raises:
        ConfigError: a pair has no "=" or no key.
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
    """Read the top-level table of a TOML or JSON file.

    Raises:
        ConfigError: the file cannot be read, or its content is not a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"config file {path} is not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"config file {path} holds a {type(values).__name__}: give a table of option = value"
        )
    return values


def read_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the values of a file the command's defaults: flags override the file, a later file an earlier one.

    The table `recipe` describes the file itself and is not an option.
    """
    if path is None:
        return None
    values = read_file(path)
    values.pop("recipe", None)
    # Keys are the flags as --help shows them, without the leading dashes; "_" and "-" are equivalent.
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
    """Put the file's pairs first, so that a flag replaces only the file's pair with the same key."""
    name = str(parameter.name)
    if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return pairs
    return (*(ctx.default_map or {}).get(name, ()), *pairs)


def env_arguments(
    pairs: tuple[str, ...],
    *,
    corpus: str | None = None,
    retriever: str | None = None,
    record: str | None = None,
    replay: str | None = None,
) -> dict[str, Any]:
    """The environment's arguments from --env-option and the flags of single arguments.

    Args:
        pairs: the values of --env-option.
        corpus: the value of --corpus.
        retriever: the value of --retriever.
        record: the value of --record.
        replay: the value of --replay.

    Raises:
        UnknownIdError: the environment has no such argument.
        ConfigError: a pair is not KEY=VALUE, names an argument that has only its own flag, or repeats one.
    """
    arguments = parse_pairs("--env-option", pairs)
    check_names(arguments)
    for name in ("split", "record", "replay"):
        if name in arguments:
            raise ConfigError(f"--env-option {name}={arguments[name]}: use --{name} {arguments[name]}")
    for name, spec in (("corpus", corpus), ("retriever", retriever)):
        if spec is None:
            continue
        if name in arguments:
            raise ConfigError(f"--{name} and --env-option {name}=… exclude each other: give one of them")
        arguments[name] = read_spec(spec, name)
    return arguments | {n: path for n, path in (("record", record), ("replay", replay)) if path is not None}


def judge_spec(judge: str | None, pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """The argument of `open_judge` from --judge and --judge-option; None without --judge.

    Args:
        judge: the value of --judge.
        pairs: the values of --judge-option.

    Raises:
        ConfigError: a pair is not KEY=VALUE, names the judge itself, or is given without --judge.
    """
    options = parse_pairs("--judge-option", pairs)
    if judge is None:
        if pairs:
            raise ConfigError(f"--judge-option {pairs[0]} is given without a judge: name one with --judge")
        return None
    if "name" in options:
        raise ConfigError(f"--judge-option name={options['name']}: name the judge with --judge")
    return {"name": judge, **options}


config_option = option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="TOML or JSON file with values for these options; flags on the command line take precedence.",
)
agent_option = option(
    "--agent-option",
    "agent_options",
    metavar="KEY=VALUE",
    multiple=True,
    callback=merge_pairs,
    group=AGENT,
    help="Option of the agent, e.g. temperature=0.7; see --list-agents. Repeatable.",
)


def env_options(default_split: str | None = None) -> Callable[[F], F]:
    """--env, --corpus, --retriever, --env-option and --split, as the parameters `env_id`, `corpus`, `retriever`,
    `env_pairs` and `split`; `env_arguments` reads them.

    Args:
        default_split: the default of --split; None leaves it to the environment.
    """

    def decorate(function: F) -> F:
        for decorator in (
            option(
                "--split",
                default=default_split,
                show_default=True,
                group=ENVIRONMENT,
                help="Split of the questions: train, dev or test.",
            ),
            option(
                "--env-option",
                "env_pairs",
                metavar="KEY=VALUE",
                multiple=True,
                callback=merge_pairs,
                group=ENVIRONMENT,
                help="Argument of the environment, e.g. top_k=5 or hops=[2,3]. Repeatable.",
            ),
            option(
                "--retriever",
                metavar="SPEC",
                group=ENVIRONMENT,
                show_default="the environment's",
                help="Retriever: a registered name, the directory of a built index, or JSON.",
            ),
            option(
                "--corpus",
                metavar="SPEC",
                group=ENVIRONMENT,
                show_default="the environment's",
                help=f"Corpus of passages and questions. {SPEC_HELP}",
            ),
            option(
                "--env",
                "env_id",
                default="SearchQA-v0",
                show_default=True,
                group=ENVIRONMENT,
                help="Registered environment id.",
            ),
        ):
            function = decorator(function)
        return function

    return decorate


def question_options(group: str) -> Callable[[F], F]:
    """--episodes, --seed and --num-envs: which questions are played, and how many at a time.

    Args:
        group: heading of the help page.
    """

    def decorate(function: F) -> F:
        for decorator in (
            option(
                "--num-envs", default=64, show_default=True, group=group, help="Episodes played in parallel."
            ),
            option(
                "--seed",
                type=click.IntRange(0),
                group=group,
                show_default="the first of the split",
                help="Random seed that draws the questions.",
            ),
            option(
                "--episodes",
                type=click.IntRange(0),
                default=200,
                show_default=True,
                group=group,
                help="Number of questions each agent plays (0: the whole split).",
            ),
        ):
            function = decorator(function)
        return function

    return decorate


def save_options(function: F) -> F:
    """--save and --json: where the episodes and the result go, as the parameters `save` and `as_json`."""
    for decorator in (
        option("--json", "as_json", is_flag=True, group=OUTPUT, help="Print the result as one line of JSON."),
        option(
            "--save",
            type=click.Path(path_type=Path),
            group=OUTPUT,
            help="Write the episodes, with their verdicts, to this file (JSONL).",
        ),
    ):
        function = decorator(function)
    return function


def tape_options(function: F) -> F:
    """--record and --replay, as the parameters `record` and `replay`; `env_arguments` takes them."""
    for decorator in (
        option(
            "--replay",
            metavar="TAPE",
            group=TAPE,
            help="Answer retrieval and judge calls from this tape; no index or judge is opened.",
        ),
        option(
            "--record",
            metavar="TAPE",
            group=TAPE,
            help="Record every retrieval and judge call on this tape.",
        ),
    ):
        function = decorator(function)
    return function


def judge_options(function: F) -> F:
    """--judge and --judge-option, as the parameters `judge` and `judge_pairs`; `judge_spec` reads them."""
    for decorator in (
        option(
            "--judge-option",
            "judge_pairs",
            metavar="KEY=VALUE",
            multiple=True,
            callback=merge_pairs,
            group=JUDGE,
            help="Option of the judge, e.g. model=gpt-oss-120b; see --list-judges. Repeatable.",
        ),
        option("--judge", group=JUDGE, help="Registered judge: oracle, rules, llm, …"),
    ):
        function = decorator(function)
    return function


def sampling_options(group_size: int, least: int) -> Callable[[F], F]:
    """--questions, --group-size, --num-envs and --seed of commands that play groups of episodes.

    Args:
        group_size: the default.
        least: the smallest group.
    """

    def add(function: F) -> F:
        for decorator in (
            option(
                "--seed",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                group=ENVIRONMENT,
                help="Random seed.",
            ),
            option(
                "--num-envs",
                type=click.IntRange(1),
                default=256,
                show_default=True,
                group=ENVIRONMENT,
                help="Episodes played in parallel.",
            ),
            option(
                "--group-size",
                type=click.IntRange(least),
                default=group_size,
                show_default=True,
                group=ENVIRONMENT,
                help="Episodes per question.",
            ),
            option(
                "--questions",
                type=click.IntRange(1),
                default=64,
                show_default=True,
                group=ENVIRONMENT,
                help="Number of questions.",
            ),
        ):
            function = decorator(function)
        return function

    return add
