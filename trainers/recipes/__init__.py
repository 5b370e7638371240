"""Recipes: whole training runs as files. `searchgym train --recipe NAME`, `searchgym train --list-recipes`.

A recipe is a configuration file of `searchgym train` (its keys are fields of `TrainConfig`) with one more table,
`[recipe]`, that describes it: the fields of `About`. It opens with a comment that holds the command, what the run
needs, and how it departs from the paper it follows. Your own files work like those here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchgym.cli.options import read_file
from searchgym.errors import ConfigError, UnknownIdError

from ..config import TrainConfig, make_config, option, parse_settings

__all__ = ["RECIPES", "About", "Expected", "Recipe", "describe_recipe", "find_recipe", "load_recipe"]

_FOLDER = Path(__file__).parent
RECIPES = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))
"""Names of the recipes in the package."""


@dataclass(frozen=True)
class Expected:
    """What an episode is expected to be made of; times are estimated with it."""

    rounds: float = option(3.0, "rounds of an episode, the answer's included", low=1.0)
    prompt: int = option(400, "tokens of the system prompt and the question", low=1)
    act: int = option(150, "sampled tokens of a round", low=1)
    observation: int = option(500, "tokens of what a search returns", low=0)
    shared: float = option(
        0.0, "part of acts and search results that episodes of a group have in common", low=0.0, high=1.0
    )


@dataclass(frozen=True)
class About:
    """The table `[recipe]`."""

    title: str = option("", "what is trained, in a line")
    command: str = option("", "the exact command")
    hardware: str = option("", "what it is for: a name of estimate.HARDWARE, or CPU")
    gpus: int = option(1, "devices it is for", low=1)
    fsdp: bool = option(False, "whether they share the layers' weights, gradients and states")
    run: str = option("not run", "whether it was: date, machine and result, or 'not run'")
    needs: list[str] = field(default_factory=list, metadata={"help": "commands to get corpus and index"})
    expected: dict[str, Any] = option({}, "what an episode is expected to be made of: rounds, prompt, …")


@dataclass(frozen=True)
class Recipe:
    """A recipe, checked.

    Attributes:
        path: the file.
        about: its description.
        expected: what an episode is expected to be made of.
        values: the fields of `TrainConfig` it sets.
        config: the training run.
    """

    path: Path
    about: About
    expected: Expected
    values: dict[str, Any]
    config: TrainConfig


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe of the package by name, or a file of one's own.

    Raises:
        UnknownIdError: neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in RECIPES:
        return _FOLDER / f"{source}.toml"
    raise UnknownIdError("recipe", str(source), RECIPES, "It is not a file either.")


def describe_recipe(path: Path) -> tuple[About, Expected]:
    """The table `[recipe]` of a file; the defaults if it has none.

    Raises:
        ConfigError: not TOML or JSON, or a key or value of the table that cannot be used.
    """
    table = read_file(path).get("recipe", {})
    if not isinstance(table, dict):
        raise ConfigError(f"recipe in {path} is {table!r}: write a table [recipe]")
    about = parse_settings(About, table, f"key of [recipe] in {path}:")
    return about, parse_settings(Expected, about.expected, f"key of recipe.expected in {path}:")


def load_recipe(source: str | Path) -> Recipe:
    """Read and check a recipe; `training.api(load_recipe("tiny-cpu").config)` runs it.

    Args:
        source: name or path.

    Raises:
        UnknownIdError: neither a recipe of the package nor a file.
        ConfigError: not TOML or JSON, or a key or value that cannot be used.
    """
    path = find_recipe(source)
    about, expected = describe_recipe(path)
    values = {key.replace("-", "_"): value for key, value in read_file(path).items() if key != "recipe"}
    return Recipe(path, about, expected, values, make_config(values))
