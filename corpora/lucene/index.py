"""Lucene's BM25 in this process, through pyserini's jar: the reference ranking, with little memory at any size.

Score of passage d for query q (Lucene's BM25Similarity, which stores |d| in one byte):

    score(q, d) = sum over t in q of  ln(1 + (N - df_t + 0.5) / (df_t + 0.5))
                                      * tf(t, d) / (tf(t, d) + k1 * (1 - b + b * |d| / avgdl))

Text is analysed as in Anserini and pyserini: Lucene's standard tokenizer, lower case, possessives, its 33 English
stop words, Porter's stemmer. Passages are added in order of id by one thread and merged in that order into one
segment. So Lucene's own document number is the position of the passage, ties are in order of id across the cut at k,
and the index stores no texts.

pyserini's `SimpleSearcher` is not used, as it changes tied scores and reads stored texts for every hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, CorpusError, IndexMismatchError
from searchgym.options import number
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, Retriever, SearchResult

from ..indexing.arguments import check_k, check_queries
from ..indexing.backend import Estimate, IndexBackend, Progress
from ..indexing.sealed import digest
from .jvm import attach, fat_jar, first_line, java, java_exception
from .prebuilt import open_prebuilt
from .searcher import ANALYZER, FIELD, MAX_QUERY_TERMS, Searcher, java_text, lucene_directory

__all__ = ["LUCENE_BACKEND", "MAX_QUERY_TERMS", "LuceneBackend", "LuceneIndex"]

_FORMAT = 1
_BUFFER_MB = 64.0  # of terms in memory before a segment is written
_COMMIT_EVERY = 200_000  # passages; a killed build repeats at most this many
_REPORT_EVERY = 2_000
_SAMPLED = 1_000


class LuceneIndex:
    """A Lucene index over a corpus; implements `searchgym.Retriever`. Created by `LUCENE_BACKEND`.

    Threads may share an index. A child that was forked after it was opened cannot search: it gets a `RetrievalError`
    that says what to do. A spawned process opens the index again.

    Attributes:
        name: "lucene".
        index_hash: digest of the corpus, the settings, the analyzer and the version of Lucene.
        settings: k1 and b.
    """

    name = "lucene"

    def __init__(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, index_hash: str) -> None:
        self.settings = dict(settings)
        self.index_hash = index_hash
        self._arguments = (corpus, self.settings, directory)
        self._passages = corpus.passages
        self._searcher = Searcher(directory, settings)
        if (self._searcher.segments, self._searcher.count) != (1, len(self._passages)):
            raise IndexMismatchError(
                f"the Lucene index in {directory} has {self._searcher.count} passages in "
                f"{self._searcher.segments} segments, not {len(self._passages)} in one. Build it again."
            )

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. Of a long query, only the first `MAX_QUERY_TERMS` terms are used.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
            RetrievalError: this process was forked from the one that opened the index, or Java failed.
        """
        limit = min(check_k(k), len(self._passages))
        passages = self._passages
        return [
            [Hit(p.id, p.title, p.text, s) for p, s in ((passages[n], score) for n, score in found)]
            for found in self._searcher.search(check_queries(queries), limit)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return (LUCENE_BACKEND.open, self._arguments)


class LuceneBackend(IndexBackend):
    """Lucene through pyserini; needs the extra `lucene`.

    The entry point `lucene` of `searchgym.retrievers`.

    With `prebuilt`, it opens an index that pyserini publishes, or one built with pyserini or Anserini, instead of building
    one; see `searchgym.corpora.lucene.prebuilt`.
    """

    name = "lucene"

    def settings(self, *, k1: float = 0.9, b: float = 0.4, prebuilt: str | None = None) -> dict[str, Any]:
        """Check the options.

        Args:
            k1: how slowly repeated words saturate, 0 to 1000.
            b: how much long passages are penalised, 0 to 1.
            prebuilt: an existing index: a directory, or a name that pyserini knows.

        Raises:
            ConfigError: a value out of range.
        """
        k1 = number("Lucene setting k1", k1, 0, 1000)
        b = number("Lucene setting b", b, 0, 1)
        if prebuilt is None:
            return {"k1": k1, "b": b}
        if not isinstance(prebuilt, str) or not prebuilt:
            raise ConfigError(
                f"Lucene setting prebuilt is {prebuilt!r}: name an index of pyserini, or a directory"
            )
        return {"k1": k1, "b": b, "prebuilt": prebuilt}

    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "backend": self.name,
            "corpus": corpus.hash,
            "settings": dict(settings),
            "tokenizer": ANALYZER,
            "lucene": fat_jar().stem,
        }

    def estimate(self, corpus: Corpus, settings: Mapping[str, Any]) -> Estimate:
        if "prebuilt" in settings:
            raise ConfigError(
                f"the prebuilt index {settings['prebuilt']!r} is opened, not built: leave the option out"
            )
        count = len(corpus.passages)
        some = [corpus.passages[p] for p in range(0, count, max(1, count // _SAMPLED))]
        size = sum(len(p.title) + len(p.text) for p in some) / max(1, len(some)) * count
        # Measured: the index takes 0.17 of the text, and merging writes a second copy of it; the Java heap is limited by
        # its buffers and the needs of merging, at any size.
        return Estimate(disk=int(0.45 * size) + 2**20, memory=400 * 2**20, seconds=size / 8e6)

    def build(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
        try:
            _write(corpus, settings, directory, progress)
        except (
            java_exception()
        ) as error:  # e.g. a full disk: the build can be continued after the last commit
            raise OSError(f"Lucene cannot build the index in {directory}: {first_line(error)}") from error

    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> LuceneIndex:
        return LuceneIndex(corpus, settings, directory, digest(self.key(corpus, settings)))

    def __call__(self, corpus: Corpus, **options: Any) -> Retriever:
        settings = self.checked(options)
        if "prebuilt" not in settings:
            return super().__call__(corpus, **options)
        return open_prebuilt(corpus, **settings)


LUCENE_BACKEND = LuceneBackend()


def _write(corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
    """Index the corpus into the directory, continuing after the passages that an earlier build committed."""
    config = java("org.apache.lucene.index.IndexWriterConfig")(java(ANALYZER).newDefaultInstance())
    from jnius import cast

    attach()
    similarity = java("org.apache.lucene.search.similarities.BM25Similarity")
    config.setSimilarity(similarity(settings["k1"], settings["b"]))
    config.setRAMBufferSizeMB(_BUFFER_MB)
    # This policy only merges adjacent segments, so documents stay in the order in which they were added.
    config.setMergePolicy(java("org.apache.lucene.index.LogByteSizeMergePolicy")())
    config.setMergeScheduler(java("org.apache.lucene.index.SerialMergeScheduler")())
    kind = java("org.apache.lucene.document.FieldType")()
    kind.setIndexOptions(java("org.apache.lucene.index.IndexOptions").DOCS_AND_FREQS)
    kind.setTokenized(True)
    kind.freeze()
    field = java("org.apache.lucene.document.Field")(
        FIELD,
        cast("java.lang.CharSequence", java("java.lang.String")("")),
        cast("org.apache.lucene.index.IndexableFieldType", kind),
    )
    document = java("org.apache.lucene.document.Document")()
    document.add(field)
    writer = java("org.apache.lucene.index.IndexWriter")(lucene_directory(directory), config)
    try:
        passages = corpus.passages
        total, done = len(passages), writer.getDocStats().maxDoc
        previous = passages[done - 1].id if done else None
        for position, passage in enumerate(passages[done:], done):
            if previous is not None and passage.id <= previous:
                raise CorpusError(
                    f"corpus {corpus.name!r} is not sorted by id: {passage.id!r} follows {previous!r}; sort it"
                )
            previous = passage.id
            field.setStringValue(java_text(f"{passage.title}\n{passage.text}"))
            writer.addDocument(document)
            if position % _REPORT_EVERY == 0:
                progress("Indexing", position, total)
                if position % _COMMIT_EVERY == 0:
                    writer.commit()
        progress("Indexing", total, total)
        progress("Merging", 0, 1)
        writer.forceMerge(1)
        writer.commit()
        progress("Merging", 1, 1)
    finally:
        writer.close()
    (directory / "write.lock").unlink(missing_ok=True)
    reader = java("org.apache.lucene.index.DirectoryReader").open(lucene_directory(directory))
    try:
        if reader.getSumTotalTermFreq(FIELD) <= 0:
            raise CorpusError(
                f"corpus {corpus.name!r} has {total} passages without any word: give one with text"
            )
    finally:
        reader.close()
