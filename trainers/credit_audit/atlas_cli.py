"""`searchgym credit atlas`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import Console, say, text
from searchgym.cli.options import AGENT, ENVIRONMENT, JUDGE, OUTPUT
from searchgym.errors import MissingExtraError

__all__ = ["atlas"]


@click.command("atlas", cls=Command)
@option(
    "--trainer",
    "trainers",
    multiple=True,
    group=AGENT,
    show_default="all registered",
    help="Trainer to audit: a registered name or file.py:Class. Repeatable.",
)
@option(
    "--family",
    "families",
    multiple=True,
    group=ENVIRONMENT,
    show_default="all",
    help="Family of the corpus forks. Repeatable.",
)
@option(
    "--questions",
    type=click.IntRange(1),
    default=25,
    show_default=True,
    group=ENVIRONMENT,
    help="Number of questions of each family.",
)
@option(
    "--group-size",
    type=click.IntRange(2),
    default=8,
    show_default=True,
    group=ENVIRONMENT,
    help="Episodes per question.",
)
@option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, group=ENVIRONMENT, help="Random seed."
)
@option(
    "--method",
    type=click.Choice(["exact", "monte-carlo"]),
    default="exact",
    show_default=True,
    group=ENVIRONMENT,
    help="Enumerate every state, or continue from restored states: faster, and without the true gradient.",
)
@option(
    "--error",
    type=float,
    default=0.1,
    show_default=True,
    group=ENVIRONMENT,
    help="Standard error of an advantage where values are estimated.",
)
@option(
    "--iterations",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    group=AGENT,
    help="Audit policies after half and all of this many iterations of grpo, too; 0: the initial policy alone.",
)
@option(
    "--judge",
    "judges",
    multiple=True,
    default=("rules",),
    group=JUDGE,
    show_default="rules",
    help="Judge besides the oracle, for the trainers that read verdicts. Repeatable.",
)
@option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    group=OUTPUT,
    help="Directory for atlas.md, atlas.json and the plots. Families that are in atlas.json already are not audited again.",
)
def atlas(
    trainers: tuple[str, ...],
    families: tuple[str, ...],
    questions: int,
    group_size: int,
    seed: int,
    method: Any,
    error: float,
    iterations: int,
    judges: tuple[str, ...],
    out: Path,
) -> None:
    """Audit every trainer's credit on every family of the corpus forks, with the candidate policy.

    Repeats it for policies that have trained, with a part of the verdicts flipped, and with another judge. Values of episodes that a trainer plays itself and that cannot be enumerated are estimated.
    """
    try:
        import torch
    except ModuleNotFoundError as missing:
        raise MissingExtraError("searchgym credit atlas", "torch", "train") from missing
    from .atlas import AtlasSettings, make_atlas

    torch.set_num_threads(1)
    console = Console(stderr=True)
    with console.status("atlas") as status:
        written = make_atlas(
            AtlasSettings(trainers, families, questions, group_size, seed, method, error, iterations, judges),
            out,
            "searchgym " + shlex.join(sys.argv[1:]),
            lambda doing: status.update(text(f"atlas: {doing}")),
        )
    say("written: " + ", ".join(map(str, written)))
