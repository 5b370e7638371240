"""`searchgym bench`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import say
from searchgym.cli.options import parse_pairs
from searchgym.errors import ConfigError, MissingExtraError

from .spec import BUDGETS, SHIPPED, load_spec, restrict

__all__ = ["bench"]

_CONTENT, _EXECUTION = "Rows, seeds and budget", "Execution"


@click.command("bench", cls=Command)
@click.argument("spec", default="seconds")
@option(
    "--compare",
    nargs=2,
    metavar="A B",
    group=_CONTENT,
    help="Run only rows A and B, compare A with B, and print a verdict.",
)
@option(
    "--only",
    multiple=True,
    metavar="ROW",
    group=_CONTENT,
    help="Run only this row and the baseline. Repeatable.",
)
@option(
    "--seeds",
    type=click.IntRange(min=1),
    group=_CONTENT,
    help="Final runs per row, in place of the number in the spec.",
)
@option(
    "--selection-seeds",
    type=click.IntRange(min=0),
    group=_CONTENT,
    help="Runs per learning rate (0: no selection; use the middle rate).",
)
@option(
    "--budget",
    metavar="UNIT=N",
    group=_CONTENT,
    help=f"Budget of each run in {', '.join(BUDGETS[:-1])} or {BUDGETS[-1]}, e.g. episodes=2048.",
)
@option(
    "--train",
    "train_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    group=_CONTENT,
    help="Training option of all rows. Repeatable.",
)
@option(
    "--out",
    type=click.Path(path_type=Path),
    group=_EXECUTION,
    show_default="runs/bench-NAME",
    help="Directory of the benchmark.",
)
@option(
    "--processes",
    type=click.IntRange(min=1),
    group=_EXECUTION,
    show_default="number of cores",
    help="Runs to execute in parallel, one thread each.",
)
@option(
    "--minutes",
    type=float,
    group=_EXECUTION,
    help="Start no new run after this many minutes; repeat the command to continue.",
)
@option(
    "--estimate",
    is_flag=True,
    group=_EXECUTION,
    help="Measure a few iterations of each row, estimate the total time, and exit.",
)
@option(
    "--select-only",
    is_flag=True,
    group=_EXECUTION,
    help="Only select the learning rates, on dev questions; no test question is used.",
)
@option(
    "--report-only",
    is_flag=True,
    group=_EXECUTION,
    help="Write the report of the finished runs without starting any.",
)
@option(
    "--fidelity",
    "fidelity_paths",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    group=_EXECUTION,
    help="Relate learning speed to fidelity of credit measured elsewhere: results.json of a benchmark with an audit, or a directory of credit audits, ENVIRONMENT/…/audit.json. Repeatable.",
)
@option(
    "--rerun",
    is_flag=True,
    group=_EXECUTION,
    help="Repeat runs that were made with other code or another spec, instead of refusing them.",
)
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
    fidelity_paths: tuple[Path, ...],
    **changes: Any,
) -> None:
    """Compare trainers over many seeds under an equal budget.

    SPEC is a TOML or JSON file, or the name of a benchmark of the package: {shipped}.

    Finished runs are stored. After an interruption, the same command continues with the missing runs; runs made with
    different code are never mixed. Writes report.md, curves.png, curves.svg and results.json.
    """
    try:
        import torch  # noqa: F401  (report a missing extra before anything else)
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym bench", "torch", "train") from error
    from .campaign import Campaign, chosen_rates
    from .given_fidelity import read_fidelity
    from .report import selection_table, write_report
    from .results import analyse, compare_rows, selection

    wanted = _open(spec, compare, only, **changes)
    fidelity = None
    if fidelity_paths:
        rows = [row.label for row in wanted.rows]
        fidelity = read_fidelity(fidelity_paths, rows, wanted.environments)
    out = out or Path("runs") / f"bench-{wanted.name}"
    campaign = Campaign(wanted, out, processes or os.cpu_count() or 1, say)
    with campaign.open():
        complete = True
        if not report_only:
            campaign.clear_stale(rerun)
            campaign.estimate()
            if estimate:
                return
            complete = campaign.run(minutes, rerun, select_only)
        if not complete:
            say(f"time limit reached; finished runs are stored in {out}: repeat the command to continue")
        if select_only:
            rates = chosen_rates(wanted, out) or {}
            say(selection_table(wanted.to_json(), selection(wanted, out, rates)))
            return
        try:
            analysis = analyse(wanted, out, fidelity)
        except ConfigError:
            if complete:
                raise
            return  # no seed of the baseline is finished yet
        path = write_report(out, analysis, "searchgym " + " ".join(sys.argv[1:]))
    _show(analysis)
    if compare:
        say(compare_rows(wanted, out, *compare).in_words(*compare))
        for label in compare:
            for mark in analysis["rows"][label]["marks"]:
                say(f"{label}: {mark}")
    say(f"report: {path}")


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
    """The spec with the changes that the flags make."""
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
        raise ConfigError("--compare and --only exclude each other: leave out --only")
    if compare and compare[0] == compare[1]:
        raise ConfigError(f"--compare {' '.join(compare)} compares a row with itself: give two rows")
    labels = compare or (*only, spec.baseline) if compare or only else [row.label for row in spec.rows]
    baseline = compare[1] if compare else spec.baseline
    return restrict(dataclasses.replace(spec, **changes), labels, baseline)


def _show(analysis: dict[str, Any]) -> None:
    """Print the main table."""
    from rich.table import Table

    from searchgym.cli.console import Console

    table = Table(title=f"test EM, {analysis['spec']['name']}", caption="[95 % interval over seeds]")
    for name in ("row", "seeds", "test EM", "paired difference", "P(better)", "verdict"):
        table.add_column(name, justify="left" if name in ("row", "verdict") else "right")
    for label, row in analysis["rows"].items():
        mean, pair = row["mean"], row.get("against_baseline")
        cells = [label, str(row["seeds"]), f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"]
        if pair:
            d = pair["difference"]
            cells += [
                f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]",
                f"{pair['improvement']['value']:.2f}",
                pair["verdict"],
            ]
        table.add_row(*cells)
    Console().print(table)
