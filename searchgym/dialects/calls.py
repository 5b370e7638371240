"""The JSON of tool calls: written as chat templates write it, read as models and servers write it."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["CallError", "call_arguments", "json_text", "read_call", "text_argument"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_NESTING = 3  # JSON in a string in a string: seen from servers that encode what the model encoded

# A number is the text that the model wrote: 1218, 3.50, 1e3. Line breaks inside strings are read, as models write them.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)


class CallError(ValueError):
    """A call that cannot be read; the message is the reason, a clause."""


def json_text(value: Any) -> str:
    r"""JSON as chat templates write it: letters of any script stay as they are.

    `<` is written as an escape, so that no tag inside a value can end a call, and so are lone surrogates, which UTF-8 cannot
    hold.

    Args:
        value: a JSON value.
    """
    text = json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_call(body: str) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of a call `{"name": …, "arguments": {…}}`; numbers in them are strings.

    Args:
        body: its JSON. The whole call and its arguments may be JSON inside a string.

    Raises:
        CallError: the text is not JSON, or not a call.
    """
    try:
        call = _unwrapped(_DECODER.decode(body))
    except ValueError as error:
        detail = ""
        if isinstance(error, json.JSONDecodeError):
            detail = f": {error.msg.removesuffix(' at')} at character {error.pos}"
        raise CallError(f"it is not JSON{detail}") from None
    except RecursionError:
        raise CallError("it is not JSON: too deeply nested") from None
    if not isinstance(call, dict):
        raise CallError(f"it is {_kind(call)}, not an object")
    for key in ("name", "arguments"):
        if key not in call:
            raise CallError(f"it has no {key!r}")
    name, arguments = call["name"], call_arguments(call["arguments"])
    if not isinstance(name, str):
        raise CallError(f"'name' is {_kind(name)}, not a string")
    if arguments is None:
        raise CallError(f"'arguments' is {_kind(call['arguments'])}, not an object")
    return name, arguments


def call_arguments(arguments: Any) -> dict[str, Any] | None:
    """Arguments as an object, unwrapped where they are JSON inside a string; None if they are not an object.

    Args:
        arguments: a JSON value, or its text.
    """
    value = _unwrapped(arguments)
    return value if isinstance(value, dict) else None


def text_argument(arguments: dict[str, Any], key: str, *, several: bool) -> list[str]:
    """The text of an argument; `true` and `false` are read as the words that the model wrote.

    Args:
        arguments: the arguments of a call, from `read_call`.
        key: the argument.
        several: whether it may be a list of texts.

    Returns:
        The texts: one, unless the argument is a list.

    Raises:
        CallError: there is none, or it is not a text.
    """
    if key not in arguments:
        raise CallError(f"'arguments' has no {key!r}")
    value = arguments[key]
    values = value if several and isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str | bool):
            raise CallError(f"{key!r} {'holds' if one is not value else 'is'} {_kind(one)}, not a string")
    return [one if isinstance(one, str) else json.dumps(one) for one in values]


def _unwrapped(value: Any) -> Any:
    for _ in range(_NESTING):
        if not isinstance(value, str):
            break
        try:
            value = _DECODER.decode(value)
        except (ValueError, RecursionError):
            break
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names[type(value)]
