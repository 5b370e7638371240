"""Lucene's own search over a directory, for the indexes built here and for prebuilt ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from searchgym.errors import ConfigError, IndexMismatchError, RetrievalError

from .jvm import attach, check_process, first_line, java, java_exception

__all__ = ["ANALYZER", "FIELD", "MAX_QUERY_TERMS", "Searcher", "java_text", "lucene_directory"]

MAX_QUERY_TERMS = 1024
"""The number of distinct terms of a query that are used, the first ones (Lucene's own clause limit)."""
FIELD = "contents"
"""Anserini's name of the field that is searched."""
ANALYZER = "io.anserini.analysis.DefaultEnglishAnalyzer"

T = TypeVar("T")


class Searcher:
    """Lucene's own search over a directory: it takes queries and returns document numbers and scores.

    Args:
        directory: the directory of the index.
        settings: k1 and b.

    Attributes:
        count: number of documents.
        segments: number of segments.
        reader: Lucene's reader, for stored documents.

    Raises:
        IndexMismatchError: Lucene cannot read the directory.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self._failure = java_exception()
        from jnius import cast

        attach()
        try:
            reader = java("org.apache.lucene.index.DirectoryReader").open(lucene_directory(directory))
        except self._failure as error:
            raise IndexMismatchError(
                f"Lucene cannot read {directory}: {first_line(error)}. Build it again."
            ) from error
        self.reader = cast("org.apache.lucene.index.IndexReader", reader)
        self.count: int = reader.maxDoc()
        self.segments: int = reader.leaves().size()
        self._analyzer = java(ANALYZER).newDefaultInstance()
        self._searcher = java("org.apache.lucene.search.IndexSearcher")(self.reader)
        similarity = java("org.apache.lucene.search.similarities.BM25Similarity")
        self._searcher.setSimilarity(similarity(settings["k1"], settings["b"]))
        self._bag_of_words = java("io.anserini.search.query.BagOfWordsQueryGenerator")()

    def search(self, queries: Sequence[str], k: int, order: Any = None) -> list[list[tuple[int, float]]]:
        """The (document number, score) pairs of the best k documents of every query, best first.

        Args:
            queries: any strings.
            k: documents per query at most.
            order: a Lucene Sort that begins with the score; None for the score, then the document number.

        Raises:
            RetrievalError: this process was forked, or Java failed.
        """
        return self.call(lambda: [self._top(query, k, order) for query in queries])

    def call(self, function: Callable[[], T]) -> T:
        """Call a function that uses Java; every failure is raised as a `RetrievalError`."""
        try:
            check_process()
        except ConfigError as error:
            raise RetrievalError(str(error)) from None
        attach()
        try:
            return function()
        except self._failure as error:
            raise RetrievalError(f"Lucene failed: {first_line(error)}") from error

    def _top(self, query: str, k: int, order: Any) -> list[tuple[int, float]]:
        query = java_text(query)
        # A query this short cannot have too many terms, as a term has at least one character.
        short = len(query) <= MAX_QUERY_TERMS
        lucene_query = (
            self._bag_of_words.buildQuery(FIELD, self._analyzer, query) if short else self._cut(query)
        )
        if order is None:
            found = self._searcher.search(lucene_query, k)
        else:
            found = self._searcher.search(lucene_query, k, order, True)
        return [(hit.doc, hit.score) for hit in found.scoreDocs]

    def _cut(self, query: str) -> Any:
        """The query that `buildQuery` builds, from the first distinct terms only."""
        terms = java("io.anserini.analysis.AnalyzerUtils").analyze(self._analyzer, query)
        counts: dict[str, int] = {}
        # "[a, b, c]": one call instead of one per term. Terms contain no spaces.
        for term in terms.toString()[1:-1].split(", "):
            if term in counts or len(counts) < MAX_QUERY_TERMS:
                counts[term] = counts.get(term, 0) + 1
        term_query, boost = (java(f"org.apache.lucene.search.{name}") for name in ("TermQuery", "BoostQuery"))
        should = java("org.apache.lucene.search.BooleanClause$Occur").SHOULD
        builder = java("org.apache.lucene.search.BooleanQuery$Builder")()
        counts.pop("", None)  # a query without terms
        for term, count in counts.items():
            builder.add(
                boost(term_query(java("org.apache.lucene.index.Term")(FIELD, term)), float(count)), should
            )
        return builder.build()


def java_text(text: str) -> str:
    """The text as Java accepts it: each lone surrogate becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def lucene_directory(directory: Path) -> Any:
    """Lucene's object for a directory."""
    path = java("java.io.File")(os.fspath(directory)).toPath()
    return java("org.apache.lucene.store.FSDirectory").open(path)
