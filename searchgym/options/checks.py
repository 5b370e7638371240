"""Checks of argument values. Each returns the value or raises one `ConfigError`: the name, the value, the next move.

`name` is the argument as the message should name it, with its owner where that helps: "judge 'llm': timeout".
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, did_you_mean

__all__ = ["boolean", "check_count", "choice", "integer", "mapping", "number", "plain", "text"]


def integer(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """A whole number from `low` to `high`, both included; True and False are not numbers.

    Raises:
        ConfigError: `value` is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and _within(value, low, high):
        return value
    raise ConfigError(f"{name} is {value!r:.120}: give a whole number{_range(low, high)}")


def number(
    name: str,
    value: object,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
) -> float:
    """A finite number from `low` to `high`, both included, or greater than `above`, as a float.

    Raises:
        ConfigError: `value` is something else.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if real and math.isfinite(value) and _within(value, low, high) and (above is None or value > above):  # type: ignore[arg-type,operator]
        return float(value)  # type: ignore[arg-type]
    if above is None:
        bounds = _range(low, high)
    else:
        bounds = f" above {above:g}" + ("" if high is None else f", at most {high:g}")
    kind = "number" if not real or math.isfinite(value) else "finite number"  # type: ignore[arg-type]
    raise ConfigError(f"{name} is {value!r:.120}: give a {kind}{bounds}")


def boolean(name: str, value: object) -> bool:
    """True or False.

    Raises:
        ConfigError: `value` is something else.
    """
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} is {value!r:.120}: give true or false")


def text(name: str, value: object) -> str:
    """A string.

    Raises:
        ConfigError: `value` is something else.
    """
    if isinstance(value, str):
        return value
    raise ConfigError(f"{name} is {value!r:.120}: give a string")


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """One of the allowed strings.

    Raises:
        ConfigError: `value` is something else; suggests the nearest one.
    """
    if isinstance(value, str) and value in allowed:
        return value
    near = did_you_mean(value, allowed) if isinstance(value, str) else ""
    raise ConfigError(f"{name} is {value!r:.120}: use one of {', '.join(allowed)}{near and '.' + near}")


def mapping(name: str, value: object) -> dict[str, Any]:
    """A mapping whose keys are strings, as a dict.

    Raises:
        ConfigError: `value` is something else.
    """
    if isinstance(value, Mapping):
        found: dict[str, Any] = plain(name, value)
        if all(isinstance(key, str) for key in found):
            return found
    raise ConfigError(f'{name} is {value!r:.120}: give a mapping like {{"option": value}}')


def plain(name: str, value: Any) -> Any:
    """A value whose mappings are dicts and whose lists are lists, e.g. from a `DictConfig` of OmegaConf (Hydra).

    Tuples, strings and live objects stay as they are; a path becomes a string.

    Raises:
        ConfigError: a mapping or list cannot be read, e.g. because a value of OmegaConf is missing.
    """
    try:
        if isinstance(value, Mapping):
            return {key: plain(name, one) for key, one in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | tuple):
            return [plain(name, one) for one in value]
    except ConfigError:
        raise
    except Exception as error:  # of another library: interpolations, missing values
        raise ConfigError(f"{name} cannot be read: {error}") from error
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def check_count(name: str, value: object, least: int) -> None:
    """`integer`, for callers that do not need the value."""
    integer(name, value, least)


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f" of at most {_written(high)}"
    return f" of at least {_written(low)}" if high is None else f" from {_written(low)} to {_written(high)}"


def _written(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
