"""Reads a model's reply: only a JSON object with the prompt's own code and with numbers in range is a verdict.

Around it, prose, a code fence, other JSON and thoughts are accepted; of several valid objects the last counts. Never
accepted: another code or none, a missing number, a number outside [0, 1], true, "1", NaN, a duplicate key, an object
inside another one, invalid JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .prompt import Prompt

__all__ = ["UnreadableReplyError", "read_grade", "read_verdict"]

_LONGEST = 50_000  # characters of a reply that are read, counted from its end


class UnreadableReplyError(ValueError):
    """A reply without a verdict. The message says why; the model sees it when it is asked again."""


def read_verdict(reply: str, prompt: Prompt) -> tuple[float, float, str]:
    """(utility, reasoning, analysis) from the reply to a prompt of `round_prompt`.

    The utility of an answer round is always 0, as it retrieved nothing.

    Raises:
        UnreadableReplyError: the reply has no verdict.
    """
    found = _last(reply, prompt.code, ("reasoning", "utility"))
    return 0.0 if prompt.task == "answer" else found["utility"], found["reasoning"], found["analysis"]


def read_grade(reply: str, prompt: Prompt) -> tuple[float, str]:
    """(score, analysis) from the reply to a prompt of `grade_prompt`.

    Raises:
        UnreadableReplyError: the reply has no grade.
    """
    found = _last(reply, prompt.code, ("correct",))
    return found["correct"], found["analysis"]


def _last(reply: str, code: str, numbers: tuple[str, ...]) -> dict[str, Any]:
    """The last object of the reply that is a verdict; raises the fault of the last candidate if there is none."""
    problem = "it holds no JSON object"
    verdict: dict[str, Any] | None = None
    for value in _objects(reply[-_LONGEST:]):
        fault = _fault(value, code, numbers)
        if fault:
            problem = fault
        else:
            verdict = value
    if verdict is None:
        raise UnreadableReplyError(problem)
    analysis = verdict.get("analysis", "")
    return {
        "analysis": analysis if isinstance(analysis, str) else json.dumps(analysis),
        **{name: float(verdict[name]) for name in numbers},
    }


def _fault(value: dict[str, Any] | None, code: str, numbers: tuple[str, ...]) -> str:
    if value is None:
        return "its JSON object has a duplicate key or an invalid number"
    if value.get("code") != code:
        return f'its JSON object does not give "code": "{code}"'
    for name in numbers:
        if name not in value:
            return f'its JSON object lacks "{name}"'
        number = value[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            return f'"{name}" is not a number between 0 and 1'
    return ""


class _Refused(ValueError):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):  # parsers disagree on which one counts
        raise _Refused
    return value


def _no_constant(name: str) -> Any:
    raise _Refused(name)  # NaN and Infinity are not JSON


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _objects(text: str) -> Iterator[dict[str, Any] | None]:
    """The outermost JSON objects of a text, in order; None for one that is refused."""
    position = text.find("{")
    while position >= 0:
        try:
            value, position = _DECODER.raw_decode(text, position)
            yield value
        except _Refused:
            yield None
            position += 1
        except (ValueError, RecursionError):
            position += 1
        position = text.find("{", position)
