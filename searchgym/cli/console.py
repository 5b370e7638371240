"""The console of every command: data is shown as text, never as markup or control sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ..errors import printable

__all__ = ["Console", "say", "text"]


class Console(rich.console.Console):
    """A console of rich on which strings are text: no markup, no emoji codes, no control characters.

    Style with the argument `style`, or with a `Text`. Beware of the places where rich reads markup whatever the console
    says (titles of panels, descriptions of progress bars, texts of spinners): pass `text(…)` there.

    Args:
        **options: see `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a string; replaces characters here so that widths are those of what is shown."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments to write; the last step before the terminal, so that nothing gets around it."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def text(value: object, style: str = "") -> Text:
    """Data as a text that rich does not read as markup.

    Args:
        value: what to show.
        style: of rich, e.g. "bold".
    """
    return Text(printable(str(value)), style=style)


def say(line: object, *, err: bool = False) -> None:
    """`click.echo` of a line that may hold text from outside.

    Args:
        line: what to print.
        err: print to standard error.
    """
    click.echo(printable(str(line)), err=err)
