"""A Wikipedia XML dump, cut into passages: from `PAGES-ARTICLES.xml.bz2` to a directory with `passages.jsonl.gz`.

The dump is read as a stream, its articles are cleaned in other processes, and the passages of each batch are appended as
one gzip member. After each batch, `state.json` records the position in both files, so that an import that was killed
continues from there: by seeking, at a boundary of a multistream dump's streams, otherwise by skipping the pages that
are done, which is much faster than parsing them.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, CorpusError, MissingExtraError
from searchgym.files import write_text
from searchgym.options import integer

from ..indexing.backend import Progress, quiet
from ..indexing.cache import output_directory
from ..indexing.disk import require_disk
from .wikipedia_xml import DumpReader
from .wikitext import chunk_words, is_disambiguation, plain_text

__all__ = ["estimate_dump", "import_dump"]

_FORMAT = 1
_BATCH = 500_000  # characters of wikitext that one process cleans at a time
# Compressed passages to the dump, at most. Measured: 0.63 to a compressed dump of articles with the usual markup, 1.2 to
# one without markup, as bzip2 packs text tighter than gzip; 0.39 to such a dump without compression.
_GROWTH = 1.4
_GROWTH_PLAIN = 0.5
_PER_PASSAGE = 8  # words that take the space of the id and the title, which each passage repeats
_LISTED = 100  # failed pages that the card names


@dataclass
class _State:
    """The state of an import: the position in the dump, the bytes written, and the counts."""

    stream: int = 0  # byte of the dump at which a compressed stream begins
    skip: int = 0  # pages after that byte that are done
    written: int = 0  # bytes of passages.jsonl.gz
    pages: int = 0
    articles: int = 0
    redirects: int = 0
    disambiguation: int = 0
    other_namespaces: int = 0
    empty: int = 0
    passages: int = 0
    failed: list[str] = field(default_factory=list)
    failures: int = 0
    site: str = ""
    # The wiki's names of the namespaces of files and categories.
    left_out: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    """Articles to clean, and the state after they are written."""

    articles: list[tuple[int, str, str]]
    size: int
    stream: int
    skip: int
    read: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """The result of cleaning a batch."""

    data: bytes  # a gzip member of JSON lines
    counts: dict[str, int]
    failed: list[str]


def import_dump(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    words: int = 100,
    keep_disambiguation: bool = False,
    disambiguation_templates: tuple[str, ...] = (),
    workers: int = 0,
    progress: Progress = quiet,
) -> Path:
    """Cut the articles of a dump into passages.

    Redirects, pages outside the article namespace and disambiguation pages are skipped. A passage's id is "PAGE-NUMBER",
    both padded with zeros, so that the order of ids is the order of articles in the dump.

    Args:
        file: `….xml.bz2`, multistream or not, or plain `.xml`.
        out: a directory, absent or empty; it appears when it is complete. To continue an import that was interrupted
            or killed, call this function again.
        words: words of a passage, 5 to 10,000; the last one of an article may be shorter, or a fifth longer.
        keep_disambiguation: keep disambiguation pages.
        disambiguation_templates: names of templates that mark them, in addition to those of the English Wikipedia.
        workers: processes that clean articles, at most 256; 0 to clean them in this process.
        progress: called as (phase, bytes of the dump that were read, its bytes).

    Returns:
        The directory, with `passages.jsonl.gz`, `card.json` (the dump and the counts) and its manifest.

    Raises:
        CorpusError: the file is not a dump, ends too early or is damaged.
        ConfigError: an option out of range, a directory with other content, too little disk space, or another process
            is importing there.
        MissingExtraError: the extra `dump` is not installed.
    """
    file, out = Path(file).expanduser().resolve(), Path(out)
    _check(file, words, workers)
    size = file.stat().st_size
    settings = {
        "words": words,
        "keep_disambiguation": keep_disambiguation,
        "disambiguation_templates": sorted(name.lower() for name in disambiguation_templates),
    }
    source = {"file": file.name, "size": size, "changed": file.stat().st_mtime_ns}
    key = {"format": _FORMAT, "parser": _parser_version(), "source": source, "settings": settings}

    def build(work: Path) -> None:
        if not any(work.iterdir()):
            require_disk(work.parent, estimate_dump(file, words), f"importing {file.name}")
        _build(file, work, settings, workers, source, progress)

    try:
        return output_directory(out, "dump", key, build)
    except BrokenExecutor:
        raise ConfigError(
            "a worker process was killed, perhaps because memory ran out: try again with fewer workers; the import continues"
        ) from None


def estimate_dump(file: Path, words: int = 100) -> int:
    """The bytes of disk that importing the dump takes at most.

    Args:
        file: the dump.
        words: words of a passage; each passage repeats the title.
    """
    growth = _GROWTH if file.suffix == ".bz2" else _GROWTH_PLAIN
    return int(growth * (1 + _PER_PASSAGE / words) * file.stat().st_size) + 2**16


def _check(file: Path, words: int, workers: int) -> None:
    if not file.is_file():
        raise CorpusError(f"{file} is not a file: give a Wikipedia dump, ….xml.bz2")
    integer("words", words, 5, 10_000)
    integer("workers", workers, 0, 256)


def _parser_version() -> str:
    try:
        import mwparserfromhell
    except ModuleNotFoundError as error:
        raise MissingExtraError("importing a dump", error.name or "mwparserfromhell", "dump") from error
    return str(mwparserfromhell.__version__)


def _build(
    file: Path,
    work: Path,
    settings: dict[str, Any],
    workers: int,
    source: dict[str, Any],
    progress: Progress,
) -> None:
    state = _load_state(work)
    reader = DumpReader(file, state.stream, state.skip, state.site, state.left_out)
    with (work / "passages.jsonl.gz").open("ab") as out, _pool(workers) as pool:
        out.truncate(state.written)
        for batch, cleaned in _cleaned(reader, state, settings, pool, workers):
            out.write(cleaned.data)
            out.flush()
            state.stream, state.skip = batch.stream, batch.skip
            state.site, state.left_out = reader.site, sorted(reader.left_out)
            state.written += len(cleaned.data)
            state.failed = (state.failed + cleaned.failed)[:_LISTED]
            for name, count in {**batch.counts, **cleaned.counts}.items():
                setattr(state, name, getattr(state, name) + count)
            _save_state(work, state)
            progress(f"{state.articles:,} articles", batch.read, source["size"])
    if not state.passages:
        raise CorpusError(
            f"{file} contains no articles, only {state.pages} other pages. Give a pages-articles dump"
        )
    counted = asdict(state)
    for name in ("stream", "skip", "written", "left_out"):
        del counted[name]
    card = {
        "source": source,
        "settings": settings,
        "parser": f"mwparserfromhell {_parser_version()}",
        **counted,
    }
    (work / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (work / "state.json").unlink(missing_ok=True)


def _load_state(work: Path) -> _State:
    """The state of an earlier import into the same directory, if its output is complete up to that state."""
    written = work / "passages.jsonl.gz"
    try:
        state = _State(**json.loads((work / "state.json").read_text("utf-8")))
        return state if written.stat().st_size >= state.written else _State()
    except (OSError, ValueError, TypeError):  # the first time, or after a power cut
        return _State()


def _save_state(work: Path, state: _State) -> None:
    # Not durable: after a power cut, the import starts again.
    write_text(work / "state.json", json.dumps(asdict(state)), alone=True, durable=False)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    if not workers:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks that other threads hold
    pool = ProcessPoolExecutor(workers, context, _end_with_the_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """End this worker when its parent ends; the worker of a killed import would wait forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cleaned(
    reader: DumpReader, state: _State, settings: dict[str, Any], pool: Executor | None, workers: int
) -> Iterator[tuple[_Batch, _Cleaned]]:
    """The batches and their results, in order; the pool works on several batches ahead."""
    waiting: deque[tuple[_Batch, Future[_Cleaned]]] = deque()
    for batch in _batches(reader, state):
        if pool is None:
            yield batch, _clean(batch.articles, reader.left_out, settings)
            continue
        waiting.append((batch, pool.submit(_clean, batch.articles, set(reader.left_out), settings)))
        while len(waiting) > 2 * workers:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _clean(articles: list[tuple[int, str, str]], left_out: set[str], settings: dict[str, Any]) -> _Cleaned:
    """Passages of articles, as JSON lines."""
    lines: list[str] = []
    counts = dict.fromkeys(("articles", "passages", "disambiguation", "empty", "failures"), 0)
    failed: list[str] = []
    for id, title, wikitext in articles:
        if not settings["keep_disambiguation"] and is_disambiguation(
            title, wikitext, settings["disambiguation_templates"]
        ):
            counts["disambiguation"] += 1
            continue
        try:
            texts = chunk_words(plain_text(wikitext, left_out), settings["words"])
        except Exception as error:  # an article that the parser cannot read must not affect the others
            counts["failures"] += 1
            failed.append(f"{title}: {type(error).__name__}")
            continue
        counts["articles" if texts else "empty"] += 1
        counts["passages"] += len(texts)
        for number, text in enumerate(texts):
            passage = {"id": f"{id:010d}-{number:05d}", "title": title, "text": text}
            lines.append(json.dumps(passage, ensure_ascii=False) + "\n")
    return _Cleaned(gzip.compress("".join(lines).encode(), 6, mtime=0) if lines else b"", counts, failed)


def _batches(reader: DumpReader, state: _State) -> Iterator[_Batch]:
    def empty() -> _Batch:
        counts = dict.fromkeys(("pages", "redirects", "other_namespaces"), 0)
        return _Batch([], 0, state.stream, state.skip, 0, counts)

    batch = empty()
    for page in reader.pages():
        batch.counts["pages"] += 1
        if page.namespace != "0":
            batch.counts["other_namespaces"] += 1
        elif page.redirect:
            batch.counts["redirects"] += 1
        else:
            batch.articles.append((page.id, page.title, page.text))
            batch.size += len(page.text)
        batch.stream, batch.skip, batch.read = reader.stream, reader.done, reader.read
        if batch.size >= _BATCH or batch.counts["pages"] >= 10_000:
            yield batch
            batch = empty()
    if batch.counts["pages"]:
        yield batch
