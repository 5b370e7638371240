"""`searchgym import`: rollouts that other projects recorded become an episode file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from ..errors import EpisodeFileError
from ..importing import LAYOUTS, Imported, SourceReport, import_rollouts, report
from ..records.episode import check_writable, save_episodes
from ..specs import open_corpus
from .command import Command, option
from .console import Console, say
from .options import SPEC_HELP, read_spec

__all__ = ["import_", "show_imported"]

_SHOWN_ROWS = 10  # of those that were skipped for one reason


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@option("--out", required=True, type=click.Path(path_type=Path), help="The episode file to write (JSONL).")
@option(
    "--format",
    "layout",
    type=click.Choice(list(LAYOUTS)),
    show_default="recognised row by row",
    help="Whose file FILE is.",
)
@option(
    "--corpus",
    metavar="SPEC",
    help=f"Corpus that holds the questions, their gold passages, and gold answers that FILE lacks. {SPEC_HELP}",
)
@option("--json", "as_json", is_flag=True, help="Print the counts as one line of JSON.")
def import_(file: Path, out: Path, layout: str | None, corpus: str | None, as_json: bool) -> None:
    """Make an episode file of rollouts that another project recorded.

    FILE is what verl, TRL, verifiers, SkyRL, R1-Searcher, ReAct, FireAct or Reflexion wrote. The episodes are scored here, and
    what the record itself claims is compared with that. Every row that is not used is counted with its reason. `searchgym
    judge audit --from`, `rescore`, `stats` and `view` take the file.
    """
    check_writable(out)
    opened = open_corpus(read_spec(corpus)) if corpus is not None else None
    imported = import_rollouts(file, opened, layout)
    if imported.episodes:
        save_episodes(out, imported.episodes)
    sources = report(imported)
    if as_json:
        counts = {"episodes": len(imported.episodes), "skipped": len(imported.skipped)}
        data = {**counts, "reasons": imported.reasons, "sources": [asdict(one) for one in sources]}
        click.echo(json.dumps(data))
    else:
        show_imported(Console(), imported, sources)
    if not imported.episodes:
        raise EpisodeFileError(
            f"no row of {file} became an episode, and {out} was not written: see the reasons above; gold answers that "
            "the file lacks come from --corpus"
        )
    say(f"wrote {len(imported.episodes)} episodes to {out}")


def show_imported(console: Console, imported: Imported, sources: Sequence[SourceReport]) -> None:
    """Print what was imported from each source, and why rows were not used.

    Args:
        console: where to print.
        imported: the contents of a file.
        sources: `searchgym.importing.report` of it.
    """
    console.print(_source_table(sources))
    lines = [f"{number:>3}  {one.source} ({one.format})" for number, one in enumerate(sources, 1)]
    lines += _skipped_lines(imported)
    console.print("\n".join(lines), soft_wrap=True)


def _source_table(sources: Sequence[SourceReport]) -> Table:
    table = Table(title="recorded rollouts: agreement with the record, and what the searches returned")
    columns = ("rows", "used", "searches", "answers", "EM", "matched", "new gold", "new answer")
    for column in ("", *columns):
        table.add_column(column, justify="right")
    for number, one in enumerate(sources, 1):
        table.add_row(
            str(number),
            str(one.rows),
            str(one.imported),
            _of(one.searches_agree, one.searches_agree_of),
            _of(one.answers_agree, one.answers_agree_of),
            _of(one.em_agree, one.em_agree_of),
            str(one.matched),
            _of(one.new_gold, one.matched_searches),
            _of(one.new_answer, one.answer_searches),
        )
    return table


def _skipped_lines(imported: Imported) -> list[str]:
    """One line for all rows of a source that were skipped for the same reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for skipped in imported.skipped:
        groups.setdefault((skipped.source, skipped.reason), []).append(skipped.row)
    lines = []
    for (source, reason), rows in groups.items():
        more = len(rows) - _SHOWN_ROWS
        shown = ", ".join(rows[:_SHOWN_ROWS]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"not used: {source}, rows {shown}: {reason}")
    return lines


def _of(count: int, total: int) -> str:
    return f"{count}/{total}" if total else "-"
