"""`searchgym corpus`: what there is, what is in it, fetching it, checking it, making one from Wikipedia."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from searchgym import plugins
from searchgym.cli.options import read_spec
from searchgym.cli.play import shown
from searchgym.conformance import check_corpus
from searchgym.errors import CorpusError
from searchgym.question import Corpus, find_passage
from searchgym.scoring import sub_exact_match
from searchgym.specs import open_corpus

from ..datasets.hub import KNOWN, HubSet, find_set
from ..datasets.jsonl import JsonlCorpus
from ..datasets.packing import packed_size
from ..datasets.wikipedia import estimate_dump, import_dump
from ..indexing.backend import shown_progress
from ..indexing.cache import home, verify_directory
from ..indexing.disk import free_disk, human

__all__ = ["corpus"]

_HELP = {"help_option_names": ["-h", "--help"]}
_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
_SAMPLED = 20_000  # passages and questions looked at for averages


@click.group(context_settings=_HELP)
def corpus() -> None:
    """See which corpora and question sets there are, fetch, check and make them."""


@corpus.command("list", context_settings=_HELP)
@_json
def list_corpora(as_json: bool) -> None:
    """List the registered corpora and the data sets known by short names."""
    if as_json:
        known = [
            {"name": name, "repository": repository, "path": path, "what": what}
            for name, (repository, path, what) in KNOWN.items()
        ]
        click.echo(json.dumps({"corpora": plugins.names("corpora"), "hub": known}))
        return
    click.echo(f"registered corpora: {', '.join(plugins.names('corpora'))}")
    table = Table("name", "what", "on the hub", title="data sets of the hub known by short names")
    for name, (repository, path, what) in KNOWN.items():
        table.add_row(name, what, f"{repository}:{path}" if path else repository)
    Console().print(table)


@corpus.command(context_settings=_HELP)
@click.argument("spec")
@_json
def info(spec: str, as_json: bool) -> None:
    """Say what is in the corpus SPEC: passages, questions, an example of each, and its hash.

    SPEC is a registered name, a path, or JSON like {"name": "hub", "corpus": "wiki-18", "questions": "nq"}.
    """
    opened = open_corpus(read_spec(spec))
    facts = _facts(opened)
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = Table(show_header=False, title=shown(opened.name))
    table.add_row("passages", f"{facts['passages']:,}")
    for split, count in facts["questions"].items():
        table.add_row(f"questions, {split}", f"{count:,}")
    if facts["questions"] and "questions_with_gold_passages" in facts:
        table.add_row("with gold passages", f"{facts['questions_with_gold_passages']:,}")
    for what in ("passages", "questions"):
        if facts.get(f"{what}_passed_over"):
            table.add_row(f"{what} passed over", f"{facts[f'{what}_passed_over']:,} (blank or unanswerable)")
    table.add_row("hash", facts["hash"])
    if isinstance(facts.get("origin"), dict):
        for part in _origins(facts["origin"]):
            table.add_row("from", shown(part))
    first = opened.passages[0]
    table.add_row("first passage", f"[bold]{shown(first.title)}[/]\n{shown(first.text[:200])}")
    for split in opened.splits[:1]:
        question = opened.questions(split)[0]
        table.add_row("first question", f"{shown(question.text)}\n{shown(' | '.join(question.answers))}")
    Console().print(table)


@corpus.command(context_settings=_HELP)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--update", is_flag=True, help="Use the newest commit instead of the one used before.")
@click.option("--dry-run", is_flag=True, help="Only say how large it is.")
@_json
def fetch(names: tuple[str, ...], update: bool, dry_run: bool, as_json: bool) -> None:
    """Download data sets of the hub: short names like wiki-18 and nq, or owner/name[@revision][:path].

    Says first how large they are, and refuses what the disk has no room for. Interrupted or killed, the same
    command goes on where it was. What is there needs no network any more.
    """
    found = [find_set(name, update=update) for name in names]
    facts = [{**one.origin(), "size": one.size, "missing": one.missing} for one in found]
    if not as_json:
        for one in found:
            click.echo(f"{one.label}: {_amount(one)}")
    for one, known in zip(found, facts, strict=True):
        if not dry_run:
            known["paths"] = [str(path) for path in one.fetch()]
            if not as_json:
                click.echo("\n".join(known["paths"]))
    if as_json:
        click.echo(json.dumps(facts))


@corpus.command(context_settings=_HELP)
@click.argument("spec")
@_json
def check(spec: str, as_json: bool) -> None:
    """Check every line of the corpus SPEC, its order, ids and gold passages, and say what a reader should know.

    The first thing that is wrong is named with file, line, reason and the next move. Exit code 2 then.
    """
    with Console(stderr=True).status("checking"):
        if (Path(spec) / "manifest.json").is_file() and (problems := verify_directory(Path(spec))):
            raise CorpusError(f"{spec} is damaged: {'; '.join(problems)}. Make it again")
        opened = open_corpus(read_spec(spec))
        check_corpus(opened)
        facts = {**_facts(opened), **_statistics(opened)}
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = Table(show_header=False, title=f"{shown(opened.name)}: no errors")
    for name, value in facts.items():
        if isinstance(value, float):
            table.add_row(name.replace("_", " "), f"{value:.3g}")
        elif isinstance(value, int | str):
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else shown(value))
    Console().print(table)


@corpus.command("import-dump", context_settings=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Directory of the corpus; new or empty."
)
@click.option("--words", default=100, show_default=True, help="Words of a passage.")
@click.option("--keep-disambiguation", is_flag=True, help="Keep disambiguation pages.")
@click.option(
    "--disambiguation-template",
    "templates",
    multiple=True,
    help="A template that marks disambiguation pages, beside the English Wikipedia's. Repeatable.",
)
@click.option(
    "--workers", type=int, default=None, help="Processes that clean articles.  [default: one per core]"
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
    """Cut the articles of a Wikipedia dump, FILE (pages-articles.xml.bz2), into passages.

    Says first how much disk that takes. Interrupted or killed, the same command goes on where it was.
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if file.is_file() and not as_json:
        click.echo(
            f"{file}: {human(file.stat().st_size)}; the passages take at most {human(estimate_dump(file))} "
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
    click.echo(
        f"{out}: {card['passages']:,} passages of {card['articles']:,} articles; of {card['pages']:,} pages passed "
        f"over {card['redirects']:,} redirects, {card['disambiguation']:,} disambiguation pages, "
        f"{card['other_namespaces']:,} of other namespaces and {card['empty']:,} without text; "
        f"{card['failures']:,} could not be read"
    )


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
    """What is not wrong but worth knowing; of the first passages and questions only."""
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
    """For each question with gold passages and an answer other than yes or no: 1 if they hold an answer, else 0."""
    for split in opened.splits:
        for question in opened.questions(split):
            if question.supporting_ids and question.answers[0].lower() not in ("yes", "no"):
                gold = [find_passage(opened, id) for id in question.supporting_ids]
                text = "\n".join(f"{passage.title}\n{passage.text}" for passage in gold)
                yield sub_exact_match(text, question.answers)


def _amount(found: HubSet) -> str:
    files = f"{len(found.files)} file{'s' if len(found.files) > 1 else ''}, {human(found.size)}"
    if not found.missing:
        return f"{files}, all there"
    packed = packed_size((file.path, file.size) for file in found.files)
    return (
        f"{files}, {human(found.missing)} to download to {home()}, and at most {human(packed)} when it is first used "
        f"({human(free_disk(home()))} free)"
    )


def _origins(origin: dict[str, Any]) -> Iterator[str]:
    for part in (origin.get("passages"), *origin.get("questions", [])):
        if isinstance(part, dict):
            yield f"{part['repository']}@{part['commit']}: {', '.join(part['files'])}"
        elif part:
            yield str(part)
