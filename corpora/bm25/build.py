"""Builds the BM25 table in bounded memory: sorted runs ("shards"), then one merge (Heinz & Zobel 2003, SPIMI).

A shard is the inverted index of consecutive passages, built in memory and written to disk (`shards`). Merging combines the
shards' terms into one sorted vocabulary and their postings, term by term, into one table (`layout`). Document frequencies
and the average length are counted over all shards before anything is scored, so that the finished table is the same, byte
for byte, regardless of the division into shards and of the number of processes. A build that was killed continues after
its last shard.

As in Lucene, a passage without any term counts neither in the number of passages nor in the average length.

What is stored of a (term, passage) pair is its count, not its score, and lengths are rounded to one byte as in Lucene, so
that scores agree with Lucene's.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import CorpusError
from searchgym.files import write_text
from searchgym.records.question import Corpus

from ..indexing.backend import Estimate, Progress
from .analyzer import words
from .layout import PADDING, write_records
from .shards import BUFFER, LENGTHS, MOST, SHARD_WORDS, Shard, ShardWriter, read_shards

__all__ = ["TOGETHER", "build_table", "estimate_table", "first_bytes", "parts_table"]

TOGETHER = 32
"""Terms of a block of the vocabulary, which share an entry of `blocks.npy`."""
_MERGED_AT_ONCE = 2**21  # postings; a single term that has more is merged alone
_SAMPLE = 200  # passages that an estimate is made from


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

    Files: `terms.txt`, one term per line, sorted; `postings.bin`, a record per term (`layout`); `places.npy`, where each
    record begins after the first of its block of `TOGETHER` terms; `blocks.npy`, for each block and for the end, the first
    eight bytes of its first term, and where its terms and its records begin; `lengths.npy`, one code per passage;
    `bm25.json`, the totals.

    Args:
        corpus: its passages must be ordered by id.
        settings: k1, b, shuffle and processes, as `BM25.build` takes them.
        directory: where the files are written.
        progress: called with the phases "reading" and "merging".

    Raises:
        CorpusError: the corpus is empty, has no words, or is not sorted by id.
    """
    if not (directory / "bm25.json").exists():
        place = directory / "shards"
        place.mkdir(exist_ok=True)
        shards = read_shards(corpus, settings, place, progress)
        _merge(corpus, settings, shards, directory, progress)
    shutil.rmtree(directory / "shards", ignore_errors=True)


def estimate_table(corpus: Corpus) -> Estimate:
    """What `build_table` will take, from a sample of the passages."""
    count = len(corpus.passages)
    sample = range(0, count, max(1, count // _SAMPLE))
    started = time.perf_counter()
    writer = ShardWriter()
    distinct = 0
    for position in sample:
        passage = corpus.passages[position]
        text = f"{passage.title}\n{passage.text}"
        writer.add(text)
        distinct += len(set(words(text)))
    found = len(writer.words)
    each = (time.perf_counter() - started) / max(1, len(sample))
    total = found / max(1, len(sample)) * count
    postings = distinct / max(1, len(sample)) * count
    # The number of distinct terms by Heaps' law, rather too high; the shards repeat some of them.
    terms = 80 * total**0.55
    at_once = min(total, SHARD_WORDS)
    shards = 12 * 80 * at_once**0.55 * max(1.0, total / SHARD_WORDS)
    return Estimate(
        disk=int(8 * postings + 2 * count + 32 * terms + shards) + 2**20,
        memory=int(40 * at_once + 60 * min(postings, 2 * _MERGED_AT_ONCE) + 40 * terms + shards / 3 + count)
        + 2**26,
        seconds=1.5 * each * count,
    )


def _merge(
    corpus: Corpus, settings: Mapping[str, Any], shards: Sequence[Shard], directory: Path, progress: Progress
) -> None:
    total, count = sum(shard.words for shard in shards), shards[-1].end
    if total == 0:
        raise CorpusError(f"corpus {corpus.name!r} has {count} passages without any word: give one with text")
    postings = sum(shard.postings for shard in shards)
    progress("merging", 0, postings)
    lengths = np.concatenate([shard.read("lengths", np.uint8) for shard in shards])
    np.save(directory / "lengths.npy", lengths, allow_pickle=False)
    numbers, starts, prefixes, texts = _merge_terms(shards, directory)
    documents = int(np.count_nonzero(lengths))
    parts = parts_table(settings["k1"], settings["b"], total / documents)
    records = np.zeros(len(starts), np.int64)
    with (directory / "postings.bin").open("wb", buffering=0) as file:
        for low, high, where, often in _merged_postings(shards, numbers, starts):
            content, begins = write_records(
                where, often, starts[low : high + 1] - starts[low], lengths, parts
            )
            content.tofile(file)
            records[low + 1 : high + 1] = records[low] + begins[1:]
            progress("merging", int(starts[high]), postings)
        file.write(bytes(PADDING))
    blocks = records[:-1:TOGETHER]
    np.save(
        directory / "places.npy",
        (records[:-1] - np.repeat(blocks, TOGETHER)[: len(records) - 1]).astype("<u4"),
        allow_pickle=False,
    )
    np.save(
        directory / "blocks.npy",
        np.stack([prefixes, texts, np.append(blocks, records[-1]).astype("<u8")]),
        allow_pickle=False,
    )
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
    shards: Sequence[Shard], directory: Path
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Merge the sorted terms.

    Returns:
        The numbers of each shard's terms; where the postings of each term begin; for every block and the end, the first
        bytes of its first term, and where its terms begin.
    """

    def lines(number: int) -> Iterator[tuple[bytes, int]]:
        with (shards[number].directory / "terms").open("rb", buffering=BUFFER) as file:
            # Without its line end, a term sorts as its text does.
            yield from zip((line[:-1] for line in file), repeat(number))

    mapped = [array("i") for _ in shards]
    prefixes, texts = array("Q"), array("Q")
    previous, count, size = None, 0, 0
    with (directory / "terms.txt").open("wb", buffering=BUFFER) as out:
        for term, shard in heapq.merge(*map(lines, range(len(shards)))):
            if term != previous:
                if count % TOGETHER == 0:
                    prefixes.append(first_bytes(term))
                    texts.append(size)
                out.write(term + b"\n")
                size += len(term) + 1
                count += 1
                previous = term
            mapped[shard].append(count - 1)
    prefixes.append(2**64 - 1)
    texts.append(size)
    numbers = [np.array(terms, np.int32) for terms in mapped]
    starts = np.zeros(count + 1, np.int64)
    for shard_, terms in zip(shards, numbers, strict=True):
        starts[terms + 1] += shard_.read("frequencies", np.int32)
    np.cumsum(starts, out=starts)
    return numbers, starts, np.array(prefixes, "<u8"), np.array(texts, "<u8")


def first_bytes(term: bytes) -> int:
    """The first eight bytes of a term, as a number that sorts as they do."""
    return int.from_bytes(term[:8].ljust(8, b"\0"), "big")


def _merged_postings(
    shards: Sequence[Shard], numbers: Sequence[NDArray[np.int32]], starts: NDArray[np.int64]
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
