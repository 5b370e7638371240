"""Builds the BM25 table in bounded memory: sorted runs ("shards"), then one merge (Heinz & Zobel 2003, SPIMI).

A shard is the inverted index of consecutive passages, built in memory and written to disk. Merging combines the shards'
terms into one sorted vocabulary and their postings, term by term, into one table. Document frequencies and the average
length are counted over all shards before anything is scored, so that the finished table is the same, byte for byte,
regardless of the division into shards. A build that was killed continues after its last shard.

As in Lucene, a passage without any term counts neither in the number of passages nor in the average length.

What is stored of a (term, passage) pair is its count, not its score: five bytes instead of eight, and lengths are
rounded to one byte as in Lucene, so that scores agree with Lucene's.
"""

from __future__ import annotations

import heapq
import json
import shutil
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import CorpusError
from searchgym.files import write_text
from searchgym.question import Corpus, Passage

from ..indexing.backend import Estimate, Progress
from .analyzer import stem, words

__all__ = ["LENGTHS", "MOST", "build_table", "estimate_table", "parts_table"]

SHARD_WORDS = 2**24
"""Words per shard: about 170,000 passages of 100 words, and 0.6 GB of memory at the peak."""
MOST = 255
"""The largest count of a word in a passage, as counts are stored in one byte."""
_MERGED_AT_ONCE = 2**22  # postings; a single term that has more is merged alone
_BUFFER = 2**20
_REPORT_EVERY = 1000  # passages between two reports of progress
_SAMPLE = 200  # passages that an estimate is made from


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


def parts_table(k1: float, b: float, average: float) -> NDArray[np.float64]:
    """tf / (tf + k1 (1 - b + b |d| / avgdl)) for every count (row) and length code (column), flattened."""
    norms = k1 * (1 - b + b * LENGTHS / average)
    counts = np.arange(MOST + 1, dtype=np.float64)[:, None]
    counts[0] = 1.0  # no posting has the count 0; this avoids 0 / 0 at k1 = 0
    table: NDArray[np.float64] = (counts / (counts + norms)).ravel()
    table.flags.writeable = False
    return table


def build_table(corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
    """Write the table of a corpus to a directory, continuing what an earlier call left there.

    Files: `terms.txt`, one term per line, sorted; `term_starts.npy`, where each begins; `starts.npy`, where each
    term's postings begin in `positions.npy` (ascending) and `counts.npy`; `most.npy`, the largest part of a term's
    postings; `lengths.npy`, one code per passage; `bm25.json`, the totals.

    Args:
        corpus: its passages must be ordered by id.
        settings: k1, b and shuffle, as `BM25.build` takes them.
        directory: where the files are written.
        progress: called with the phases "reading" and "merging".

    Raises:
        CorpusError: the corpus is empty, has no words, or is not sorted by id.
    """
    if not (directory / "bm25.json").exists():
        place = directory / "shards"
        place.mkdir(exist_ok=True)
        shards = _read(corpus, settings, place, progress)
        _merge(corpus, settings, shards, directory, progress)
    shutil.rmtree(directory / "shards", ignore_errors=True)


def estimate_table(corpus: Corpus) -> Estimate:
    """What `build_table` will take, from a sample of the passages."""
    count = len(corpus.passages)
    sample = range(0, count, max(1, count // _SAMPLE))
    started = time.perf_counter()
    shard = _ShardWriter(0)
    distinct = 0
    for position in sample:
        shard.add(corpus.passages[position])
        distinct += len(set(shard.words[shard.ends[-2] if len(shard.ends) > 1 else 0 :]))
    each = (time.perf_counter() - started) / max(1, len(sample))
    total = len(shard.words) / max(1, len(sample)) * count
    postings = distinct / max(1, len(sample)) * count
    # The number of distinct terms by Heaps' law, rather too high; the shards repeat some of them.
    terms = 80 * total**0.55
    at_once = min(total, SHARD_WORDS)
    shards = 12 * 80 * at_once**0.55 * max(1.0, total / SHARD_WORDS)
    return Estimate(
        disk=int(10 * postings + 2 * count + 32 * terms + shards) + 2**20,
        memory=int(40 * at_once + 60 * min(postings, 2 * _MERGED_AT_ONCE) + 40 * terms + shards / 3 + count)
        + 2**26,
        seconds=1.5 * each * count,
    )


class _Shard(NamedTuple):
    """A finished shard: files of terms, of each term's number of postings, and of postings by term."""

    directory: Path
    end: int  # the position after its last passage
    words: int  # that are indexed
    terms: int
    postings: int

    def read(self, name: str, dtype: type[np.generic], count: int = -1, offset: int = 0) -> NDArray[Any]:
        size = np.dtype(dtype).itemsize
        return np.fromfile(self.directory / name, dtype, count, offset=offset * size)


def _read(corpus: Corpus, settings: Mapping[str, Any], place: Path, progress: Progress) -> list[_Shard]:
    """Divide the corpus into shards, except those that exist already."""
    passages = corpus.passages
    total = len(passages)
    shards = _finished_shards(place)
    start = shards[-1].end if shards else 0
    source = None if settings["shuffle"] is None else _derangement(total, settings["shuffle"]).argsort()
    shard = _ShardWriter(start)
    previous = passages[start - 1].id if start else None
    for position, passage in enumerate(passages[start:] if start else passages, start):
        if previous is not None and passage.id <= previous:
            raise CorpusError(
                f"corpus {corpus.name!r} is not sorted by id: {passage.id!r} follows {previous!r}; sort it"
            )
        previous = passage.id
        shard.add(passage if source is None else passages[int(source[position])])
        if len(shard.words) >= SHARD_WORDS:
            shards.append(shard.write(place / f"{len(shards):05d}"))
            shard = _ShardWriter(position + 1)
        if position % _REPORT_EVERY == 0:
            progress("reading", position, total)
    if shard.ends or not shards:
        shards.append(shard.write(place / f"{len(shards):05d}"))
    progress("reading", total, total)
    return shards


def _derangement(count: int, seed: int) -> NDArray[np.int32]:
    """A random cycle through all positions, so that none stays in place if there are two or more."""
    order = np.random.RandomState(seed).permutation(count)  # RandomState, because its stream never changes
    target = np.empty(count, np.int32)
    target[order] = np.roll(order, -1)
    return target


class _Numbers(dict[str, int]):
    """A number for every word: that of its term, in order of appearance; -1 for a stop word."""

    def __init__(self) -> None:
        self.terms: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        term = stem([word]).get(word)
        self[word] = number = -1 if term is None else self.terms.setdefault(term, len(self.terms))
        return number


class _ShardWriter:
    """Collects the words of passages from position `start` on."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.words = array("i")
        self.ends = array("q")
        self._numbers = _Numbers()

    def add(self, passage: Passage) -> None:
        found = words(f"{passage.title}\n{passage.text}")
        self.words.extend(map(self._numbers.__getitem__, found))
        self.ends.append(len(self.words))

    def write(self, directory: Path) -> _Shard:
        count = len(self.ends)
        terms = sorted(self._numbers.terms)
        ranks = np.empty(len(terms), np.int64)
        ranks[[self._numbers.terms[term] for term in terms]] = np.arange(len(terms))
        numbers = np.frombuffer(self.words, np.int32)
        kept = numbers >= 0
        ends = np.frombuffer(self.ends, np.int64)
        sizes = ends - np.concatenate([[0], ends[:-1]])
        passage = np.repeat(np.arange(self.start, self.start + count, dtype=np.int64), sizes)[kept]
        # One number per word: by term, then by passage. After sorting, equal numbers are adjacent.
        keys = ranks[numbers[kept]]
        keys <<= 32
        keys |= passage
        keys.sort()
        firsts = np.flatnonzero(np.concatenate([keys[:1] >= 0, keys[1:] != keys[:-1]]))
        counts = np.concatenate([firsts[1:], [len(keys)]]) - firsts
        lengths = np.bincount(passage - self.start, minlength=count)
        del passage, numbers, kept
        pairs = keys[firsts]
        shard = _Shard(directory, self.start + count, len(keys), len(terms), len(pairs))
        work = directory.with_suffix(".tmp")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        with (work / "terms").open("wb", buffering=_BUFFER) as file:
            file.writelines(term.encode() + b"\n" for term in terms)
        np.bincount(pairs >> 32, minlength=len(terms)).astype(np.int32).tofile(work / "frequencies")
        (pairs & 0xFFFFFFFF).astype(np.int32).tofile(work / "positions")
        np.minimum(counts, MOST).astype(np.uint8).tofile(work / "counts")
        (LENGTHS.searchsorted(lengths, side="right") - 1).astype(np.uint8).tofile(work / "lengths")
        facts = {"end": shard.end, "words": shard.words, "terms": shard.terms, "postings": shard.postings}
        (work / "shard.json").write_text(json.dumps(facts), "utf-8")
        work.rename(directory)
        return shard


def _finished_shards(place: Path) -> list[_Shard]:
    """The shards that an earlier build finished, without gaps and complete (a power cut may have damaged the last)."""
    shards: list[_Shard] = []
    while True:
        directory = place / f"{len(shards):05d}"
        try:
            shard = _Shard(directory, **json.loads((directory / "shard.json").read_text("utf-8")))
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


def _merge(
    corpus: Corpus, settings: Mapping[str, Any], shards: Sequence[_Shard], directory: Path, progress: Progress
) -> None:
    total, count = sum(shard.words for shard in shards), shards[-1].end
    if total == 0:
        raise CorpusError(f"corpus {corpus.name!r} has {count} passages without any word: give one with text")
    postings = sum(shard.postings for shard in shards)
    progress("merging", 0, postings)
    lengths = np.concatenate([shard.read("lengths", np.uint8) for shard in shards])
    np.save(directory / "lengths.npy", lengths, allow_pickle=False)
    numbers, starts = _merge_terms(shards, directory)
    documents = int(np.count_nonzero(lengths))
    parts = parts_table(settings["k1"], settings["b"], total / documents)
    with (
        _npy(directory / "positions.npy", np.int32, postings) as positions,
        _npy(directory / "counts.npy", np.uint8, postings) as counts,
        _npy(directory / "most.npy", np.float64, len(starts) - 1) as most,
    ):
        for low, high, where, often in _merged_postings(shards, numbers, starts):
            where.tofile(positions)
            often.tofile(counts)
            score = parts[often.astype(np.int64) * 256 + lengths[where]]
            np.maximum.reduceat(score, starts[low:high] - starts[low]).tofile(most)
            progress("merging", int(starts[high]), postings)
    facts = {
        "passages": count,
        "documents": documents,
        "words": total,
        "terms": len(starts) - 1,
        "postings": postings,
    }
    # Written last: it shows that everything else is there.
    write_text(directory / "bm25.json", json.dumps(facts), alone=True)


def _merge_terms(
    shards: Sequence[_Shard], directory: Path
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """Merge the sorted terms; returns the numbers of each shard's terms, and where the postings of each term begin."""

    def lines(number: int) -> Iterator[tuple[bytes, int]]:
        with (shards[number].directory / "terms").open("rb", buffering=_BUFFER) as file:
            # Without its line end, a term sorts as its text does.
            yield from zip((line[:-1] for line in file), repeat(number))

    mapped = [array("i") for _ in shards]
    begins = array("q", [0])
    previous = None
    with (directory / "terms.txt").open("wb", buffering=_BUFFER) as out:
        for term, shard in heapq.merge(*map(lines, range(len(shards)))):
            if term != previous:
                out.write(term + b"\n")
                begins.append(begins[-1] + len(term) + 1)
                previous = term
            mapped[shard].append(len(begins) - 2)
    np.save(directory / "term_starts.npy", np.array(begins, np.int64), allow_pickle=False)
    numbers = [np.array(terms, np.int32) for terms in mapped]
    starts = np.zeros(len(begins), np.int64)
    for shard_, terms in zip(shards, numbers, strict=True):
        starts[terms + 1] += shard_.read("frequencies", np.int32)
    np.cumsum(starts, out=starts)
    np.save(directory / "starts.npy", starts, allow_pickle=False)
    return numbers, starts


def _merged_postings(
    shards: Sequence[_Shard], numbers: Sequence[NDArray[np.int32]], starts: NDArray[np.int64]
) -> Iterator[tuple[int, int, NDArray[np.int32], NDArray[np.uint8]]]:
    """The postings of consecutive ranges of terms [low, high), as (low, high, positions, counts)."""
    read = [0] * len(shards)  # terms and postings of each shard that are already merged
    consumed = [0] * len(shards)
    low, terms = 0, len(starts) - 1
    while low < terms:
        high = int(starts.searchsorted(starts[low] + _MERGED_AT_ONCE, side="right")) - 1
        high = min(max(high, low + 1), terms)
        size = int(starts[high] - starts[low])
        where, often = np.empty(size, np.int32), np.empty(size, np.uint8)
        free = starts[low:high] - starts[low]  # where each term's next posting goes
        for i, shard in enumerate(shards):
            end = int(numbers[i].searchsorted(high))
            if end == read[i]:
                continue
            own = numbers[i][read[i] : end] - low
            frequencies = shard.read("frequencies", np.int32, end - read[i], read[i]).astype(np.int64)
            amount = int(frequencies.sum())
            before = np.cumsum(frequencies) - frequencies
            target = np.repeat(free[own] - before, frequencies) + np.arange(amount)
            where[target] = shard.read("positions", np.int32, amount, consumed[i])
            often[target] = shard.read("counts", np.uint8, amount, consumed[i])
            free[own] += frequencies
            read[i], consumed[i] = end, consumed[i] + amount
        yield low, high, where, often
        low = high


def _npy(file: Path, dtype: type[np.generic], count: int) -> BinaryIO:
    """A new .npy file for `count` numbers, which the caller writes; for arrays larger than memory."""
    out = file.open("wb", buffering=_BUFFER)
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": (count,)})
    out.flush()  # tofile writes past the buffer
    return out
