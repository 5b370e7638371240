"""Reads a corpus into shards: inverted indexes of consecutive passages, small enough to build in memory.

Large corpora are read by several processes: this one reads the passages and hands the texts of one shard after the other to
processes that find the words and write the shards. They run this module's `_serve`, take JSON and answer in JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import CorpusError
from searchgym.records.question import Corpus

from ..indexing.backend import Progress
from ..indexing.cache import UnfinishedError
from .analyzer import stem, words

__all__ = [
    "BUFFER",
    "MOST",
    "SHARD_WORDS",
    "Shard",
    "ShardWriter",
    "default_processes",
    "length_codes",
    "read_shards",
]

SHARD_WORDS = 2**24
"""Words per shard that one process builds: about 170,000 passages of 100 words, and 0.6 GB of memory at the peak."""
MOST = 255
"""The largest count of a word in a passage, as counts are stored in one byte."""
BUFFER = 2**20
_PARALLEL_FROM = 100_000  # passages from which starting processes pays
_MOST_PROCESSES = 4  # by default; all of them together take as much memory as one process that works alone
_CHARACTERS = 2**26  # in memory of all processes together
_KNOWN_WORDS = 2**20  # words whose terms a writer remembers from shard to shard
_REPORT_EVERY = 1000  # passages between two reports of progress


def _decoded_lengths() -> NDArray[np.int64]:
    """Lucene's one-byte lengths (`SmallFloat.byte4ToInt`): exact up to 40, then with four significant bits."""
    lengths = []
    for code in range(256):
        small = code - 24  # the first 24 codes are the lengths themselves
        shift = (small >> 3) - 1
        lengths.append(code if small < 8 else 24 + (((small & 7) | 8) << shift))
    return np.array(lengths, np.int64)


LENGTHS = _decoded_lengths()
"""The length of each of the 256 codes; a length has the code of the next smaller or equal length."""


def length_codes(lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The code of each length."""
    return (LENGTHS.searchsorted(lengths, side="right") - 1).astype(np.uint8)


class Shard(NamedTuple):
    """A finished shard: files of terms, of each term's number of postings, and of postings by term."""

    directory: Path
    end: int  # the position after its last passage
    words: int  # that are indexed
    terms: int
    postings: int

    def read(self, name: str, dtype: type[np.generic], count: int = -1, offset: int = 0) -> NDArray[Any]:
        """Numbers of one of its files."""
        size = np.dtype(dtype).itemsize
        return np.fromfile(self.directory / name, dtype, count, offset=offset * size)


class ShardWriter:
    """Collects the words of passages; what it learns of words, it keeps from shard to shard."""

    def __init__(self) -> None:
        self.words = array("i")
        self.ends = array("q")
        self._numbers = _Numbers()

    def add(self, text: str) -> None:
        """Add the next passage."""
        self.words.extend(map(self._numbers.__getitem__, words(text)))
        self.ends.append(len(self.words))

    def write(self, directory: Path, start: int) -> Shard:
        """Write the shard of the passages that were added, the first of them at position `start`; then begin another."""
        count = len(self.ends)
        numbers = np.frombuffer(self.words, np.int32)
        kept = numbers >= 0
        ends = np.frombuffer(self.ends, np.int64)
        sizes = ends - np.concatenate([[0], ends[:-1]])
        passage = np.repeat(np.arange(start, start + count, dtype=np.int64), sizes)[kept]
        numbers = numbers[kept]
        names = self._numbers.names
        terms = sorted((names[number], number) for number in np.flatnonzero(np.bincount(numbers)).tolist())
        ranks = np.empty(len(names), np.int64)
        ranks[[number for _, number in terms]] = np.arange(len(terms))
        # One number per word: by term, then by passage. After sorting, equal numbers are adjacent.
        keys = ranks[numbers]
        keys <<= 32
        keys |= passage
        keys.sort()
        firsts = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.diff(firsts, append=len(keys))
        lengths = np.bincount(passage - start, minlength=count)
        del passage, numbers, kept, ends
        pairs = keys[firsts]
        shard = Shard(directory, start + count, len(keys), len(terms), len(pairs))
        work = directory.with_suffix(".tmp")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        with (work / "terms").open("wb", buffering=BUFFER) as file:
            file.writelines(term.encode() + b"\n" for term, _ in terms)
        np.bincount(pairs >> 32, minlength=len(terms)).astype(np.int32).tofile(work / "frequencies")
        (pairs & 0xFFFFFFFF).astype(np.int32).tofile(work / "positions")
        np.minimum(counts, MOST).astype(np.uint8).tofile(work / "counts")
        length_codes(lengths).tofile(work / "lengths")
        facts = {"end": shard.end, "words": shard.words, "terms": shard.terms, "postings": shard.postings}
        (work / "shard.json").write_text(json.dumps(facts), "utf-8")
        work.rename(directory)
        self.words, self.ends = array("i"), array("q")
        if len(self._numbers) > _KNOWN_WORDS:
            self._numbers = _Numbers()
        return shard


class _Numbers(dict[str, int]):
    """A number for every word: that of its term, in order of appearance; -1 for a stop word."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._terms: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        term = stem([word]).get(word)
        number = -1 if term is None else self._terms.setdefault(term, len(self.names))
        if number == len(self.names):
            self.names.append(term or "")
        self[word] = number
        return number


def default_processes() -> int:
    """The processes that read a large corpus unless the caller says how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES)


def read_shards(corpus: Corpus, settings: Mapping[str, Any], place: Path, progress: Progress) -> list[Shard]:
    """Divide the corpus into shards, except those that exist already.

    Args:
        corpus: its passages must be ordered by id.
        settings: shuffle, and processes: how many, None for `default_processes`.
        place: where the shards are written.
        progress: called with the phase "reading".

    Returns:
        The shards, in order of passages.

    Raises:
        CorpusError: the corpus is not sorted by id.
        UnfinishedError: a process that builds shards ended.
    """
    total = len(corpus.passages)
    shards = _finished_shards(place)
    start = shards[-1].end if shards else 0
    processes = settings["processes"] or default_processes()
    texts = _texts(corpus, settings["shuffle"], start, progress)
    if processes == 1 or total - start < _PARALLEL_FROM:
        writer = ShardWriter()
        for position, text in enumerate(texts, start):
            writer.add(text)
            if len(writer.words) >= SHARD_WORDS:
                shards.append(writer.write(place / f"{len(shards):05d}", start))
                start = position + 1
        if writer.ends or not shards:
            shards.append(writer.write(place / f"{len(shards):05d}", start))
    else:
        shards += _read_by_processes(texts, start, place, len(shards), processes)
    progress("reading", total, total)
    return shards


def _texts(corpus: Corpus, shuffle: int | None, start: int, progress: Progress) -> Iterator[str]:
    """What is indexed at every position from `start` on."""
    passages = corpus.passages
    total = len(passages)
    source = None if shuffle is None else _derangement(total, shuffle).argsort()
    previous = passages[start - 1].id if start else None
    for position, passage in enumerate(passages[start:] if start else passages, start):
        if previous is not None and passage.id <= previous:
            raise CorpusError(
                f"corpus {corpus.name!r} is not sorted by id: {passage.id!r} follows {previous!r}; sort it"
            )
        previous = passage.id
        if source is not None:
            passage = passages[int(source[position])]
        yield f"{passage.title}\n{passage.text}"
        if position % _REPORT_EVERY == 0:
            progress("reading", position, total)


def _derangement(count: int, seed: int) -> NDArray[np.int32]:
    """A random cycle through all positions, so that none stays in place if there are two or more."""
    order = np.random.RandomState(seed).permutation(count)  # RandomState, because its stream never changes
    target = np.empty(count, np.int32)
    target[order] = np.roll(order, -1)
    return target


def _read_by_processes(
    texts: Iterator[str], start: int, place: Path, number: int, processes: int
) -> Iterator[Shard]:
    """Build shards in other processes; while they work, the texts of the next shard are read."""
    characters = _CHARACTERS // (2 * processes)
    idle: SimpleQueue[_Worker] = SimpleQueue()
    waiting: list[Future[Shard]] = []

    def build(request: bytes) -> Shard:
        worker = idle.get()
        try:
            return worker.build(request)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        for _ in range(processes):
            idle.put(stack.enter_context(_Worker()))
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        batch: list[str] = []
        held, end = 0, False
        while not end:
            text = next(texts, None)
            end = text is None
            if text is not None:
                batch.append(text)
                held += len(text)
            if batch and (end or held >= characters):
                request = json.dumps([str(place / f"{number:05d}"), start, batch]).encode()
                waiting.append(pool.submit(build, request))
                start, number, batch, held = start + len(batch), number + 1, [], 0
                if len(waiting) > processes:
                    yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


class _Worker:
    """A process that builds shards, one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )

    def build(self, request: bytes) -> Shard:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise UnfinishedError(
                f"a process that builds the index ended with status {self._process.wait()}: give processes=1, or start "
                "again to continue"
            )
        directory, *facts = json.loads(answer)
        return Shard(Path(directory), *facts)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _serve() -> None:
    """Build the shards that standard input asks for."""
    writer = ShardWriter()
    for request in sys.stdin.buffer:
        directory, start, texts = json.loads(request)
        for text in texts:
            writer.add(text)
        del texts, request
        shard = writer.write(Path(directory), start)
        print(json.dumps([str(shard.directory), *shard[1:]]), flush=True)


def _finished_shards(place: Path) -> list[Shard]:
    """The shards that an earlier build finished, without gaps and complete (a power cut may have damaged the last)."""
    shards: list[Shard] = []
    while True:
        directory = place / f"{len(shards):05d}"
        try:
            shard = Shard(directory, **json.loads((directory / "shard.json").read_text("utf-8")))
            count = shard.end - (shards[-1].end if shards else 0)
            sizes = {
                "frequencies": 4 * shard.terms,
                "positions": 4 * shard.postings,
                "counts": shard.postings,
                "lengths": count,
            }
            whole = all((directory / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError, TypeError):
            whole = False
        if not whole:
            break
        shards.append(shard)
    for rest in place.iterdir():
        if rest not in [shard.directory for shard in shards]:
            shutil.rmtree(rest)
    return shards
