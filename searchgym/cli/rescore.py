"""`searchgym rescore`: recompute the scores of saved episodes."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from ..records.episode import check_writable, load_episodes, save_episodes
from ..rollouts.evaluation import METRICS
from ..rollouts.rescoring import rescore as rescore_episode
from .command import Command, option
from .console import Console, say

__all__ = ["rescore"]


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the rescored episodes to this file, which may be FILE itself.",
)
def rescore(file: Path, out: Path | None) -> None:
    """Recompute the scores of saved episodes.

    Scores the episodes in FILE (JSONL) with the installed version of SearchGym. Prints the recorded and the recomputed
    mean of each metric and the number of episodes that changed. FILE is not modified unless it is also given as --out;
    it is then replaced atomically.
    """
    if out is not None:
        check_writable(out)
    episodes = list(load_episodes(file))
    outcomes = [rescore_episode(e) for e in episodes]
    table = Table()
    for column in ("metric", "recorded", "recomputed", "changed"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric in METRICS:
        counted = [
            (e.outcome, new)
            for e, new in zip(episodes, outcomes, strict=True)
            if metric != "recall" or e.gold.get("supporting_ids")  # else a recall is no measurement
        ]
        old = [getattr(recorded, metric) for recorded, _ in counted]
        new = [getattr(recomputed, metric) for _, recomputed in counted]
        mean = [f"{sum(v) / len(v):.4f}" if v else "-" for v in (old, new)]
        table.add_row(metric, *mean, str(sum(a != b for a, b in zip(old, new, strict=True))))
    console = Console()
    console.print(f"{file}: {len(episodes)} episodes", soft_wrap=True)
    console.print(table)
    if out is not None:
        for episode, outcome in zip(episodes, outcomes, strict=True):
            episode.outcome = outcome
        save_episodes(out, episodes)
        say(f"wrote {out}")
