"""The progress bar of every command."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar"]


def progress_bar(
    *columns: ProgressColumn, console: Console | None = None, transient: bool = True
) -> Progress:
    """A progress bar; it shows nothing where its console is not a terminal.

    Args:
        columns: what follows the description and the bar; by default the count and the remaining time.
        console: where to draw; by default standard error, so that standard output holds results only.
        transient: whether the bar disappears at the end.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *(columns or (MofNCompleteColumn(), TimeRemainingColumn())),
        console=console or Console(stderr=True),
        transient=transient,
    )
