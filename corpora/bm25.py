"""Embedded BM25: the default retriever, on bm25s.

Score of passage d for query q (Kamphuis et al. 2020, the variant "Lucene (accurate)"; tf counts term t in d):

    score(q, d) = sum over t in q of  ln(1 + (N - df_t + 0.5) / (df_t + 0.5))
                                      * tf(t, d) / (tf(t, d) + k1 * (1 - b + b * |d| / avgdl))

bm25s computes every term's contribution to every passage once, at build time, and stores them by term. What
is ours is the search over that table, because bm25s's own leaves equal scores in arbitrary order:

1. Hits come by falling score, equal scores by id, and this holds across the cut at k too.
2. A passage without any word of the query is not a hit, so there may be fewer than k.
3. A query is searched alone or in any batch with the same result, byte for byte.
"""

from __future__ import annotations

import importlib.metadata
import json
import operator
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, CorpusError, IndexMismatchError
from searchgym.question import Corpus, Passage
from searchgym.retriever import Hit, SearchResult

from .cache import damage, digest, read_key, seal
from .indexes import Estimate, IndexBackend, Progress
from .text import TOKENIZER, stem, words

__all__ = ["BM25", "BM25_BACKEND", "MAX_QUERY_TERMS", "open_bm25"]

MAX_QUERY_TERMS = 1024
"""Distinct known words of a query that are used, the first ones (Lucene's clause limit): bounds the work."""

_FORMAT = 1
# What is kept at hand; a table that is full starts afresh.
_KNOWN_WORDS = 100_000
_KNOWN_PASSAGES = 50_000  # a corpus may compute or decode a passage each time it is asked
_PROGRESS_FROM = 100_000  # passages from which building takes long enough to show progress

_Posting = tuple[NDArray[np.int32], NDArray[np.float32]]


class _Table(NamedTuple):
    """The scores of every (term, passage) pair, by term: term t owns `starts[t]:starts[t + 1]`."""

    positions: NDArray[np.int32]
    scores: NDArray[np.float32]
    starts: NDArray[np.int64]
    vocabulary: dict[str, int]


class BM25:
    """A BM25 index over the passages of a corpus; implements `searchgym.Retriever`.

    Make one with `BM25.build`, `BM25.open` or, cached on disk, `open_bm25`. Titles are searched with the
    texts. Searching needs no locks and may be done from many threads.

    Attributes:
        name: "bm25".
        index_hash: digest of the corpus, the settings, the tokenizer and the version of bm25s.
        settings: k1, b and shuffle.
    """

    name = "bm25"

    def __init__(
        self, corpus: Corpus, settings: dict[str, Any], table: _Table, directory: Path | None
    ) -> None:
        self.settings = settings
        self.index_hash = digest(_key(corpus, settings))
        self._corpus = corpus
        self._passages = corpus.passages
        self._count = len(self._passages)
        self._table = table
        self._directory = directory
        self._postings: dict[str, _Posting | None] = {}
        self._seen: dict[int, Passage] = {}

    @classmethod
    def build(cls, corpus: Corpus, *, k1: float = 0.9, b: float = 0.4, shuffle: int | None = None) -> BM25:
        """Index a corpus in memory.

        Args:
            corpus: its passages must be ordered by id.
            k1: how slowly repeated words saturate, 0 to 1000.
            b: how much long passages are penalised, 0 to 1.
            shuffle: a control, not a feature. The seed of a fixed rearrangement after which every passage
                is returned in place of another: the index answers as fluently as ever, and wrongly. An
                agent that still does well did not read what it retrieved.

        Raises:
            ConfigError: a setting out of range.
            CorpusError: the corpus is empty, holds no words, or is not sorted by id.
        """
        settings = _check_settings(k1, b, shuffle)
        return cls(corpus, settings, _index(corpus, settings), None)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], corpus: Corpus) -> BM25:
        """Open a saved index, memory-mapped: a large one costs no more to open than a small one.

        Raises:
            IndexMismatchError: the directory is no index, or one of another corpus, tokenizer or version, or
                it is damaged.
        """
        directory = Path(directory)
        again = "Build it again: BM25.build(corpus).save(directory)."
        problem = damage(directory)
        if problem is not None:
            raise IndexMismatchError(f"no usable BM25 index in {directory}: {problem}. {again}")
        key = read_key(directory)
        settings = key.get("settings")
        if key.get("backend") != cls.name or not isinstance(settings, dict):
            raise IndexMismatchError(f"{directory} holds something else than a BM25 index. {again}")
        for what, ours in _key(corpus, settings).items():
            if key.get(what) != ours:
                raise IndexMismatchError(
                    f"the BM25 index in {directory} is of another {what}: {key.get(what)!r}, not {ours!r} "
                    f"(corpus {corpus.name!r}). {again}"
                )
        return cls(corpus, settings, _load(directory), directory)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the index to a directory that is empty or does not exist yet.

        Raises:
            ConfigError: the directory has something in it.
        """
        directory = Path(directory)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(
                f"{directory} is not empty: save the index to a new directory, or remove it first"
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp")
        work.mkdir()
        try:
            self._write(work)
            seal(work, self.name, _key(self._corpus, self.settings))
            if directory.exists():
                directory.rmdir()
            work.rename(directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`.

        Any string is a query. One without any word of the corpus has the empty result. Repeated words count
        as often as they occur; of a very long query the first `MAX_QUERY_TERMS` distinct words are used.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
        """
        limit = min(_check_k(k), self._count)  # a k beyond the corpus must not size the arrays below
        if isinstance(queries, str):
            raise ConfigError(f"queries is one string ({queries[:40]!r}): pass a list of strings")
        return [self._search(query, limit) for query in queries]

    def _search(self, query: str, k: int) -> SearchResult:
        postings = self._query_postings(query)
        if not postings:
            return []
        # Scores are summed in the order of the query's words, so identical passages get identical sums.
        # Seen as a matrix, the greatest score of each column bounds the k-th best from below: a cheap and
        # exact way to discard nearly all passages before sorting. At least 2 k columns make the bound tight.
        columns = max(128, 4 * k)
        rows = -(-self._count // columns)
        where, what = zip(*postings, strict=True)
        scores = np.bincount(np.concatenate(where), np.concatenate(what), rows * columns)
        best = scores.reshape(rows, columns).max(axis=0)
        best.sort()
        bound = best[-k]
        candidates = (scores >= bound if bound > 0 else scores > 0).nonzero()[0]
        values = scores[candidates]
        order = (-values).argsort(kind="stable")[
            :k
        ]  # stable: equal scores stay in order of position, so of id
        hits = []
        for position, score in zip(candidates[order].tolist(), values[order].tolist(), strict=True):
            passage = self._seen.get(position) or self._fetch(position)
            hits.append(Hit(passage.id, passage.title, passage.text, score))
        return hits

    def _query_postings(self, query: str) -> list[_Posting]:
        """The postings of the query's words, each scaled by how often the word occurs in the query."""
        if not isinstance(query, str):
            raise ConfigError(f"query {query!r} is of type {type(query).__name__}: pass a string")
        counts: dict[str, int] = {}
        for word in words(query):
            counts[word] = counts.get(word, 0) + 1
        found = []
        for word, count in counts.items():
            try:
                posting = self._postings[word]
            except KeyError:
                posting = self._look_up(word)
            if posting is not None:
                found.append(posting if count == 1 else (posting[0], posting[1] * np.float32(count)))
                if len(found) == MAX_QUERY_TERMS:
                    break
        return found

    def _look_up(self, word: str) -> _Posting | None:
        posting = None
        term = stem([word]).get(word)
        if term in self._table.vocabulary:
            column = self._table.vocabulary[term]
            start, end = self._table.starts[column : column + 2].tolist()
            posting = (self._table.positions[start:end], self._table.scores[start:end])
        if len(self._postings) >= _KNOWN_WORDS:
            self._postings = {}
        self._postings[word] = posting
        return posting

    def _fetch(self, position: int) -> Passage:
        if len(self._seen) >= _KNOWN_PASSAGES:
            self._seen = {}
        passage = self._seen[position] = self._passages[position]
        return passage

    def _write(self, directory: Path) -> None:
        table = self._table
        for name, array in (
            ("positions", table.positions),
            ("scores", table.scores),
            ("starts", table.starts),
        ):
            np.save(directory / f"{name}.npy", array, allow_pickle=False)
        (directory / "vocabulary.json").write_text(json.dumps(table.vocabulary), "utf-8")

    def __reduce__(self) -> tuple[Any, ...]:
        if self._directory is not None:  # workers map the same file instead of copying it
            return (BM25.open, (self._directory, self._corpus))
        return (BM25, (self._corpus, self.settings, self._table, None))


class BM25Backend(IndexBackend):
    """The entry point `bm25` of `searchgym.retrievers`. Options and errors are those of `BM25.build`."""

    name = BM25.name

    def settings(self, *, k1: float = 0.9, b: float = 0.4, shuffle: int | None = None) -> dict[str, Any]:
        return _check_settings(k1, b, shuffle)

    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        return _key(corpus, settings)

    def estimate(self, corpus: Corpus, settings: Mapping[str, Any]) -> Estimate:
        count = len(corpus.passages)
        return Estimate(disk=600 * count, memory=4500 * count)

    def build(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
        BM25.build(corpus, **settings)._write(directory)

    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> BM25:
        return BM25(corpus, dict(settings), _load(directory), directory)


BM25_BACKEND = BM25Backend()


def open_bm25(corpus: Corpus, *, k1: float = 0.9, b: float = 0.4, shuffle: int | None = None) -> BM25:
    """The BM25 index of a corpus: built at the first call, opened from the cache after that.

    Arguments and errors are those of `BM25.build`.
    """
    index = BM25_BACKEND(corpus, k1=k1, b=b, shuffle=shuffle)
    assert isinstance(index, BM25)
    return index


def _key(corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the ranking."""
    return {
        "format": _FORMAT,
        "backend": BM25.name,
        "corpus": corpus.hash,
        "settings": dict(settings),
        "tokenizer": TOKENIZER,
        "bm25s": importlib.metadata.version("bm25s"),
    }


def _check_settings(k1: object, b: object, shuffle: object) -> dict[str, Any]:
    for name, value, high in (("k1", k1, 1000.0), ("b", b, 1.0)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high:
            raise ConfigError(f"BM25 setting {name}={value!r}: use a number from 0 to {high:g}")
    if shuffle is not None and (type(shuffle) is not int or not 0 <= shuffle < 2**32):
        raise ConfigError(f"BM25 setting shuffle={shuffle!r}: use None, or a seed from 0 to {2**32 - 1}")
    return {"k1": float(k1), "b": float(b), "shuffle": shuffle}  # type: ignore[arg-type]  # checked above


def _check_k(k: object) -> int:
    try:
        number = operator.index(k)  # type: ignore[arg-type]  # also numpy's integers
    except TypeError:
        number = 0
    if number < 1 or isinstance(k, bool):
        raise ConfigError(f"k={k!r}: use a whole number >= 1")
    return number


def _index(corpus: Corpus, settings: dict[str, Any]) -> _Table:
    import bm25s  # takes a while (numba), and only building needs it

    show = len(corpus.passages) >= _PROGRESS_FROM and sys.stderr.isatty()
    word_terms: dict[str, int | None] = {}  # every distinct word once; None for stop words
    vocabulary: dict[str, int] = {}
    documents = []
    for passage in _in_order(corpus, show):
        found = words(f"{passage.title}\n{passage.text}")
        new = [word for word in dict.fromkeys(found) if word not in word_terms]
        if new:
            stems = stem(new)
            for word in new:
                term = stems.get(word)
                word_terms[word] = None if term is None else vocabulary.setdefault(term, len(vocabulary))
        documents.append([term for term in map(word_terms.__getitem__, found) if term is not None])
    if not vocabulary:
        raise CorpusError(f"corpus {corpus.name!r} has {len(documents)} passages and no word to search for")
    index = bm25s.BM25(k1=settings["k1"], b=settings["b"], method="lucene")
    index.index((documents, vocabulary), create_empty_token=False, show_progress=show)
    positions = index.scores["indices"].astype(np.int32, copy=False)
    if settings["shuffle"] is not None:
        positions = _derangement(len(documents), settings["shuffle"])[positions]
    return _Table(
        positions, index.scores["data"], index.scores["indptr"].astype(np.int64, copy=False), vocabulary
    )


def _in_order(corpus: Corpus, show: bool) -> Iterator[Passage]:
    """All passages, checking that position order is id order, on which the order of ties rests."""
    from rich.console import Console
    from rich.progress import track

    previous: str | None = None
    console = Console(stderr=True)
    for passage in track(corpus.passages, f"Reading {corpus.name}", console=console, disable=not show):
        if previous is not None and passage.id <= previous:
            raise CorpusError(
                f"corpus {corpus.name!r} is not sorted by id: {passage.id!r} follows {previous!r}; sort it"
            )
        previous = passage.id
        yield passage


def _derangement(count: int, seed: int) -> NDArray[np.int32]:
    """A random cycle through all positions, so that none stays in place (if there are two or more)."""
    order = np.random.RandomState(seed).permutation(count)  # RandomState: its stream is frozen for ever
    target = np.empty(count, np.int32)
    target[order] = np.roll(order, -1)
    return target


def _load(directory: Path) -> _Table:
    def array(name: str) -> NDArray[Any]:
        # As a plain array over the same map: slicing a memmap costs ten times as much.
        return np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    vocabulary = json.loads((directory / "vocabulary.json").read_text("utf-8"))
    return _Table(array("positions"), array("scores"), array("starts"), vocabulary)
