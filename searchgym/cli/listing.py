"""The flags --list-agents, --list-judges, …: registered names, each with one line and its options."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import click

from ..errors import SearchGymError
from ..options import plugins
from .command import option
from .console import Console

__all__ = ["ListedOption", "describe_options", "listing_options", "summary"]

F = TypeVar("F", bound=Callable[..., Any])

_LISTS = "Lists"
_GROUPS = {
    "agents": "--agent NAME, options with --agent-option KEY=VALUE",
    "judges": "--judge NAME, options with --judge-option KEY=VALUE",
    "trainers": "searchgym train --trainer NAME, settings with --set KEY=VALUE",
    "corpora": '--corpus NAME, or JSON with options: {"name": NAME, "option": …}',
    "retrievers": '--retriever NAME, or JSON with options: {"name": NAME, "option": …}',
}
_ENTRY = re.compile(r"^(\s+)(\*{0,2}\w+(?:, \w+)*): (.*)$")


class ListedOption(NamedTuple):
    """An option of a registered part.

    Attributes:
        name: the name.
        default: as JSON; "" if the option is required.
        text: what it means; "" if that is not documented.
    """

    name: str
    default: str
    text: str


def summary(part: Any) -> str:
    """The first sentence of what a registered part says of itself.

    Args:
        part: a class, a factory function or an index backend.
    """
    documented = part if inspect.isclass(part) or inspect.isroutine(part) else type(part)
    document = inspect.getdoc(documented) or ""
    if document.startswith("See the module docstring"):
        document = inspect.getdoc(inspect.getmodule(documented)) or ""
    lines = document.split("\n\n")[0]
    first = re.split(r"(?<=[.!?])\s|; (?:see|the entry point) ", " ".join(lines.split()))[0].rstrip(".")
    return f"{first}." if first else "(not documented)"


def describe_options(group: str, part: Any) -> list[ListedOption]:
    """The options of a registered part, from its signature, its docstring and the dataclass that declares them.

    Args:
        group: "agents", "judges", "trainers", "corpora" or "retrievers".
        part: the registered object.
    """
    declared = getattr(part, "settings_class", None) or getattr(part, "options_class", None)
    texts = _documented(declared) if declared is not None else {}
    if group == "trainers":
        return [] if declared is None else [_of_field(field, texts) for field in dataclasses.fields(declared)]
    factory = part
    if not (
        inspect.isclass(part) or inspect.isroutine(part)
    ):  # an index backend declares its options in `settings`
        factory = getattr(part, "settings", part)
    parameters = list(inspect.signature(factory).parameters.values())
    if factory is part and group in ("judges", "retrievers"):
        parameters = parameters[1:]  # the corpus, which is not an option
    texts |= _documented(factory)
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        ListedOption(p.name, "" if p.default is p.empty else _shown(p.default), texts.get(p.name, ""))
        for p in parameters
        if p.kind in kinds
    ]


def listing_options(function: F) -> F:
    """--list-agents and so on; each prints its list and ends the command."""
    for group in reversed(_GROUPS):
        function = option(
            f"--list-{group}",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_list,
            group=_LISTS,
            help=f"Show the registered {group} with their options and exit.",
        )(function)
    return function


def _print_list(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    group = str(parameter.name).removeprefix("list_")
    console = Console(soft_wrap=True)
    console.print(f"{group} ({_GROUPS[group]})")
    for name in plugins.names(group):
        console.print(f"\n{name}", style="bold")
        for line in _lines(group, name):
            console.print(f"  {line}")
    ctx.exit()


def _lines(group: str, name: str) -> Iterator[str]:
    try:
        part = plugins.load(group, name)
        options = describe_options(group, part)
    except (SearchGymError, TypeError, ValueError) as error:  # the last two: a callable without a signature
        yield f"(cannot be described: {error})"
        return
    yield summary(part)
    for one in options:
        default = f" = {one.default}" if one.default else " (required)"
        yield f"  {one.name}{default}{'  ' if one.text else ''}{one.text}"


def _documented(owner: Any) -> dict[str, str]:
    """The entries of a docstring's section Args (Attributes for a dataclass), and the help texts of a dataclass's fields."""
    section = "Attributes:" if dataclasses.is_dataclass(owner) else "Args:"
    documents = [inspect.getdoc(owner)]
    if inspect.isclass(owner):
        documents.append(inspect.getdoc(owner.__init__) if owner.__init__ is not object.__init__ else None)
    texts: dict[str, str] = {}
    for document in filter(None, documents):
        texts |= _entries(document, section)
    for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        if text := field.metadata.get("help"):
            texts[field.name] = text
    return texts


def _entries(document: str, section: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    inside, indent, names = False, "", ""
    for line in document.split("\n"):
        if line and not line[0].isspace():
            inside, names = line.rstrip() == section, ""
        elif inside and (entry := _ENTRY.match(line)) and (not names or entry[1] == indent):
            indent, names = entry[1], entry[2]
            texts |= dict.fromkeys(names.split(", "), entry[3])
        elif inside and names and line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names.split(", ")}
    return texts


def _of_field(field: dataclasses.Field[Any], texts: dict[str, str]) -> ListedOption:
    if field.default is not dataclasses.MISSING:
        default = _shown(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        default = _shown(field.default_factory())
    else:
        default = ""
    return ListedOption(field.name, default, texts.get(field.name, ""))


def _shown(default: Any) -> str:
    return json.dumps(default, ensure_ascii=False, default=str)
