"""Indexes: built once from a corpus, kept in a directory, opened from it by any number of processes.

An `IndexBackend` defines what an index of its kind depends on, what building costs, and how it is built and opened. The
rest is the same for every kind and is done here: the cache, the check that a build fits on the machine, the directory
that is complete or absent, and the refusal of an index that would return wrong results. A finished directory contains
the backend's files, `index.json` (the kind of index, and its corpus) and the sealed `manifest.json` (its key, and the
size and hash of every file).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

from searchgym.errors import ConfigError, IndexMismatchError, PluginError, printable
from searchgym.options import plain, plugins
from searchgym.records.question import Corpus
from searchgym.records.retriever import Retriever
from searchgym.specs import Spec, call_factory, open_corpus

from .cache import cached_directory, output_directory
from .disk import free_disk, human
from .sealed import damage, read_key

__all__ = [
    "Estimate",
    "IndexBackend",
    "Progress",
    "build_index",
    "foreign_parts",
    "open_index",
    "quiet",
    "read_index",
    "shown_progress",
]

FACTS = "index.json"
_LONG = 30  # seconds from which an implicit build is announced
_PATH_OPTIONS = ("path", "corpus", "questions")  # options of corpora that may be paths

Progress = Callable[[str, int, int], None]
"""Called as (phase, done, total) while an index is built."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What building an index takes.

    Attributes:
        disk: bytes of the finished index, and of temporary files.
        memory: peak bytes while building, without the interpreter itself.
        seconds: roughly the time; None if unknown.
    """

    disk: int
    memory: int
    seconds: float | None = None


class IndexBackend(ABC):
    """A kind of index. Register an instance under the entry-point group `searchgym.retrievers`.

    Attributes:
        name: its registered name, which is also that of its retrievers and cache entries.
        lazy: patterns of files that `open` reads through `open_checked`, which compares their content when it is first
            read. All other files are compared completely when the index is opened.
    """

    name: ClassVar[str]
    lazy: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def settings(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The options, checked, with every default filled in: JSON values, recorded with the index.

        `recorded_settings` turns them into options again.

        Subclasses declare their options as keyword arguments. Raises `ConfigError`.
        """

    @abstractmethod
    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that determines the ranking, as JSON values; equal keys give equal rankings.

        It must contain "format" (the version of the builder and its files), "backend", "corpus" (its hash) and
        "settings", and where they apply the identity of a tokenizer or encoder, and versions.
        """

    @abstractmethod
    def estimate(self, corpus: Corpus, settings: Mapping[str, Any]) -> Estimate:
        """What `build` will take. It must be quick, so it uses a sample of the passages."""

    @abstractmethod
    def build(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
        """Fill the directory, continuing the work of an earlier build of the same key that was killed."""

    @abstractmethod
    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> Retriever:
        """Open a directory that `build` filled, which is intact and has this key; `index_hash` is the key's digest."""

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`settings(**options)`; raises `UnknownIdError` for an unknown option."""
        settings: dict[str, Any] = call_factory("retriever", self.name, self.settings, (), dict(options))
        return settings

    def lasting_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that are recorded with an index: without those that only decide how it is built."""
        return dict(settings)

    def recorded_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What was recorded with an index, as the options that `settings` takes."""
        return dict(settings)

    def __call__(self, corpus: Corpus, **options: Any) -> Retriever:
        """The index of a corpus: built at the first call, opened from the cache after that.

        Raises:
            ConfigError: an unknown option, or too little disk space or memory to build the index.
            CorpusError: a corpus that cannot be indexed.
        """
        settings = self.checked(options)
        key = self.key(corpus, settings)

        def build(work: Path) -> None:
            estimate = self.estimate(corpus, settings)
            if (estimate.seconds or 0) >= _LONG and not sys.stderr.isatty():  # no progress is shown there
                print(
                    f"building the {self.name} index of {printable(corpus.name)} ({len(corpus.passages):,} passages): about "
                    f"{estimate.seconds:.0f} s, {human(estimate.disk)} of disk, {human(estimate.memory)} of memory",
                    file=sys.stderr,
                )
            with shown_progress() as progress:
                _fill(self, corpus, settings, work, None, progress)

        return self.open(corpus, settings, self._cached(key, build))

    def _cached(self, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        return cached_directory(self.name, key, build, resumable=True, lazy=self.lazy)


def build_index(
    backend: IndexBackend,
    corpus: Corpus,
    directory: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    corpus_spec: Spec | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build an index into its own directory, to be kept, copied or served.

    The directory appears when it is complete. Until then the work is in a hidden `.part` directory next to it; to
    continue a build that was killed or interrupted, call this function again.

    Args:
        backend: the kind of index.
        corpus: what to index.
        directory: the directory; absent or empty. If it contains exactly this index, it is left as it is.
        options: the backend's options.
        corpus_spec: how `open_index` opens the corpus; without it, `open_index` needs the corpus as an argument.
        progress: called during the build.

    Returns:
        The directory.

    Raises:
        ConfigError: a bad option, a directory with other content, too little disk space or memory, or another process
            is building there.
        CorpusError: a corpus that cannot be indexed.
    """
    settings = backend.checked(options or {})

    def build(place: Path) -> None:
        _fill(backend, corpus, settings, place, _absolute(corpus_spec), progress or quiet)

    key = backend.key(corpus, settings)
    return output_directory(Path(directory), backend.name, key, build, lazy=backend.lazy)


def open_index(directory: str | os.PathLike[str], corpus: Corpus | None = None) -> Retriever:
    """Open a built index.

    Args:
        directory: what `build_index` made.
        corpus: the corpus it was built from; by default the recorded one is opened.

    Raises:
        IndexMismatchError: the directory contains no index, a damaged one, or one of another corpus, version,
            tokenizer or encoder.
        ConfigError: no corpus was given and none is recorded.
    """
    directory = Path(directory).expanduser().absolute()
    facts = read_index(directory)
    backend = _backend(facts, directory)
    if corpus is None:
        if facts["corpus"] is None:
            raise ConfigError(
                f"the index in {directory} does not record how to open its corpus {facts['corpus_name']!r}: give the corpus"
            )
        corpus = open_corpus(facts["corpus"])
    settings, differences = _compare(backend, facts, corpus, read_key(directory))
    if differences:
        raise IndexMismatchError(
            f"the {backend.name} index in {directory} is of another {differences[0]}. Build it again from corpus "
            f"{corpus.name!r} (searchgym index build), or open it with the corpus and the version it was built with."
        )
    return backend.open(corpus, settings, directory)


def foreign_parts(directory: str | os.PathLike[str]) -> list[str]:
    """The differences between an intact index and one that would be built here now: version, tokenizer, encoder.

    The list is empty for an index that can be opened. The corpus is neither opened nor compared.

    Raises:
        IndexMismatchError: the directory contains no index, or a damaged one.
    """
    directory = Path(directory)
    facts, built = read_index(directory), read_key(directory)
    recorded = _RecordedCorpus(facts["corpus_name"], built.get("corpus"), range(facts["passages"]))
    return _compare(_backend(facts, directory), facts, cast("Corpus", recorded), built)[1]


class _RecordedCorpus(NamedTuple):
    """What an index records of its corpus: everything that keys are computed from."""

    name: str
    hash: Any
    passages: range


def _backend(facts: Mapping[str, Any], directory: Path) -> IndexBackend:
    backend = plugins.load("retrievers", facts["backend"])
    if not isinstance(backend, IndexBackend):
        raise PluginError(
            f"retriever {facts['backend']!r} of the index in {directory} is not an IndexBackend"
        )
    return backend


def _compare(
    backend: IndexBackend, facts: Mapping[str, Any], corpus: Corpus, built: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The settings of a built index, and the parts of its key that differ here and now."""
    try:
        settings = backend.checked(backend.recorded_settings(facts["settings"]))
    except ConfigError as error:
        return {}, [f"version: {error}"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {}, [f"version: its settings cannot be read ({error!r:.200})"]
    ours = backend.key(corpus, settings)
    return settings, [
        f"{name}: {built.get(name)!r}, not {ours.get(name)!r}"
        for name in {**ours, **built}
        if built.get(name) != ours.get(name)
    ]


def open_index_over(corpus: Corpus, *, path: str) -> Retriever:
    """A built index over a corpus that is already open, as `retriever="path/of/an/index"` opens it.

    The entry point `index-directory` of `searchgym.retrievers`; raises the same errors as `open_index`.

    Args:
        corpus: the corpus the index was built from.
        path: directory of the index.
    """
    return open_index(path, corpus)


def read_index(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What a built index records: backend, settings, corpus, corpus_name, passages.

    Raises:
        IndexMismatchError: the directory contains no index, or a damaged one.
    """
    directory = Path(directory)
    problem = damage(directory)
    if problem is None:
        try:
            facts: dict[str, Any] = json.loads((directory / FACTS).read_text("utf-8"))
            return {
                name: facts[name] for name in ("backend", "settings", "corpus", "corpus_name", "passages")
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{directory / FACTS} does not describe an index ({error})"
    raise IndexMismatchError(f"no usable index in {directory}: {problem}. Build it again.")


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show the progress of a build on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield quiet
        return
    from rich.progress import TaskID, TaskProgressColumn, TimeRemainingColumn

    from searchgym.cli.progress import progress_bar

    with progress_bar(TaskProgressColumn(), TimeRemainingColumn()) as bars:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield show


def quiet(phase: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def _fill(
    backend: IndexBackend,
    corpus: Corpus,
    settings: Mapping[str, Any],
    work: Path,
    corpus_spec: Spec | None,
    progress: Progress,
) -> None:
    _check_resources(backend, corpus, backend.estimate(corpus, settings), work)
    backend.build(corpus, settings, work, progress)
    facts = {
        "backend": backend.name,
        "settings": backend.lasting_settings(settings),
        "corpus": corpus_spec,
        "corpus_name": corpus.name,
        "passages": len(corpus.passages),
    }
    (work / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")


def _check_resources(backend: IndexBackend, corpus: Corpus, estimate: Estimate, work: Path) -> None:
    done = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    free = free_disk(work) + done  # the estimate includes what an earlier build left
    about = f"the {backend.name} index of {corpus.name!r} ({len(corpus.passages):,} passages)"
    if estimate.disk > free:
        raise ConfigError(
            f"{about} needs {human(estimate.disk)} of disk to build, but {work.parent} has {human(free)}: "
            "make room, or build it elsewhere"
        )
    available = available_memory()
    if available is not None and estimate.memory > available:
        raise ConfigError(
            f"{about} needs {human(estimate.memory)} of memory to build, but {human(available)} are available: "
            "close something, or build it on a larger machine and copy the directory"
        )


def available_memory() -> int | None:
    """The bytes that this process can allocate without swapping, on the machine and in its control group.

    None if unknown.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError, KeyError):  # a container's limit; "max" when there is none
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(
            stat["inactive_file"]
        )  # that much is given back
        found.append(max(0, limit - used))
    if not found:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _absolute(spec: Spec | None) -> Spec | None:
    """A spec with absolute paths: the index may be opened from another working directory."""

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(one) for one in value]
        return os.path.abspath(value) if isinstance(value, str) and os.path.exists(value) else value

    spec = plain("corpus", spec)
    if isinstance(spec, dict):
        return {name: place(value) if name in _PATH_OPTIONS else value for name, value in spec.items()}
    return spec if spec in plugins.names("corpora") else place(spec)
