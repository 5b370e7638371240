"""The acts of an environment as tools: JSON schemas, Python functions with signatures, and acts read from tool calls."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from ..dialects import Dialect, get_dialect
from ..dialects.calls import CallError, call_arguments, text_argument
from ..records.acts import Act
from .config import EnvConfig

__all__ = ["act_of_call", "tool_functions", "tool_instructions", "tool_schemas", "unwrapped"]


def tool_schemas(config: EnvConfig) -> list[dict[str, Any]]:
    """The tools of an environment in JSON-schema form, as chat templates and servers take them.

    They are `search` and `answer`, and `feedback` where the environment offers it, whatever its dialect.

    Args:
        config: the environment's arguments.
    """
    dialect: Any = get_dialect("tools", config.corpus_description)
    schemas: list[dict[str, Any]] = dialect.tools(
        feedback=config.has_feedback, max_queries=config.max_queries
    )
    return schemas


def tool_functions(
    config: EnvConfig, play: Callable[[Any, str, dict[str, Any]], str]
) -> dict[str, Callable[..., str]]:
    """The tools as Python functions, for frameworks that read signatures, type hints and Google-style docstrings.

    Args:
        config: the environment's arguments.
        play: called with a function's first argument, the tool's name and the arguments of the call; returns what the
            model reads.

    Returns:
        By name, functions `(self, value) -> str`: methods for a class, or to be bound to an object.
    """
    return {
        tool["function"]["name"]: _function(tool["function"], config.max_queries, play)
        for tool in tool_schemas(config)
    }


def tool_instructions(config: EnvConfig) -> str:
    """The system prompt for a model whose tools are listed by its chat template or server: without the list.

    Args:
        config: the environment's arguments.
    """
    dialect: Any = get_dialect("tools", config.corpus_description)
    offered = {"feedback": config.has_feedback, "max_queries": config.max_queries}
    return str(dialect.system_prompt(**offered)).replace(dialect.tool_section(**offered), "")


def act_of_call(config: EnvConfig, name: str, arguments: Mapping[str, Any] | str) -> Act:
    """The act of a tool call that a server or a framework has parsed.

    Args:
        config: the environment's arguments.
        name: name of the tool.
        arguments: its arguments, or their JSON text. Numbers and booleans are read as texts.

    Returns:
        The act for `SearchEnv.play`; the kind is "invalid" for an unknown tool or arguments that cannot be read.
    """
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tool_schemas(config)}
    if name not in parameters:
        return Act("invalid", error="unknown_tool", reason=f"{str(name)[:40]!r}")
    (key,) = parameters[name]["required"]
    try:
        # As JSON text, because numbers are then read as the model wrote them.
        given = call_arguments(arguments if isinstance(arguments, str) else json.dumps(dict(arguments)))
        if given is None:
            raise CallError("'arguments' is not an object")
        values = text_argument(given, key, several=name == "search")
    except CallError as error:
        return Act("invalid", error="malformed_call", reason=str(error))
    except (TypeError, ValueError):
        return Act("invalid", error="malformed_call", reason="'arguments' is not JSON")
    if name == "search":
        return Act("search", queries=tuple(values))
    return Act("answer", answer=values[0]) if name == "answer" else Act("feedback", draft=values[0])


def unwrapped(dialect: Dialect, observation: str) -> str:
    """An observation without the text that a dialect puts around it, such as `<tool_response>`.

    Chat templates and servers write that text themselves around what a tool returns.

    Args:
        dialect: the environment's dialect; its attribute `response`, if it has one, is the text before and after.
        observation: from `step` or `play`.
    """
    before, after = getattr(dialect, "response", ("", ""))
    return observation.removeprefix(before).removesuffix(after)


def _function(
    schema: dict[str, Any], max_queries: int, play: Callable[[Any, str, dict[str, Any]], str]
) -> Callable[..., str]:
    name = schema["name"]
    ((key, value),) = schema["parameters"]["properties"].items()
    hint: Any = list[str] if value["type"] == "array" else str
    described = value.get("items", value)["description"] + (
        f", at most {max_queries}" if hint is not str else ""
    )

    def tool(self: Any, *args: Any, **kwargs: Any) -> str:
        given = signature.bind(self, *args, **kwargs).arguments
        return play(self, name, {key: given[key]})

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter("self", positional), inspect.Parameter(key, positional, annotation=hint)]
    )
    tool.__name__ = tool.__qualname__ = name
    tool.__signature__ = signature  # type: ignore[attr-defined]
    tool.__annotations__ = {
        key: hint
    }  # no result: the schema that transformers reads then equals `tool_schemas`
    tool.__doc__ = f"{schema['description']}\n\nArgs:\n    {key}: {described}"
    return tool
