"""`searchgym corpus from-graph`: questions by random walks through a knowledge graph."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import say
from searchgym.errors import ConfigError

from ..graph.building import WalkOptions, questions_from_graph
from ..indexing.backend import shown_progress

__all__ = ["from_graph"]

_DEFAULT = WalkOptions()


@click.command("from-graph", cls=Command)
@click.argument("graph", type=click.Path(path_type=Path))
@option(
    "--out", type=click.Path(path_type=Path), required=True, help="Directory of the corpus; new or empty."
)
@option("--train", default=_DEFAULT.train, show_default=True, help="Questions of the split train.")
@option("--dev", default=_DEFAULT.dev, show_default=True, help="Questions of the split dev.")
@option("--test", default=_DEFAULT.test, show_default=True, help="Questions of the split test.")
@option(
    "--hops",
    default="{}-{}".format(*_DEFAULT.hops),
    show_default=True,
    help="Hops of a question: a number, or the least and the most.",
)
@option(
    "--obscure/--exact",
    default=True,
    show_default=True,
    help="Describe the start of a walk by classes of values, such as a decade, or by the values.",
)
@option(
    "--labels",
    type=click.Path(path_type=Path),
    multiple=True,
    help="TSV file of names for the identifiers in GRAPH: identifier, name, aliases. Repeatable.",
)
@option("--seed", default=_DEFAULT.seed, show_default=True, help="Random seed.")
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def from_graph(
    graph: Path, out: Path, hops: str, labels: tuple[Path, ...], as_json: bool, **drawn: Any
) -> None:
    """Create a corpus of multi-hop questions by random walks through a graph.

    GRAPH is a file of triples (.tsv, .jsonl, .parquet), or a corpus directory whose passages have links. Each question has
    exactly one answer in the graph, gold passages and gold sub-queries.
    """
    bounds = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", hops)
    if bounds is None:
        raise ConfigError(f"hops is {hops!r}: give a number like 5, or a range like 5-9")
    low, high = int(bounds[1]), int(bounds[2] or bounds[1])
    options = WalkOptions(hops=(low, high), **drawn)
    with shown_progress() as progress:
        questions_from_graph(graph, out, options, labels=labels, progress=progress)
    card = json.loads((out / "card.json").read_text("utf-8"))
    if as_json:
        click.echo(json.dumps(card))
        return
    dropped = "; ".join(f"{reason}: {count:,}" for reason, count in card["notes"].items())
    say(
        f"{out}: {card['questions']:,} questions over {card['passages']:,} passages, of {card['triples']:,} triples, "
        f"{card['nodes']:,} nodes and {card['relations']:,} relations" + (f" ({dropped})" if dropped else "")
    )
