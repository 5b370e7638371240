"""`searchgym plot`: the learning curve of a run as a figure."""

from __future__ import annotations

from pathlib import Path

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import say
from searchgym.errors import ConfigError
from searchgym.figures import check_format, new_figure
from searchgym.records.episode import check_writable

from .curve import plot_run

__all__ = ["plot"]


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The figure; its suffix chooses the format: .png, .pdf or .svg.",
)
@option("--force", is_flag=True, help="Replace the figure if it exists.")
def plot(run: Path, out: Path, force: bool) -> None:
    """Draw the learning curve of a training run, finished or in progress.

    Shows the exact match of the sampled episodes of every iteration, that of the greedy evaluations with 95 % intervals,
    and the entropy. RUN is a run directory.
    """
    check_format(out)
    new_figure(1, 1)  # report a missing matplotlib first
    if out.exists() and not force:
        raise ConfigError(f"{str(out)!r} exists: choose another path, or replace it with --force")
    check_writable(out)
    plot_run(run, out)
    say(f"wrote {out}")
