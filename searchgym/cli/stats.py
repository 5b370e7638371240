"""`searchgym stats`: why saved episodes failed."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from ..tables.episodes import Episodes
from ..tables.failures import CAUSES
from ..tables.statistics import FailureStats, failure_statistics
from .command import Command, option
from .console import Console

__all__ = ["stats"]


@click.command(cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option(
    "--examples", default=2, show_default=True, type=click.IntRange(0), help="Example ids for each cause."
)
@option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
def stats(files: tuple[Path, ...], examples: int, as_json: bool) -> None:
    """Show why saved episodes failed.

    Gives each episode of each FILE (JSONL) without an exact match one cause, and prints the causes with their shares, 95 %
    bootstrap intervals over questions, and ids of examples.
    """
    result = failure_statistics(Episodes(files), examples)
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        _print(Console(), result)


def _print(console: Console, result: FailureStats) -> None:
    console.print(
        f"{result.episodes} episodes of {result.questions} questions; {result.scored} scored, "
        f"{result.successes} with an exact match{'' if result.em is None else f' ({result.em})'}",
        soft_wrap=True,
    )
    table = Table()
    for column in ("cause", "episodes", "share", "examples"):
        table.add_column(column, justify="right" if column in ("episodes", "share") else "left")
    for cause, found in result.causes.items():
        share = "-" if found.share is None else str(found.share)
        table.add_row(cause, str(found.episodes), share, "\n".join(found.examples))
    console.print(table)
    for cause, found in result.causes.items():
        if found.episodes:
            console.print(f"{cause}: {CAUSES[cause]}", soft_wrap=True)
