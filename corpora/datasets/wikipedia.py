"""A Wikipedia XML dump, cut into passages: `PAGES-ARTICLES.xml.bz2` to a directory with `passages.jsonl.gz`.

The dump is read as a stream, its articles are cleaned in other processes, and the passages of each batch are
appended as one gzip member. After each batch `state.json` says how far that goes in both files, so that an import
that was killed goes on from there: at a boundary of a multistream dump's streams by seeking, else by reading over
the pages that are done, which is much quicker than parsing them.
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

from ..indexing.backend import Progress, quiet
from ..indexing.cache import output_directory
from ..indexing.disk import require_disk
from .wikipedia_xml import DumpReader
from .wikitext import cut, is_disambiguation, plain_text

__all__ = ["estimate_dump", "import_dump"]

_FORMAT = 1
_BATCH = 500_000  # characters of wikitext that one process cleans at a time
_GROWTH = 0.8  # compressed passages to compressed dump, at most: 0.63 measured on long articles
_LISTED = 100  # failed pages the card names


@dataclass
class _State:
    """How far the import is: where in the dump, how much was written, and what was seen."""

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
    left_out: list[str] = field(
        default_factory=list
    )  # the wiki's names for the namespaces of files and categories


@dataclass(slots=True)
class _Batch:
    """Articles to clean, and the state once they are written."""

    articles: list[tuple[int, str, str]]
    size: int
    stream: int
    skip: int
    read: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """What became of a batch."""

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

    Redirects, pages outside the article namespace and disambiguation pages are passed over. A passage's id is
    "PAGE-NUMBER", both padded with zeros, so that passages in order of id are in order of the dump's articles.

    Args:
        file: `….xml.bz2`, multistream or not, or plain `.xml`.
        out: a directory, absent or empty; it appears when it is complete. An interrupted or killed import goes on
            when it is called again.
        words: of a passage; the last of an article may be a fifth longer, or shorter.
        keep_disambiguation: keep disambiguation pages.
        disambiguation_templates: names of templates that mark them, beside those of the English Wikipedia.
        workers: processes that clean articles; 0: this one does.
        progress: called as (what, bytes of the dump read, its bytes).

    Returns:
        The directory: `passages.jsonl.gz`, `card.json` (what was seen, and from which dump) and its manifest.

    Raises:
        CorpusError: the file is no dump, ends too early or is damaged.
        ConfigError: an option out of range, a directory with something else in it, no room, or another import.
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
            require_disk(work.parent, estimate_dump(file), f"importing {file.name}")
        _build(file, work, settings, workers, source, progress)

    try:
        return output_directory(out, "dump", key, build)
    except BrokenExecutor:
        raise ConfigError(
            "a worker process was killed, perhaps for want of memory: try again with fewer workers; the import goes on"
        ) from None


def estimate_dump(file: Path) -> int:
    """At most so many bytes of disk does importing the dump take."""
    return int(_GROWTH * file.stat().st_size * (1 if file.suffix == ".bz2" else 0.25))


def _check(file: Path, words: int, workers: int) -> None:
    if not file.is_file():
        raise CorpusError(f"{file} is not a file: give a Wikipedia dump, ….xml.bz2")
    if type(words) is not int or not 5 <= words <= 10_000:
        raise ConfigError(f"words={words!r}: use 5 to 10,000 words for a passage")
    if type(workers) is not int or not 0 <= workers <= 256:
        raise ConfigError(f"workers={workers!r}: use 0 to 256 processes")


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
        raise CorpusError(f"{file} holds no articles, in {state.pages} pages. Give a pages-articles dump")
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
    """The state of an earlier import into the same directory, where its output is as long as the state says."""
    written = work / "passages.jsonl.gz"
    try:
        state = _State(**json.loads((work / "state.json").read_text("utf-8")))
        return state if written.stat().st_size >= state.written else _State()
    except (OSError, ValueError, TypeError):  # the first time, or after a power cut
        return _State()


def _save_state(work: Path, state: _State) -> None:
    temporary = work / "state.tmp"
    temporary.write_text(json.dumps(asdict(state)), "utf-8")
    temporary.replace(work / "state.json")


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    if not workers:
        yield None
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would inherit the locks of whatever threads there are
    pool = ProcessPoolExecutor(workers, context, _end_with_the_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """A worker of a killed import would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cleaned(
    reader: DumpReader, state: _State, settings: dict[str, Any], pool: Executor | None, workers: int
) -> Iterator[tuple[_Batch, _Cleaned]]:
    """The batches and what became of them, in order, some of them in the making."""
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
            texts = cut(plain_text(wikitext, left_out), settings["words"])
        except Exception as error:  # one article the parser cannot read must not cost the others
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
