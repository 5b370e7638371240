"""Existing Lucene indexes: pyserini's prebuilt ones by name, or a directory built with pyserini or Anserini.

Titles and texts come from the documents stored in the index; the environment's corpus only supplies the questions, and
its ids where it has the passage that was found (`searchgym.corpora.indexing.matching`). An index that stores no texts is read together with
a corpus of the same ids. Ties are in order of id, if the index stores ids where Lucene can compare them; very old
indexes do not, and use their own order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, IndexMismatchError, UnknownIdError
from searchgym.records.question import Corpus, find_passage
from searchgym.records.retriever import Hit, SearchResult

from ..indexing.arguments import check_k, check_queries
from ..indexing.matching import PROBE_HITS, PassageMatcher
from ..indexing.sealed import digest
from ..service.protocol import read_document
from .jvm import fat_jar, java
from .searcher import Searcher

__all__ = ["PrebuiltLucene", "open_prebuilt"]

_FORMAT = 1
_ID, _RAW = "id", "raw"  # Anserini's names of the fields


class PrebuiltLucene:
    """A Lucene index with stored documents; implements `searchgym.Retriever`. Created by `open_prebuilt`.

    For threads and processes, the same holds as for `searchgym.corpora.lucene.index.LuceneIndex`.

    Attributes:
        name: "lucene".
        index_hash: digest of the index's commit (Lucene gives each a random id), the settings and the version of
            Lucene. A copy of the index has the same hash; a new index of the same passages does not.
        directory: the directory of the index.
        ids_match: whether it has the passages of the corpus, by id or by title and text; see `searchgym.Retriever`.
    """

    name = "lucene"

    def __init__(self, corpus: Corpus, directory: Path, k1: float, b: float) -> None:
        self.directory = directory
        self._arguments = (corpus, str(directory), k1, b)
        self._corpus = corpus
        self._searcher = Searcher(directory, {"k1": k1, "b": b})
        if not self._searcher.count:
            raise IndexMismatchError(f"the Lucene index in {directory} is empty: give another one")
        self.index_hash = digest(
            {
                "format": _FORMAT,
                "backend": self.name,
                "commit": _commit(directory),
                "settings": {"k1": k1, "b": b},
                "lucene": fat_jar().stem,
            }
        )
        self._stored = self._searcher.reader.storedFields()
        self._order = self._by_score_and_id()
        self._matcher: PassageMatcher | None = None
        self.ids_match = True
        try:
            self._hit(0, 0.0)
        except UnknownIdError as error:
            raise IndexMismatchError(
                f"the Lucene index in {directory} stores no texts, and corpus {corpus.name!r} has other ids "
                f"({error.name!r} is in the index): take the full index (of pyserini's, the name without "
                '"-slim"), or the corpus it was built from'
            ) from None
        if len(corpus.passages) and self._stored.document(0).get(_RAW) is not None:
            self._matcher = PassageMatcher(corpus)
            results = self.search(self._matcher.probes(), PROBE_HITS)
            self.ids_match = self._matcher.check(results, f"the Lucene index in {directory}")

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search` and `LuceneIndex.search`."""
        limit, checked = min(check_k(k), self._searcher.count), check_queries(queries)

        def ask() -> list[SearchResult]:
            found = self._searcher.search(checked, limit, self._order)
            results = [[self._hit(number, score) for number, score in hits] for hits in found]
            return [hits if self._matcher is None else self._matcher.match(hits) for hits in results]

        return self._searcher.call(ask)

    def _hit(self, number: int, score: float) -> Hit:
        document = self._stored.document(number)
        id, raw = document.get(_ID), document.get(_RAW)
        if raw is None:
            passage = find_passage(self._corpus, id)
            return Hit(id, passage.title, passage.text, score)
        try:
            _, title, text = read_document(json.loads(raw))
        except (ValueError, AttributeError):  # a collection without JSON objects: the text is taken as it is
            title, text = "", raw
        return Hit(id, title, text, score)

    def _by_score_and_id(self) -> Any:
        """Lucene's order of hits: by score, then by id; None if the index does not store ids for comparison."""
        infos = java("org.apache.lucene.index.FieldInfos").getMergedFieldInfos(self._searcher.reader)
        field = infos.fieldInfo(_ID)
        kind = "NONE" if field is None else field.getDocValuesType().toString()
        if kind == "NONE":
            return None
        sort_field = java("org.apache.lucene.search.SortField")
        types = java("org.apache.lucene.search.SortField$Type")
        by_id = sort_field(_ID, types.STRING if kind == "SORTED" else types.STRING_VAL)
        return java("org.apache.lucene.search.Sort")(sort_field.FIELD_SCORE, by_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_prebuilt, self._arguments)


def open_prebuilt(corpus: Corpus, prebuilt: str, k1: float = 0.9, b: float = 0.4) -> PrebuiltLucene:
    """Open an existing index.

    Args:
        corpus: supplies the texts if the index stores none.
        prebuilt: a directory, or the name of one of pyserini's BM25 indexes, e.g. "wikipedia-dpr-100w", which is
            downloaded at the first call into pyserini's cache (`PYSERINI_CACHE`, else ~/.cache/pyserini).
        k1: how slowly repeated words saturate.
        b: how much long passages are penalised.

    Raises:
        UnknownIdError: neither a directory nor a name that pyserini knows.
        ConfigError: too little disk space for the download, or it failed.
        IndexMismatchError: Lucene cannot read the index, or it stores no texts and the corpus has other ids.
    """
    directory = Path(prebuilt).expanduser()
    if not directory.is_dir():
        directory = _download(prebuilt)
    return PrebuiltLucene(corpus, directory.absolute(), k1, b)


def _download(name: str) -> Path:
    """The directory of one of pyserini's indexes, downloaded and checked by pyserini's own code."""
    java("java.lang.String")  # the JVM must run before pyserini looks for one
    from pyserini import util
    from pyserini.prebuilt_index_info import TF_INDEX_INFO

    if name not in TF_INDEX_INFO:
        hint = "These are pyserini's BM25 indexes; it is not a directory either."
        raise UnknownIdError("prebuilt Lucene index", name, TF_INDEX_INFO, hint)
    home = Path(util.get_cache_home())
    if not util.check_downloaded(name):
        home.mkdir(parents=True, exist_ok=True)
        size = int(TF_INDEX_INFO[name].get("size compressed (bytes)") or 0)
        # The archive and its content are on disk at the same time; postings hardly compress, texts to a half.
        needed, free = 3 * size, shutil.disk_usage(home).free
        if needed > free:
            raise ConfigError(
                f"the prebuilt index {name!r} needs {needed / 1e9:.1f} GB in {home}, but {free / 1e9:.1f} GB are free: "
                "make room, or set PYSERINI_CACHE to a larger disk"
            )
        print(
            f"Downloading {name}: {size / 1e9:.1f} GB, up to {needed / 1e9:.1f} GB while unpacking, into {home}",
            file=sys.stderr,
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # pyserini prints what it does
            return Path(util.download_prebuilt_index(name, verbose=False))
    # No network, no server, or a wrong checksum.
    except (OSError, ValueError, AssertionError, EOFError) as error:
        raise ConfigError(
            f"the prebuilt index {name!r} could not be downloaded ({error}): try again, or unpack it yourself and "
            "give the directory as 'prebuilt'"
        ) from error


def _commit(directory: Path) -> str:
    """A digest of the index: its newest commit file contains random ids of the commit and of every segment."""
    commits = [path for path in directory.glob("segments_*") if path.is_file()]
    newest = max(commits, key=lambda path: int(path.name.removeprefix("segments_"), 36))
    return hashlib.blake2b(newest.read_bytes(), digest_size=16).hexdigest()
