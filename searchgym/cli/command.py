"""Click commands whose help pages list their options by topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["Command", "Group", "Option", "option"]

F = TypeVar("F", bound=Callable[..., Any])

_COLUMN = 28  # characters; a longer flag gets a line of its own
_GENERAL = "Options"


class Option(click.Option):
    """An option that is listed under a heading of the help page.

    Args:
        group: the heading. Options without one are listed last, under "Options".
    """

    def __init__(self, *arguments: Any, group: str = _GENERAL, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.group = group

    def make_metavar(self, ctx: click.Context) -> str:
        """INTEGER for a range of integers too: the bounds are listed after the help text."""
        return super().make_metavar(ctx).removesuffix(" RANGE")


def option(*flags: str, group: str = _GENERAL, **attributes: Any) -> Callable[[F], F]:
    """`click.option` with a heading; see `Option`."""
    return click.option(*flags, cls=Option, group=group, **attributes)


class Command(click.Command):
    """A command whose help page has one section per group of options, in order of declaration."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        # click keeps the help option of the first call: without this a call outside the group would lose -h.
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", _GENERAL), []).append(record)
        groups[_GENERAL] = groups.pop(_GENERAL, [])
        flags = [flag for rows in groups.values() for flag, _ in rows]
        width = max([len(flag) for flag in flags if len(flag) <= _COLUMN], default=_COLUMN)
        for heading, rows in groups.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl([(flag.ljust(width), text) for flag, text in rows], col_max=width)


class Group(click.Group):
    """A group whose subcommands are `Command`s."""

    command_class = Command
