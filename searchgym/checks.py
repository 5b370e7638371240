"""Checks of arguments that several parts share."""

from __future__ import annotations

from .errors import ConfigError

__all__ = ["check_count"]


def check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}: give a whole number of at least {least}")
