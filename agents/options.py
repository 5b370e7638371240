"""Constructors whose keyword arguments are the fields of a dataclass: declared, documented and checked in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from searchgym.errors import UnknownIdError

__all__ = ["read_options", "takes_options"]

T = TypeVar("T")


def read_options(owner: str, cls: type[T], options: Mapping[str, Any]) -> T:
    """Build an option dataclass from keyword arguments.

    Args:
        owner: what takes the options, as error messages name it: "agent 'hf'".
        cls: the dataclass; it checks its own values.
        options: by field name.

    Raises:
        UnknownIdError: an unknown option; suggests near names.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise UnknownIdError(f"option of {owner}:", name, known)
    return cls(**options)


def takes_options(options: type[Any]) -> Callable[[type[T]], type[T]]:
    """Class decorator for constructors that end in `**options`: their signature lists the fields of `options`.

    So `inspect.signature`, and with it every check of options by name, sees the arguments that really exist. The
    attribute `options_class` is `options`, whose docstring explains them.
    """

    def decorate(cls: type[T]) -> type[T]:
        own = [
            parameter
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        listed = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=field.type,
            )
            for field in fields(options)
        ]
        cls.options_class = options  # type: ignore[attr-defined]
        cls.__signature__ = inspect.Signature([*own, *listed])  # type: ignore[attr-defined]
        return cls

    return decorate
