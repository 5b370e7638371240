"""The progress bar of every command."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from .console import Console, text

__all__ = ["progress_bar"]


class _Description(ProgressColumn):
    """What the bar is of, as text: rich's own column reads it as markup."""

    def render(self, task: Task) -> Text:
        return text(task.description)


def progress_bar(
    *columns: ProgressColumn, console: Console | None = None, transient: bool = True
) -> Progress:
    """A progress bar; it shows nothing where its console is not a terminal.

    Args:
        columns: what follows the description and the bar; by default the count and the remaining time.
        console: where to draw; by default standard error, so that standard output holds results only.
        transient: whether the bar disappears at the end.
    """
    console = console or Console(stderr=True)
    return Progress(
        _Description(),
        BarColumn(),
        *(columns or (MofNCompleteColumn(), TimeRemainingColumn())),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )
