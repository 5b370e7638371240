"""Embedded BM25, the default retriever: no server and no Java, only a directory of memory-mapped files.

Score of passage d for query q (Robertson & Zaragoza 2009, as Lucene computes it; tf counts term t in d):

    score(q, d) = sum over t in q of  ln(1 + (N - df_t + 0.5) / (df_t + 0.5))
                                      * tf(t, d) / (tf(t, d) + k1 * (1 - b + b * |d| / avgdl))

As in Lucene, |d| is rounded down to one of 256 lengths (exact up to 40 words), a word counts at most 255 times in a
passage, and N and avgdl are those of the passages with at least one term. Beyond the formula, the following is promised:

1. Hits are ordered by falling score, equal scores by id, also across the cut at k.
2. A passage without any word of the query is not a hit, so that there may be fewer than k hits.
3. A query has the same result alone and in any batch, byte for byte, and the same result with numpy and with numba:
   both sum the terms in the same order.

`build` writes the table; `compiled` is the search for large corpora, loaded by `loader`. The tests compare with the
library bm25s. It is not used here because it needs all postings in memory to build (4.4 GB for a million passages),
reads all postings of every query word, and returns equal scores in arbitrary order.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sys import getsizeof
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import DamagedFileError
from searchgym.lru import LRUCache
from searchgym.options import integer, number
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, SearchResult

from ..indexing.arguments import check_k, check_queries
from ..indexing.backend import Estimate, IndexBackend, Progress, open_index, quiet
from ..indexing.sealed import digest
from . import loader
from .analyzer import TOKENIZER, stem, words
from .build import build_table, estimate_table, parts_table
from .shards import MOST, default_processes
from .table import LAZY, Entry, Table

__all__ = ["BM25", "BM25_BACKEND", "MAX_QUERY_TERMS", "open_bm25"]

MAX_QUERY_TERMS = 1024
"""The number of distinct known words of a query that are used, the first ones (Lucene's clause limit)."""

_FORMAT = 4
# Capacities of the caches.
_CACHED_WORDS = 200_000
_CACHED_PASSAGES = 2**26  # bytes; a corpus may compute or decode a passage on each access
_CACHED_GAINS = 8_000_000  # gains of (term, passage) pairs in the numpy search, 16 bytes each
_COMPILED_FROM = 50_000  # passages from which compiling with numba pays
_QUERIES_OF_A_THREAD = 8  # of the compiled search; a thread is started in the time of one query or less
_SCORES_AT_ONCE = 1 << 16  # of the numpy search: 512 kB, which stay in the cache of the core
_LEAST = np.nextafter(0.0, 1.0)  # a passage without any word of the query has score 0 and is not a hit


class _Term(NamedTuple):
    """A term of the index, as the search needs it."""

    number: int
    entry: Entry
    idf: float
    bound: float  # the largest gain of a passage
    lists: bytes  # the fields of its lists, int64, as the compiled search takes them


_QueryTerm = tuple[float, int, int, _Term]
"""(-bound * times, number, times, term): sorts in the order in which gains are summed."""

_Gains = tuple[NDArray[np.int64], NDArray[np.float64]]
"""The positions of the passages with a term, and what the term adds to the score of each."""

_Found = list[tuple[int, float]]
"""The positions of the best passages and their scores, in order."""


class BM25:
    """A BM25 index over the passages of a corpus; implements `searchgym.Retriever`.

    Created by `open_bm25` (cached on disk), `open_index` (its own directory) or `BM25.build` (in memory). Titles are
    searched with the texts. Searching takes no locks and works from many threads and after a fork.

    Attributes:
        name: "bm25".
        index_hash: digest of the corpus, the settings, the tokenizer and the format.
        settings: k1, b and shuffle.
    """

    name = "bm25"

    def __init__(
        self, corpus: Corpus, settings: Mapping[str, Any], table: Table, directory: Path | None
    ) -> None:
        self.settings = _ranking(settings)
        self.index_hash = digest(_key(corpus, settings))
        self._corpus = corpus
        self._passages = corpus.passages
        self._count = table.facts["passages"]
        self._table = table
        self._directory = directory
        self._documents = table.facts["documents"]  # with at least one term: the N of the formula
        average = table.facts["words"] / self._documents
        self._parts = parts_table(settings["k1"], settings["b"], average)
        # Read as `cache[key]` within try: on the hot path that costs as little as a dict.
        self._words = LRUCache[str, _Term | None](_CACHED_WORDS)
        self._gains = LRUCache[int, _Gains](_CACHED_GAINS, lambda _, gains: len(gains[1]))
        self._cached_passages = LRUCache[int, tuple[str, str, str]](_CACHED_PASSAGES, _passage_bytes)

    @classmethod
    def build(cls, corpus: Corpus, *, k1: float = 0.9, b: float = 0.4, shuffle: int | None = None) -> BM25:
        """Build an index in memory.

        Args:
            corpus: its passages must be ordered by id.
            k1: how slowly repeated words saturate, 0 to 1000.
            b: how much long passages are penalised, 0 to 1.
            shuffle: a control experiment: the seed of a fixed permutation after which every passage is returned in
                place of another. The results look plausible and are wrong; an agent that still answers well did not
                use what it retrieved.

        Raises:
            ConfigError: a setting out of range.
            CorpusError: the corpus is empty, has no words, or is not sorted by id.
        """
        settings = _check_settings(k1, b, shuffle, 1)
        with tempfile.TemporaryDirectory(prefix="searchgym-") as directory:
            build_table(corpus, settings, Path(directory), quiet)
            return cls(corpus, settings, Table.load(Path(directory), mapped=False), None)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`.

        Any string is a query. One without any word of the corpus has the empty result. Repeated words count as often
        as they occur; of a very long query, only the first `MAX_QUERY_TERMS` distinct terms are used.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
        """
        limit = min(check_k(k), self._count)  # a k beyond the corpus must not size arrays
        checked = check_queries(queries)
        try:
            return self._search(checked, limit)
        except (
            DamagedFileError
        ):  # one after the other: some may not need the damaged part of the index or the corpus
            return [self._search_one(query, limit) for query in checked]

    def _search_one(self, query: str, limit: int) -> SearchResult:
        try:
            return self._search([query], limit)[0]
        except DamagedFileError as error:
            return error

    def _search(self, queries: Sequence[str], limit: int) -> list[SearchResult]:
        asked = [self._query_terms(query) for query in queries]
        large = self._count >= _COMPILED_FROM
        best = self._best_compiled if large and loader.ready() else self._best
        found = best([terms for terms in asked if terms], limit)
        results: list[SearchResult] = []
        cached, passages, new = self._cached_passages, self._passages, tuple.__new__
        for terms in asked:
            hits: list[Hit] = []
            if terms:
                for position, score in next(found):
                    try:
                        shown = cached[position]
                    except KeyError:
                        passage = passages[position]
                        shown = (passage.id, passage.title, passage.text)
                        cached.put(position, shown)
                    hits.append(new(Hit, (*shown, score)))  # Hit(*shown, score), at half its cost
            results.append(hits)
        if large:
            loader.fetch()  # after the first results, which should not wait for it
        return results

    def gains(self, position: int) -> dict[str, float]:
        """What each term of a passage adds to its score for a query that contains the term once."""
        passage = self._passages[position]
        found = Counter(words(f"{passage.title}\n{passage.text}"))
        length, counts, known = self._table.lengths.item(position), Counter[str](), {}
        for word, term in stem(found).items():
            counts[term] += found[word]
            known[term] = self._words.find(word) or self._look_up(word)
        gains = {}
        for term, count in counts.items():
            entry = known[term]
            assert entry is not None  # the passage is indexed
            gains[term] = entry.idf * self._parts.item(min(count, MOST) * 256 + length)
        return gains

    def _best(self, asked: Sequence[Sequence[_QueryTerm]], k: int) -> Iterator[_Found]:
        """What each query finds, by numpy: every posting is read.

        With the scores of a query as a matrix, the maximum of each column bounds the k-th best score from below: a cheap
        and exact way to discard nearly all passages before sorting. At least 2 k columns make the bound tight.
        """
        columns = max(128, 4 * k)
        rows = -(-self._count // columns)
        # Several queries share each call to numpy, which costs as much as the work on the scores of a small corpus.
        together = max(1, _SCORES_AT_ONCE // (rows * columns))
        for begin in range(0, len(asked), together):
            group = asked[begin : begin + together]
            if len(group) == 1:
                yield self._best_of_one(group[0], k, rows, columns)
            else:
                yield from self._best_of_several(group, k, rows, columns)

    def _best_of_one(self, terms: Sequence[_QueryTerm], k: int, rows: int, columns: int) -> _Found:
        where: list[NDArray[np.int64]] = []
        what: list[NDArray[np.float64]] = []
        self._add_gains(terms, where, what)
        scores = np.bincount(np.concatenate(where), np.concatenate(what), rows * columns)
        best = scores.reshape(rows, columns).max(axis=0)
        best.sort()
        bound = best[-k]
        candidates = (scores >= bound if bound > 0 else scores > 0).nonzero()[0]
        values = cast("NDArray[np.float64]", scores[candidates])  # numpy's stubs know only counts
        # Stable: equal scores stay in order of position, which is the order of ids.
        order = (-values).argsort(kind="stable")[:k]
        return list(zip(candidates[order].tolist(), values[order].tolist(), strict=True))

    def _best_of_several(
        self, asked: Sequence[Sequence[_QueryTerm]], k: int, rows: int, columns: int
    ) -> Iterator[_Found]:
        """The same, with a dimension for the queries."""
        where: list[NDArray[np.int64]] = []
        what: list[NDArray[np.float64]] = []
        postings = [self._add_gains(terms, where, what) for terms in asked]
        count, size = len(asked), rows * columns
        places = np.concatenate(where) + np.repeat(np.arange(0, count * size, size), postings)
        scores = np.bincount(places, np.concatenate(what), count * size)
        best = scores.reshape(count, rows, columns).max(axis=1)
        best.sort(axis=1)
        bound = np.maximum(best[:, columns - k, None], _LEAST)
        # Over one dimension, because `nonzero` is several times slower over two.
        candidates = (scores.reshape(count, size) >= bound).ravel().nonzero()[0]
        values = cast("NDArray[np.float64]", scores[candidates])
        query = candidates // size
        order = np.lexsort((-values, query))
        found = list(zip((candidates - query * size)[order].tolist(), values[order].tolist(), strict=True))
        begin = 0
        for end in np.bincount(query, minlength=count).cumsum().tolist():
            yield found[begin : min(end, begin + k)]
            begin = end

    def _add_gains(
        self,
        terms: Sequence[_QueryTerm],
        where: list[NDArray[np.int64]],
        what: list[NDArray[np.float64]],
    ) -> int:
        """Append the postings of a query and what each adds to a score, in the order of summing; returns their number."""
        postings = 0
        for _, _, times, term in terms:
            try:
                positions, gains = self._gains[term.number]
            except KeyError:
                positions, gains = self._compute_gains(term)
            where.append(positions)
            what.append(gains if times == 1 else gains * times)
            postings += len(positions)
        return postings

    def _best_compiled(self, asked: Sequence[Sequence[_QueryTerm]], k: int) -> Iterator[_Found]:
        """The same, compiled; see `compiled.search`. Large batches are divided among threads, one for each core."""
        threads = min(default_processes(), len(asked) // _QUERIES_OF_A_THREAD)
        if threads <= 1:
            yield from (self._best_of_compiled(terms, k) for terms in asked)
        else:
            some = _QUERIES_OF_A_THREAD
            parts = [asked[begin : begin + some] for begin in range(0, len(asked), some)]
            with ThreadPoolExecutor(threads) as pool:
                for found in pool.map(
                    lambda part: [self._best_of_compiled(terms, k) for terms in part], parts
                ):
                    yield from found

    def _best_of_compiled(self, terms: Sequence[_QueryTerm], k: int) -> _Found:
        search, table = loader.ready(), self._table
        assert search is not None
        found, scores = np.empty(k, np.int32), np.empty(k, np.float64)
        lists = np.frombuffer(b"".join([term.lists for _, _, _, term in terms]), np.int64).reshape(-1, 5)
        weights = np.array(
            [(term.idf, times, len(term.lists) // 40) for _, _, times, term in terms], np.float64
        )
        codes = table.extremes()
        size = search(table.postings, table.lengths, self._parts, lists, weights, codes, found, scores)
        if size < 0:
            table.refuse_postings()
        return list(zip(found[:size].tolist(), scores[:size].tolist(), strict=True))

    def _query_terms(self, query: str) -> list[_QueryTerm]:
        """The terms of a query, in the order in which their gains are summed."""
        found: dict[int, _QueryTerm] = {}
        for word in words(query):
            try:
                term = self._words[word]
            except KeyError:
                term = self._look_up(word)
            if term is None:
                continue
            number = term.number
            if number in found:
                times = found[number][2] + 1
                found[number] = (-term.bound * times, number, times, term)
            elif len(found) < MAX_QUERY_TERMS:
                found[number] = (-term.bound, number, 1, term)
        return sorted(found.values())

    def _look_up(self, word: str) -> _Term | None:
        found = None
        term = stem([word]).get(word)
        if term is not None:
            entry = self._table.find(term)
            if entry is not None:
                number, frequency, lists = entry
                if frequency > self._documents:
                    self._table.refuse_postings()
                idf = math.log(1 + (self._documents - frequency + 0.5) / (frequency + 0.5))
                most = max(self._parts.item(one.best) for one in lists)
                found = _Term(number, entry, idf, idf * most, np.array(lists, np.int64).tobytes())
        self._words.put(word, found)
        return found

    def _compute_gains(self, term: _Term) -> _Gains:
        """Where a term occurs, and what it adds to the score of each of these passages."""
        lengths, where, what = self._table.lengths, [], []
        for some, count in self._table.unpacked(term.entry):
            codes = lengths.take(some)
            if isinstance(count, int):  # then the length decides alone
                gains = (self._parts[count * 256 : (count + 1) * 256] * term.idf).take(codes)
            else:
                gains = self._parts.take(count * np.int64(256) + codes) * term.idf
            where.append(some)
            what.append(gains)
        if len(where) > 1:
            where, what = [np.concatenate(where)], [np.concatenate(what)]
        positions, gains = where[0], what[0]
        self._gains.put(term.number, (positions, gains))
        return positions, gains

    def __reduce__(self) -> tuple[Any, ...]:
        if self._directory is not None:  # workers map the same files instead of copying them
            return (open_index, (self._directory, self._corpus))
        return (BM25, (self._corpus, self.settings, self._table, None))


class BM25Backend(IndexBackend):
    """BM25 with Lucene's formula and English terms; needs no extra.

    The entry point `bm25` of `searchgym.retrievers`. Options and errors are those of `BM25.build`.
    """

    name = BM25.name
    lazy = LAZY

    def settings(
        self, *, k1: float = 0.9, b: float = 0.4, shuffle: int | None = None, processes: int | None = None
    ) -> dict[str, Any]:
        """Check the options.

        Args:
            k1: how slowly repeated words saturate, 0 to 1000.
            b: how much long passages are penalised, 0 to 1.
            shuffle: seed of a control experiment in which every passage is returned in place of another.
            processes: how many build the index of a large corpus, 1 to 64; by default as many as there are cores, and at
                most 4. The index does not depend on it.

        Raises:
            ConfigError: a setting out of range.
        """
        return _check_settings(k1, b, shuffle, processes)

    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        return _key(corpus, settings)

    def lasting_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return _ranking(settings)

    def estimate(self, corpus: Corpus, settings: Mapping[str, Any]) -> Estimate:
        return estimate_table(corpus)

    def build(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
        build_table(corpus, settings, directory, progress)

    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> BM25:
        return BM25(corpus, settings, Table.load(directory, mapped=True), directory)


BM25_BACKEND = BM25Backend()


def open_bm25(corpus: Corpus, *, k1: float = 0.9, b: float = 0.4, shuffle: int | None = None) -> BM25:
    """The BM25 index of a corpus: built at the first call, opened from the cache after that.

    Arguments and errors are those of `BM25.build`.
    """
    index = BM25_BACKEND(corpus, k1=k1, b=b, shuffle=shuffle)
    assert isinstance(index, BM25)
    return index


def _passage_bytes(position: int, shown: tuple[str, str, str]) -> int:
    """About what a passage takes in memory, with its place in the cache."""
    return 200 + sum(map(getsizeof, shown))


def _key(corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the ranking."""
    return {
        "format": _FORMAT,
        "backend": BM25.name,
        "corpus": corpus.hash,
        "settings": _ranking(settings),
        "tokenizer": TOKENIZER,
    }


def _ranking(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which the ranking depends."""
    return {name: settings[name] for name in ("k1", "b", "shuffle")}


def _check_settings(k1: object, b: object, shuffle: object, processes: object) -> dict[str, Any]:
    seed = None if shuffle is None else integer("BM25 setting shuffle", shuffle, 0, 2**32 - 1)
    return {
        "k1": number("BM25 setting k1", k1, 0, 1000),
        "b": number("BM25 setting b", b, 0, 1),
        "shuffle": seed,
        "processes": None if processes is None else integer("BM25 setting processes", processes, 1, 64),
    }
