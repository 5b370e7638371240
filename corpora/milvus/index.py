"""Milvus: the door past one machine. A file with milvus-lite, a cluster by changing the URI; BM25, dense or both.

One collection holds, for every distinct passage, a number (the primary key), a digest, and its vectors. Identical
passages are one row, so they score the same on any server; ids, titles and texts stay in the corpus.

| field | what |
|---|---|
| `row` | the number of the passage, from 0; passages with the same title and text share it |
| `digest` | of the passage, the corpus and the settings: what a row is checked by |
| `sparse` | the BM25 gain of each of its terms (`BM25.gains`), searched by inner product |
| `dense` | its vector (`encoders.py`), searched by inner product |

The gains are ours and not those of Milvus's BM25 function, because that one counts documents per segment: scores
would depend on how a server happens to have cut the collection, and change when it compacts it. With ours the
ranking is that of `retriever="bm25"`, on every server. A term's dimension is a digest of its text, so that a client
needs no vocabulary: of a million terms two in ten thousand share one with another.

What is promised: hits by falling score, equal scores by id, also across the cut at k, where the search is exact
(BM25; dense up to `EXACT_UP_TO` passages) and at most `MAX_HITS` rows score the same. What is not: that a cluster
adds up the same terms of two different passages in the same order, so that they are equal in the last bit; that a
batch of dense queries has the bits of single ones there; and anything about the graph (HNSW) of more passages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, RetrievalError
from searchgym.question import Corpus
from searchgym.retriever import Hit, SearchResult

from ..bm25.analyzer import TOKENIZER, stem, words
from ..bm25.index import MAX_QUERY_TERMS
from ..dense.encoders import MINILM, Encoder
from ..hybrid import Hybrid
from ..indexing.arguments import check_k, check_queries
from ..indexing.cache import digest
from .collection import FILE_SUFFIX, Collection, dimension

__all__ = ["EXACT_UP_TO", "MAX_HITS", "Milvus", "open_milvus"]

MAX_HITS = 16_384
"""Milvus's own limit on the hits of one search."""
EXACT_UP_TO = 200_000
"""Passages up to which dense vectors are searched one by one; a graph (HNSW) beyond."""
MODES = ("bm25", "dense", "hybrid")

_FORMAT = 1
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_ENCODER_OPTIONS = (
    "revision",
    "query_prefix",
    "passage_prefix",
    "max_length",
    "dtype",
    "device",
    "threads",
)


class Milvus:
    """One way to search a collection; implements `searchgym.Retriever`. Made by `open_milvus`.

    Threads may share one. A child forked after it was opened cannot search: gRPC does not survive a fork.

    Attributes:
        name: "milvus".
        field: "sparse" (BM25) or "dense".
        index_hash: digest of the corpus, the mode, the settings, the tokenizer and the encoder. It cannot cover
            what the server does.
    """

    name = "milvus"

    def __init__(self, collection: Collection, field: str, options: Mapping[str, Any]) -> None:
        self._collection = collection
        self.field = field
        self._options = options
        self.index_hash = digest({"backend": self.name, "field": field, "key": collection.key})

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. There are at most `MAX_HITS` hits.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
            RetrievalError: the server did not answer or answered with an error, or this process was forked.
        """
        limit = min(check_k(k), len(self._collection.corpus.passages), MAX_HITS)
        given = {query: self._data(query) for query in check_queries(queries)}
        asked = {query: data for query, data in given.items() if data is not None}
        found = dict(zip(asked, self._nearest(list(asked.values()), limit), strict=True))
        return [self._hits(found.get(query, []), limit) for query in queries]

    def _data(self, query: str) -> Any:
        """What Milvus is asked, or None for a query that finds nothing."""
        if self.field == "sparse":
            return _query_terms(query) or None
        encoder = self._collection.encoder
        assert encoder is not None
        try:
            return encoder.encode_query(query) if query.strip() else None
        except RuntimeError as error:  # torch's, for everything that can go wrong on a device
            raise RetrievalError(f"encoder {encoder.path.name!r} failed: {error}") from error

    def _nearest(self, data: list[Any], k: int) -> Iterator[list[tuple[float, int]]]:
        """Scores and rows for each query: the k best, and all that score the same as the last of them."""
        if not data:
            return
        there = min(len(self._collection.groups), MAX_HITS)
        fetch = min(k + 1, there)
        for one, some in zip(data, self._collection.search(self.field, data, fetch), strict=True):
            fetched = fetch
            while fetched < there and len(some) == fetched and some[-1][0] == some[k - 1][0]:
                fetched = min(2 * fetched, there)
                some = self._collection.search(self.field, [one], fetched)[0]
            yield some

    def _hits(self, found: list[tuple[float, int]], k: int) -> SearchResult:
        groups, passages = self._collection.groups, self._collection.corpus.passages
        placed = [(-score, position) for score, row in found for position in groups.passages(row)]
        hits: list[Hit] = []
        for score, position in sorted(placed)[:k]:  # positions are in order of id
            passage = passages[position]
            hits.append(Hit(passage.id, passage.title, passage.text, -score))
        return hits

    def __reduce__(self) -> tuple[Any, ...]:  # a worker makes a connection of its own
        return (_open_part, (self._collection.corpus, self._options, self.field))


def open_milvus(
    corpus: Corpus,
    *,
    uri: str | None = None,
    collection: str | None = None,
    mode: str = "bm25",
    k1: float = 0.9,
    b: float = 0.4,
    encoder: str = MINILM,
    revision: str | None = None,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    max_length: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    threads: int | None = None,
    depth: int = 100,
    timeout: float = 30.0,
) -> Milvus | Hybrid:
    """The collection of a corpus, filled at the first call; the entry point `milvus` of `searchgym.retrievers`.

    Filling goes on where an earlier call was killed, and every row is read back and compared at its end; a full
    collection is opened by its count and a sample of its rows. A server that asks for a token finds it in
    `MILVUS_TOKEN`.

    Args:
        corpus: what to search.
        uri: of a server, like "http://host:19530", or a file of milvus-lite whose name ends in ".db"; by default
            such a file among the caches.
        collection: its name: letters, digits and underscores. By default one that names corpus and settings.
        mode: "bm25", "dense", or "hybrid": both, fused as `Hybrid` does it.
        k1: of BM25.
        b: of BM25.
        encoder: of dense and hybrid, with the options up to `threads`; see `Encoder.find`.
        revision: likewise.
        query_prefix: likewise.
        passage_prefix: likewise.
        max_length: likewise.
        dtype: likewise.
        device: likewise.
        threads: likewise.
        depth: hits of each part that hybrid fuses.
        timeout: seconds a request may take.

    Raises:
        ConfigError: an option out of range, or a file that another process has open.
        IndexMismatchError: the collection is there, and was made of another corpus or with other settings.
        RetrievalError: the server cannot be reached or fails.
        MissingExtraError: pymilvus, milvus-lite or the encoder's packages are not installed.
    """
    options = {name: value for name, value in locals().items() if name != "corpus"}
    parts = _open_parts(corpus, options)
    return Hybrid(parts, depth=depth) if mode == "hybrid" else parts[0]


def _open_parts(corpus: Corpus, options: Mapping[str, Any]) -> list[Milvus]:
    """The searches of a collection: one, or the two of mode "hybrid"."""
    mode, uri, name, timeout = (options[option] for option in ("mode", "uri", "collection", "timeout"))
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r}: use one of {', '.join(MODES)}")
    for what, high in (("k1", 1000.0), ("b", 1.0)):
        value = options[what]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
            raise ConfigError(f"{what}={value!r}: use a number from 0 to {high:g}")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise ConfigError(f"timeout={timeout!r}: use a number of seconds > 0")
    if uri is not None and (not isinstance(uri, str) or not (uri.endswith(FILE_SUFFIX) or "://" in uri)):
        raise ConfigError(
            f"uri={uri!r}: give a server like 'http://localhost:19530', or a file that ends in '.db'"
        )
    if name is not None and (not isinstance(name, str) or not _COLLECTION.fullmatch(name)):
        raise ConfigError(
            f"collection={name!r}: use letters, digits and underscores, at most 255, no digit first"
        )
    if uri is not None and uri.endswith(FILE_SUFFIX):
        uri = str(Path(uri).expanduser().absolute())
    encoder = None
    if mode != "bm25":
        encoder = Encoder.find(options["encoder"], **{option: options[option] for option in _ENCODER_OPTIONS})
    sparse = mode != "dense"
    key = {
        "format": _FORMAT,
        "corpus": corpus.hash,
        "tokenizer": TOKENIZER if sparse else None,
        "k1": float(options["k1"]) if sparse else None,
        "b": float(options["b"]) if sparse else None,
        "encoder": encoder.identity if encoder is not None else None,
        "exact": len(corpus.passages) <= EXACT_UP_TO,
    }
    collection = Collection(corpus, key, encoder, uri, name, float(timeout))
    fields = {"bm25": ["sparse"], "dense": ["dense"], "hybrid": ["sparse", "dense"]}[mode]
    return [Milvus(collection, field, options) for field in fields]


def _open_part(corpus: Corpus, options: Mapping[str, Any], field: str) -> Milvus:
    return next(part for part in _open_parts(corpus, options) if part.field == field)


def _query_terms(query: str) -> dict[int, float]:
    """How often a query has each of its terms, by dimension; the first `MAX_QUERY_TERMS` of them."""
    counts = Counter(words(query))
    terms: dict[int, float] = {}
    for word, term in stem(counts).items():
        number = dimension(term)
        if number in terms or len(terms) < MAX_QUERY_TERMS:
            terms[number] = terms.get(number, 0.0) + counts[word]
    return terms
