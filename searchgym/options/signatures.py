"""Options that are declared once, as fields of a dataclass, for functions and classes that take them as `**options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from ..errors import UnknownIdError

__all__ = ["check_known", "declared_options", "takes_options"]

_Callable = TypeVar("_Callable", bound=Callable[..., Any])


def declared_options(options: type) -> list[Field[Any]]:
    """The options that a dataclass declares: its fields with a default."""
    return [declared for declared in fields(options) if declared.default is not MISSING]


def takes_options(options: type) -> Callable[[_Callable], _Callable]:
    """Show the options of a dataclass in the signature of a function or class whose last parameter is `**options`.

    So `--help`, unknown-option errors and documentation find them where they look for parameters. An option that the
    function declares itself, e.g. with another default, keeps that declaration. The attribute `options_class` is `options`,
    whose fields explain them.

    Args:
        options: the dataclass.
    """

    def decorate(function: _Callable) -> _Callable:
        own = list(inspect.signature(function).parameters.values())[:-1]
        names = {parameter.name for parameter in own}
        shared = [
            inspect.Parameter(
                option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type
            )
            for option in declared_options(options)
            if option.name not in names
        ]
        function.options_class = options  # type: ignore[attr-defined]
        function.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        return function

    return decorate


def check_known(owner: str, options: type, given: dict[str, Any]) -> None:
    """Refuse options that a dataclass does not declare.

    Args:
        owner: the part whose options they are, as the message names it: "judge 'llm'".
        options: the dataclass.
        given: values by name.

    Raises:
        UnknownIdError: an unknown option; suggests the nearest one.
    """
    known = [option.name for option in declared_options(options)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UnknownIdError(f"option of {owner}:", unknown[0], known)
