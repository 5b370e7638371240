"""`searchgym bench`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from searchgym.cli.options import parse_pairs
from searchgym.errors import ConfigError, MissingExtraError

from .spec import BUDGETS, SHIPPED, load_spec, restrict

__all__ = ["bench"]


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", default="seconds")
@click.option(
    "--compare", nargs=2, metavar="A B", help="Only rows A and B, A against B, with a verdict in words."
)
@click.option("--only", multiple=True, metavar="ROW", help="Only this row and the baseline. Repeatable.")
@click.option("--seeds", type=click.IntRange(min=1), help="Final runs per row, instead of the spec's number.")
@click.option(
    "--selection-seeds", type=click.IntRange(min=0), help="Runs per learning rate; 0: take the middle rate."
)
@click.option(
    "--budget", metavar="UNIT=N", help=f"What each run gets: {', '.join(BUDGETS)}; e.g. episodes=2048."
)
@click.option(
    "--train",
    "train_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Training option of all rows. Repeatable.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The benchmark's directory. [default: runs/bench-NAME]"
)
@click.option(
    "--processes", type=click.IntRange(min=1), help="Runs at a time, one thread each. [default: cores]"
)
@click.option("--minutes", type=float, help="Begin no run after so many; the same command goes on later.")
@click.option(
    "--estimate", is_flag=True, help="Only measure a few iterations of each row and say how long it takes."
)
@click.option(
    "--select-only",
    is_flag=True,
    help="Only choose learning rates, on dev questions; no test question is played.",
)
@click.option("--report-only", is_flag=True, help="Write the report of what is there; run nothing.")
@click.option("--rerun", is_flag=True, help="Make runs of other code or another spec again; default: refuse.")
def bench(
    spec: str,
    compare: tuple[str, str] | None,
    only: tuple[str, ...],
    out: Path | None,
    processes: int | None,
    minutes: float | None,
    estimate: bool,
    select_only: bool,
    report_only: bool,
    rerun: bool,
    **changes: Any,
) -> None:
    """Compare trainers over many seeds under an equal budget.

    SPEC is a TOML or JSON file, or a benchmark of the package: {shipped}.

    Every run is sealed when it ends. Interrupted or killed, the same command goes on where it was; runs of other
    code are never mixed in. Writes report.md, curves.png and results.json.
    """
    try:
        import torch  # noqa: F401  (a missing extra is said before anything else)
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym bench", "torch", "train") from error
    from .campaign import Campaign, chosen_rates
    from .report import selection_table, write_report
    from .results import analyse, compare_rows, selection

    wanted = _open(spec, compare, only, **changes)
    out = out or Path("runs") / f"bench-{wanted.name}"
    campaign = Campaign(wanted, out, processes or os.cpu_count() or 1, click.echo)
    with campaign.open():
        complete = True
        if not report_only:
            campaign.clear_stale(rerun)
            campaign.estimate()
            if estimate:
                return
            complete = campaign.run(minutes, rerun, select_only)
        if not complete:
            click.echo(f"the time is up; the same command goes on: what is done is sealed in {out}")
        if select_only:
            rates = chosen_rates(wanted, out) or {}
            click.echo(selection_table(wanted.to_json(), selection(wanted, out, rates)))
            return
        try:
            analysis = analyse(wanted, out)
        except ConfigError:
            if complete:
                raise
            return  # not one seed of the baseline is there yet
        path = write_report(out, analysis, "searchgym " + " ".join(sys.argv[1:]))
    _show(analysis)
    if compare:
        click.echo(compare_rows(wanted, out, *compare).in_words(*compare))
        for label in compare:
            for mark in analysis["rows"][label]["marks"]:
                click.echo(f"{label}: {mark}")
    click.echo(f"report: {path}")


assert bench.help is not None
bench.help = bench.help.format(shipped=", ".join(SHIPPED))


def _open(
    name: str,
    compare: tuple[str, str] | None,
    only: tuple[str, ...],
    seeds: int | None,
    selection_seeds: int | None,
    budget: str | None,
    train_pairs: tuple[str, ...],
) -> Any:
    """The spec with what the flags change."""
    spec = load_spec(name)
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = seeds
    if selection_seeds is not None:
        changes["selection_seeds"] = selection_seeds
    if budget is not None:
        changes["budget"] = parse_pairs("--budget", (budget,))
    if train_pairs:
        changes["train"] = {**spec.train, **parse_pairs("--train", train_pairs)}
    if compare and only:
        raise ConfigError("--compare names the rows already: leave out --only")
    labels = compare or (*only, spec.baseline) if compare or only else [row.label for row in spec.rows]
    baseline = compare[1] if compare else spec.baseline
    return restrict(dataclasses.replace(spec, **changes), labels, baseline)


def _show(analysis: dict[str, Any]) -> None:
    """The main table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"test EM, {analysis['spec']['name']}", caption="[95 % interval over seeds]")
    for name in ("row", "seeds", "test EM", "paired difference", "P(better)", "verdict"):
        table.add_column(name, justify="left" if name in ("row", "verdict") else "right")
    for label, row in analysis["rows"].items():
        mean, pair = row["mean"], row.get("against_baseline")
        cells = [label, str(row["seeds"]), f"{mean['value']:.3f} \\[{mean['low']:.3f}, {mean['high']:.3f}]"]
        if pair:
            d = pair["difference"]
            cells += [
                f"{d['value']:+.3f} \\[{d['low']:+.3f}, {d['high']:+.3f}]",
                f"{pair['improvement']['value']:.2f}",
                pair["verdict"],
            ]
        table.add_row(*cells)
    Console().print(table, highlight=False)
