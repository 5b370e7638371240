"""`searchgym index`: build, describe, verify, search and serve indexes."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from searchgym.cli.command import Group, option
from searchgym.cli.console import Console, say, text
from searchgym.cli.listing import listing_options
from searchgym.cli.options import SPEC_HELP, parse_pairs, read_spec
from searchgym.errors import (
    ConfigError,
    IndexMismatchError,
    MissingExtraError,
    PluginError,
    RetrievalError,
    UnknownIdError,
)
from searchgym.options import plugins
from searchgym.specs import open_corpus

from ..indexing.backend import (
    IndexBackend,
    available_memory,
    build_index,
    foreign_parts,
    open_index,
    read_index,
    shown_progress,
)
from ..indexing.disk import free_disk, human
from ..indexing.sealed import digest, read_key, verify_directory

__all__ = ["index", "open_backend"]


class _IndexGroup(Group):
    """Loads `serve` on demand: building and searching do not need the modules of the service."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "serve"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "serve":
            return super().get_command(ctx, cmd_name)
        try:
            command: click.Command = importlib.import_module(".serve", __package__).serve
        except ImportError as error:  # the other commands still work
            reason = f"index serve cannot be loaded: {error}"

            @click.command(
                "serve",
                short_help="(cannot be loaded; run it for the reason)",
                add_help_option=False,
                context_settings={"ignore_unknown_options": True},
            )
            @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
            def broken(rest: tuple[str, ...]) -> None:
                raise click.ClickException(reason)

            return broken
        return command


@click.group(cls=_IndexGroup)
def index() -> None:
    """Build, describe, verify, search and serve indexes."""


@index.command()
@option("--corpus", required=True, metavar="SPEC", help=SPEC_HELP)
@option(
    "--retriever",
    default="bm25",
    show_default=True,
    help="Kind of index: bm25, lucene, dense, … (see --list-retrievers).",
)
@option("--option", "pairs", metavar="KEY=VALUE", multiple=True, help="Option of the retriever. Repeatable.")
@option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the index, new or empty.")
@option("--dry-run", is_flag=True, help="Show the estimate without building.")
@option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@listing_options
def build(
    corpus: str, retriever: str, pairs: tuple[str, ...], out: Path, dry_run: bool, as_json: bool
) -> None:
    """Build an index of a corpus in a directory.

    An estimate of the disk and memory needed is shown first, and a build that does not fit is refused. The directory
    appears once the index is complete. After an interruption, the same command continues the build.
    """
    backend = open_backend(retriever)
    options = parse_pairs("--option", pairs)
    settings = backend.checked(options)
    spec = read_spec(corpus)
    opened = open_corpus(spec)
    estimate = backend.estimate(opened, settings)
    seconds = None if estimate.seconds is None else round(estimate.seconds, 1)
    facts: dict[str, Any] = {
        "retriever": backend.name,
        "corpus": opened.name,
        "passages": len(opened.passages),
        "estimate": {"disk": estimate.disk, "memory": estimate.memory, "seconds": seconds},
    }
    memory = available_memory()
    if not as_json:
        there = "" if memory is None else f" of {human(memory)} available"
        duration = "" if not seconds else f", about {_duration(seconds)}"
        say(
            f"{backend.name} index of {opened.name}, {len(opened.passages):,} passages: about "
            f"{human(estimate.disk)} of disk ({human(free_disk(out))} free), "
            f"{human(estimate.memory)} of memory{there}{duration}"
        )
    if dry_run:
        if as_json:
            click.echo(json.dumps(facts))
        return
    started = time.monotonic()
    with shown_progress() as progress:
        directory = build_index(backend, opened, out, options, spec, progress)
    facts |= {
        "directory": str(directory),
        "size": _size(directory),
        "index_hash": digest(read_key(directory)),
        "seconds": round(time.monotonic() - started, 2),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    say(
        f"{directory}: {human(facts['size'])}, index hash {facts['index_hash']} ({_duration(facts['seconds'])})"
    )


@index.command()
@click.argument("directory", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def info(directory: Path, as_json: bool) -> None:
    """Describe the index in DIRECTORY and its corpus."""
    facts = read_index(directory)
    key = read_key(directory)
    facts |= {"size": _size(directory), "index_hash": digest(key), "key": key}
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = Table(show_header=False, title=str(directory))
    table.add_row("retriever", facts["backend"])
    table.add_row("corpus", f"{facts['corpus_name']}, {facts['passages']:,} passages")
    recorded = (
        "not recorded: name it with --corpus" if facts["corpus"] is None else json.dumps(facts["corpus"])
    )
    table.add_row("opened by", recorded)
    table.add_row("settings", json.dumps(facts["settings"]))
    table.add_row("size", human(facts["size"]))
    table.add_row("index hash", facts["index_hash"])
    for name, value in key.items():
        if name not in ("settings", "backend"):
            table.add_row(
                "corpus hash" if name == "corpus" else name,
                value if isinstance(value, str) else json.dumps(value),
            )
    Console().print(table)


@index.command()
@click.argument("directory", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(directory: Path, as_json: bool) -> None:
    """Verify every byte of the index in DIRECTORY.

    Also reports whether this installation can search the index: it cannot if the index was built by another version, or
    with another tokenizer or encoder. The exit code is 2 if anything differs.
    """
    with Console(stderr=True).status(text(f"reading {directory}")):
        problems = verify_directory(directory)
        foreign = [] if problems else _foreign_parts(directory)
    if as_json:
        facts = {
            "directory": str(directory),
            "intact": not problems,
            "problems": problems,
            "foreign": foreign,
        }
        click.echo(json.dumps(facts))
    if problems:
        raise IndexMismatchError(
            f"the index in {directory} is damaged: {'; '.join(problems)}. Build it again, or copy it from an intact one."
        )
    if foreign:
        raise IndexMismatchError(
            f"the index in {directory} is intact, but was built with another {'; another '.join(foreign)}. Build it again, "
            "or use the version it was built with."
        )
    if not as_json:
        count = len([path for path in directory.rglob("*") if path.is_file()])
        say(f"{directory}: intact ({count} files, {human(_size(directory))})")


def _foreign_parts(directory: Path) -> list[str]:
    try:
        return foreign_parts(directory)
    except (MissingExtraError, PluginError, UnknownIdError) as error:
        say(f"the files are intact; whether they can be searched here was not checked: {error}", err=True)
        return []


@index.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@option("-k", "--top-k", "k", default=5, show_default=True, help="Hits per query.")
@option(
    "--corpus",
    metavar="SPEC",
    help="Corpus of the index, if it cannot be opened as recorded.",
)
@option("--json", "as_json", is_flag=True, help="Print one line of JSON for each query.")
def search(directory: Path, queries: tuple[str, ...], k: int, corpus: str | None, as_json: bool) -> None:
    """Search the index in DIRECTORY."""
    read_index(directory)  # report a missing index before opening the corpus
    opened = open_index(directory, None if corpus is None else open_corpus(read_spec(corpus)))
    results = opened.search(queries, k)
    console = Console()
    for query, hits in zip(queries, results, strict=True):
        if isinstance(hits, RetrievalError):
            raise hits
        if as_json:
            click.echo(json.dumps({"query": query, "hits": [hit._asdict() for hit in hits]}))
            continue
        title = _excerpt(query)
        if not hits:
            console.print(f"{title}\nno hits" if title else "no hits")
            continue
        table = Table(title=title, title_justify="left")
        for column, justify in (("rank", "right"), ("score", "right"), ("id", "left"), ("passage", "left")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for rank, hit in enumerate(hits, 1):
            passage = Text.assemble((f"{hit.title}\n" if hit.title else "", "bold"), _excerpt(hit.text))
            table.add_row(str(rank), f"{hit.score:.4g}", hit.id, passage)
        console.print(table)


def open_backend(name: str) -> IndexBackend:
    """The kind of index that is registered under a name.

    Raises:
        UnknownIdError: the name is not registered.
        ConfigError: the retriever of that name has no index to build.
    """
    backend = plugins.load("retrievers", name)
    if not isinstance(backend, IndexBackend):
        raise ConfigError(
            f"retriever {name!r} has no index to build: open it with retriever={name!r}. If it combines other retrievers, "
            "their names may be paths of built indexes"
        )
    return backend


def _excerpt(words: str) -> str:
    return words if len(words) <= 200 else f"{words[:200]}…"


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _duration(seconds: float) -> str:
    for length, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"
