"""`searchgym export`: episodes in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

import click

from ..records.question import PLAIN_DESCRIPTION
from ..tables.columns import LEVELS
from ..tables.episodes import Episodes
from ..tables.exporting import FORMATS, ExportOptions, export_episodes
from ..tables.training_rows import TRL_TYPES
from .command import Command, option
from .console import say

__all__ = ["export"]

_FORMAT, _ROWS = "Format", "Rows"


@click.command(cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("--to", type=click.Choice(list(FORMATS)), required=True, group=_FORMAT, help="What to write.")
@option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    group=_FORMAT,
    help="The file to write; a directory for hf and verifiers.",
)
@option("--force", is_flag=True, group=_FORMAT, help="Replace what is there, once the new file is complete.")
@option(
    "--level",
    type=click.Choice(LEVELS),
    default="episodes",
    show_default=True,
    group=_ROWS,
    help="What a row of parquet or csv is.",
)
@option(
    "--trl-type",
    type=click.Choice(TRL_TYPES),
    default="language-modeling",
    show_default=True,
    group=_ROWS,
    help="TRL's type of data set.",
)
@option("--successes", is_flag=True, group=_ROWS, help="Only episodes with an exact match.")
@option(
    "--corpus-description",
    metavar="TEXT",
    default=PLAIN_DESCRIPTION,
    show_default=True,
    group=_ROWS,
    help="How the system prompt of conversations (trl, verifiers) names the corpus.",
)
def export(files: tuple[Path, ...], to: str, out: Path, **options: bool | str) -> None:
    """Write saved episodes in the format of another tool.

    Reads the episodes of each FILE (JSONL) one at a time. The result is complete or absent; nothing is overwritten without
    --force.
    """
    done = export_episodes(Episodes(files), out, to, ExportOptions(**options))  # type: ignore[arg-type]
    rows = {"hf": "episodes", "verifiers": "episodes"}.get(to, "rows")
    say(f"{out}: {done.rows} {rows} from {done.episodes} episodes ({done.left_out} left out)")
