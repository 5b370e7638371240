"""`searchgym corpus`: list, inspect, download, check and create corpora."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from searchgym.cli.command import Group, option
from searchgym.cli.console import Console, say
from searchgym.cli.options import read_spec
from searchgym.conformance import check_corpus
from searchgym.errors import CorpusError
from searchgym.options import plugins
from searchgym.records.question import Corpus, find_passage
from searchgym.scoring import sub_exact_match
from searchgym.specs import open_corpus

from ..datasets.hub import KNOWN, HubSet, find_set
from ..datasets.jsonl import JsonlCorpus
from ..datasets.packing import packed_size
from ..datasets.wikipedia import estimate_dump, import_dump
from ..indexing.backend import shown_progress
from ..indexing.cache import home
from ..indexing.disk import free_disk, human
from ..indexing.sealed import verify_directory
from .from_graph import from_graph

__all__ = ["corpus"]

_json = option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_SAMPLED = 20_000  # number of passages and questions that averages are computed from


@click.group(cls=Group)
def corpus() -> None:
    """List, inspect, download, check and create corpora."""


@corpus.command("list")
@_json
def list_corpora(as_json: bool) -> None:
    """List the registered corpora and the short names of data sets."""
    if as_json:
        known = [
            {"name": name, "repository": repository, "path": path, "what": what}
            for name, (repository, path, what) in KNOWN.items()
        ]
        click.echo(json.dumps({"corpora": plugins.names("corpora"), "hub": known}))
        return
    say(f"registered corpora: {', '.join(plugins.names('corpora'))}")
    table = Table("name", "content", "repository", title="data sets of the Hugging Face Hub with short names")
    for name, (repository, path, what) in KNOWN.items():
        table.add_row(name, what, f"{repository}:{path}" if path else repository)
    Console().print(table)


@corpus.command()
@click.argument("spec")
@_json
def info(spec: str, as_json: bool) -> None:
    """Describe a corpus: its size, its hash, and an example of each kind.

    SPEC is a registered name, a path, or JSON like {"name": "hub", "corpus": "wiki-18", "questions": "nq"}.
    """
    opened = open_corpus(read_spec(spec))
    facts = _facts(opened)
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = Table(show_header=False, title=opened.name)
    table.add_row("passages", f"{facts['passages']:,}")
    for split, count in facts["questions"].items():
        table.add_row(f"questions, {split}", f"{count:,}")
    if facts["questions"] and "questions_with_gold_passages" in facts:
        table.add_row("with gold passages", f"{facts['questions_with_gold_passages']:,}")
    for what in ("passages", "questions"):
        if facts.get(f"{what}_passed_over"):
            table.add_row(f"{what} skipped", f"{facts[f'{what}_passed_over']:,} (blank or unanswerable)")
    _add_notes(table, facts)
    table.add_row("hash", facts["hash"])
    if isinstance(facts.get("origin"), dict):
        for part in _origins(facts["origin"]):
            table.add_row("from", part)
    first = opened.passages[0]
    table.add_row("first passage", Text.assemble((f"{first.title}\n", "bold"), first.text[:200]))
    for split in opened.splits[:1]:
        question = opened.questions(split)[0]
        table.add_row("first question", f"{question.text}\n{' | '.join(question.answers)}")
    Console().print(table)


@corpus.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@option("--update", is_flag=True, help="Use the newest commit instead of the one that was used before.")
@option("--dry-run", is_flag=True, help="Show the sizes without downloading.")
@_json
def fetch(names: tuple[str, ...], update: bool, dry_run: bool, as_json: bool) -> None:
    """Download data sets of the Hugging Face Hub.

    NAME is a short name like wiki-18 or nq (see `searchgym corpus list`), or owner/name[@revision][:path]. The sizes are
    shown first, and a download that does not fit on the disk is refused. After an interruption, the same command
    continues. Downloaded data sets can be used without a network.
    """
    found = [find_set(name, update=update) for name in names]
    facts = [{**one.origin(), "size": one.size, "missing": one.missing} for one in found]
    if not as_json:
        for one in found:
            say(f"{one.label}: {_amount(one)}")
    for one, known in zip(found, facts, strict=True):
        if not dry_run:
            known["paths"] = [str(path) for path in one.fetch()]
            if not as_json:
                say("\n".join(known["paths"]))
    if as_json:
        click.echo(json.dumps(facts))


@corpus.command()
@click.argument("spec")
@_json
def check(spec: str, as_json: bool) -> None:
    """Check a corpus line by line and print statistics.

    Checks every line, the order of the passages, the ids and the gold passages of SPEC, which is a registered name, a
    path, or JSON. The first error is reported with its file, line and reason; the exit code is then 2. Lines that were
    skipped or read in another way than written are counted by reason.
    """
    with Console(stderr=True).status("checking"):
        if (Path(spec) / "manifest.json").is_file() and (problems := verify_directory(Path(spec))):
            raise CorpusError(f"{spec} is damaged: {'; '.join(problems)}. Create it again")
        opened = open_corpus(read_spec(spec))
        check_corpus(opened)
        facts = {**_facts(opened), **_statistics(opened)}
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = Table(show_header=False, title=f"{opened.name}: no errors")
    for name, value in facts.items():
        if isinstance(value, float):
            table.add_row(name.replace("_", " "), f"{value:.3g}")
        elif isinstance(value, int | str):
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else value)
    _add_notes(table, facts)
    Console().print(table)


@corpus.command("import-dump")
@click.argument("file", type=click.Path(path_type=Path))
@option(
    "--out", type=click.Path(path_type=Path), required=True, help="Directory of the corpus; new or empty."
)
@option("--words", default=100, show_default=True, help="Words per passage.")
@option("--keep-disambiguation", is_flag=True, help="Keep disambiguation pages.")
@option(
    "--disambiguation-template",
    "templates",
    multiple=True,
    help="Template that marks disambiguation pages, in addition to those of the English Wikipedia. Repeatable.",
)
@option(
    "--workers",
    type=int,
    show_default="number of cores",
    help="Number of processes that convert articles.",
)
@_json
def import_wikipedia(
    file: Path,
    out: Path,
    words: int,
    keep_disambiguation: bool,
    templates: tuple[str, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Create a corpus from a Wikipedia dump.

    Splits the articles of FILE (pages-articles.xml.bz2) into passages. The disk space needed is shown first. After an
    interruption, the same command continues.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if file.is_file() and not as_json:
        say(
            f"{file}: {human(file.stat().st_size)}; the passages need at most {human(estimate_dump(file, max(1, words)))} "
            f"({human(free_disk(out))} free)"
        )
    with shown_progress() as progress:
        import_dump(
            file,
            out,
            words=words,
            keep_disambiguation=keep_disambiguation,
            disambiguation_templates=templates,
            workers=workers,
            progress=progress,
        )
    card = json.loads((out / "card.json").read_text("utf-8"))
    if as_json:
        click.echo(json.dumps(card))
        return
    say(
        f"{out}: {card['passages']:,} passages of {card['articles']:,} articles; skipped {card['redirects']:,} redirects, "
        f"{card['disambiguation']:,} disambiguation pages, {card['other_namespaces']:,} pages of other namespaces and "
        f"{card['empty']:,} without text, of {card['pages']:,} pages; {card['failures']:,} could not be read"
    )


corpus.add_command(from_graph)


def _add_notes(table: Table, facts: dict[str, Any]) -> None:
    """One row for every reason for which lines were skipped or read in another way than written."""
    for what, notes in facts.get("notes", {}).items():
        for reason, count in notes.items():
            table.add_row(f"{what}: {reason}", f"{count:,}")


def _facts(opened: Corpus) -> dict[str, Any]:
    if isinstance(opened, JsonlCorpus):
        return opened.facts
    questions = {split: len(opened.questions(split)) for split in opened.splits}
    return {
        "name": opened.name,
        "hash": opened.hash,
        "passages": len(opened.passages),
        "questions": questions,
    }


def _statistics(opened: Corpus) -> dict[str, Any]:
    """Statistics of the first passages and questions."""
    passages = list(islice(opened.passages, _SAMPLED))
    words = [len(passage.text.split()) for passage in passages]
    facts: dict[str, Any] = {
        "words_per_passage": sum(words) / len(words),
        "longest_passage_in_words": max(words),
        "passages_without_title": sum(not passage.title for passage in passages),
        "identical_passages": len(passages) - len({(passage.title, passage.text) for passage in passages}),
    }
    gold = list(islice(_answered(opened), _SAMPLED))
    if gold:
        facts["answer_is_in_a_gold_passage"] = sum(gold) / len(gold)
    return facts


def _answered(opened: Corpus) -> Iterator[float]:
    """For each question with gold passages, unless its answer is yes or no: 1 if they contain an answer, else 0."""
    for split in opened.splits:
        for question in opened.questions(split):
            if question.supporting_ids and question.answers[0].lower() not in ("yes", "no"):
                gold = [find_passage(opened, id) for id in question.supporting_ids]
                text = "\n".join(f"{passage.title}\n{passage.text}" for passage in gold)
                yield sub_exact_match(text, question.answers)


def _amount(found: HubSet) -> str:
    files = f"{len(found.files)} file{'s' if len(found.files) > 1 else ''}, {human(found.size)}"
    if not found.missing:
        return f"{files}, downloaded"
    packed = packed_size((file.path, file.size) for file in found.files)
    return (
        f"{files}, {human(found.missing)} to download to {home()}, and up to {human(packed)} more on first use "
        f"({human(free_disk(home()))} free)"
    )


def _origins(origin: dict[str, Any]) -> Iterator[str]:
    for part in (origin.get("passages"), *origin.get("questions", [])):
        if isinstance(part, dict):
            yield f"{part['repository']}@{part['commit']}: {', '.join(part['files'])}"
        elif part:
            yield str(part)
