"""`searchgym credit structure`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from searchgym.cli.command import Command, option
from searchgym.cli.console import Console, say
from searchgym.cli.options import AGENT, ENVIRONMENT, OUTPUT, agent_option, parse_pairs
from searchgym.errors import MissingExtraError, UnknownIdError

__all__ = ["structure"]

_COLUMNS = {
    "EM": "value",
    "rounds": "rounds",
    "forks": "fork_share",
    "recoverable": "recoverability",
    "decisive round": "decisive_round",
    "its share": "decisive_share",
    "by searches": "search_share",
    "searches of right answers": "right_searches",
    "evidence": "evidence_share",
    "credited": "credited_share",
}


@click.command("structure", cls=Command)
@click.argument("families", nargs=-1)
@option(
    "--parameter",
    "parameters",
    metavar="KEY=VALUE",
    multiple=True,
    group=ENVIRONMENT,
    help="Parameter of the family, e.g. idle=8. Repeatable.",
)
@option(
    "--style",
    type=click.Choice(["terse", "natural"]),
    default="terse",
    show_default=True,
    group=ENVIRONMENT,
    help="Rendering of pages and questions.",
)
@option("--split", default="dev", show_default=True, group=ENVIRONMENT, help="Split of the questions.")
@option(
    "--questions",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    group=ENVIRONMENT,
    help="Number of questions of each family.",
)
@agent_option
@option(
    "--max-states",
    type=click.IntRange(1),
    default=300_000,
    show_default=True,
    group=AGENT,
    help="States of a family's questions at most.",
)
@option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    group=OUTPUT,
    help="Also write the figures to this file.",
)
def structure(
    families: tuple[str, ...],
    parameters: tuple[str, ...],
    style: str,
    split: str,
    questions: int,
    agent_options: tuple[str, ...],
    max_states: int,
    json_path: Path | None,
) -> None:
    """What FAMILIES of the corpus forks are made of, by enumeration; default: all.

    How often forks occur, how recoverable a wrong turn is, which round decides the outcome and how much of its variance it
    explains, under the candidate policy. By default it starts with start=lookup and memory=false; --agent-option changes that.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym credit structure", "torch", "train") from error
    from searchgym.agents.candidate import CandidateAgent
    from searchgym.corpora.forks import FAMILIES
    from searchgym.env.vector import make_vec
    from searchgym.files import write_text
    from searchgym.rollouts.collection import agent_context_of

    from .structure import measure_structure

    for family in families:
        if family not in FAMILIES:
            raise UnknownIdError("family", family, FAMILIES)
    given = parse_pairs("--parameter", parameters)
    options = {"start": "lookup", "memory": False, **parse_pairs("--agent-option", agent_options)}
    found: dict[str, Any] = {}
    console = Console(stderr=True)
    for family in families or FAMILIES:
        corpus = {"name": "forks", "family": family, "style": style, **given}
        envs = make_vec("SearchQA-Forks-v0", 128, corpus=corpus, split=split, autoreset_mode="Disabled")
        policy = CandidateAgent(**options)
        policy.bind(agent_context_of(envs.config))
        with console.status(f"structure: {family}"):
            measured = measure_structure(policy, envs, envs.task_ids()[:questions], max_states=max_states)
        found[family] = measured.to_json()
    table = Table(title=f"What the families are made of ({questions} {split} questions each)")
    table.add_column("family", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for family, figures in found.items():
        table.add_row(family, *(_cell(figures[key]) for key in _COLUMNS.values()))
    Console().print(table)
    if json_path is not None:
        write_text(json_path, json.dumps(found, indent=1) + "\n")
        say(f"written: {json_path}")


def _cell(value: float | int | None) -> str:
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"
