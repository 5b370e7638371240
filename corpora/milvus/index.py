"""The Milvus backend, for indexes larger than one machine: BM25, dense or both.

The same code runs on a file (milvus-lite) and on a cluster; only the URI differs.

A collection has one row for every distinct passage. Identical passages share a row, so they score the same on any
server; ids, titles and texts stay in the corpus.

| field | content |
|---|---|
| `row` | the number of the passage, from 0 (the primary key); passages with the same title and text share it |
| `digest` | of the passage, the corpus and the settings, to check the row |
| `sparse` | the BM25 gain of each of its terms (`BM25.gains`), searched by inner product |
| `dense` | its vector (`encoders.py`), searched by inner product |

The gains are computed here, not by Milvus's BM25 function, because that function counts documents per segment: scores
would depend on how a server has divided the collection, and would change when it compacts it. This way the ranking is
that of `retriever="bm25"` on every server. A term's dimension is a digest of its text, so that a client needs no
vocabulary: of a million terms, two in ten thousand share a dimension with another.

Promised: hits by falling score, equal scores by id, also across the cut at k, if the search is exact (BM25; dense up to
`EXACT_UP_TO` passages) and at most `MAX_HITS` rows score the same. Not promised: that a cluster sums the same terms of
two different passages in the same order, so that their scores are equal in the last bit; that a batch of dense queries
has the same bits there as single queries; and any order of hits from the graph (HNSW) that larger collections use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, RetrievalError
from searchgym.options import check_known, choice, integer, number, takes_options
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, SearchResult, check_result

from ..bm25.analyzer import TOKENIZER, stem, words
from ..bm25.index import MAX_QUERY_TERMS
from ..dense.encoders import Encoder, EncoderOptions, EncoderSpec
from ..dense.model_files import MINILM
from ..hybrid import Hybrid
from ..indexing.arguments import check_k, check_queries
from ..indexing.sealed import digest
from .collection import FILE_SUFFIX, Collection, dimension

__all__ = ["EXACT_UP_TO", "MAX_HITS", "Milvus", "MilvusOptions", "open_milvus"]

MAX_HITS = 16_384
"""The hits of one search at most; a limit of Milvus."""
EXACT_UP_TO = 200_000
"""The number of passages up to which dense search is exact; for more, it uses a graph (HNSW)."""
MODES = ("bm25", "dense", "hybrid")

_FORMAT = 1
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class Milvus:
    """One way to search a collection; implements `searchgym.Retriever`. Created by `open_milvus`.

    Threads may share an object. A child that was forked after it was opened cannot search: gRPC does not survive a fork.

    Attributes:
        name: "milvus".
        field: "sparse" (BM25) or "dense".
        index_hash: digest of the corpus, the mode, the settings, the tokenizer, the encoder and the vectors of two
            queries. It cannot cover the behaviour of the server.
    """

    name = "milvus"

    def __init__(self, collection: Collection, field: str, options: MilvusOptions) -> None:
        self._collection = collection
        self.field = field
        self._options = options
        identity = {"backend": self.name, "field": field, "key": collection.key}
        if field == "dense" and collection.encoder is not None:
            identity["queries"] = collection.encoder.fingerprint
        self.index_hash = digest(identity)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. A query has at most `MAX_HITS` hits.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
            RetrievalError: the server did not answer or answered with an error, or this process was forked.
        """
        limit = min(check_k(k), len(self._collection.corpus.passages), MAX_HITS)
        found: dict[str, SearchResult] = {}
        sent: dict[str, Any] = {}
        for query in dict.fromkeys(check_queries(queries)):
            try:
                vector = self._vector(query)
            except RetrievalError as error:  # of this query
                found[query] = error
                continue
            if vector is not None:
                sent[query] = vector
        for query, rows in zip(sent, self._nearest(list(sent.values()), limit), strict=True):
            found[query] = check_result(self._hits(rows, limit), self.name)
        # Copies: the results of equal queries must not share a list.
        return [r.copy() if isinstance(r := found.get(query, []), list) else r for query in queries]

    def _vector(self, query: str) -> Any:
        """The sparse or dense vector of a query; None for one that finds nothing."""
        if self.field == "sparse":
            return _query_terms(query) or None
        encoder = self._collection.encoder
        assert encoder is not None
        try:
            return encoder.encode_query(query) if query.strip() else None
        except RuntimeError as error:  # torch's error for every failure of a device; it fails the batch
            raise RetrievalError(f"encoder {encoder.path.name!r} failed: {error}") from error

    def _nearest(self, vectors: list[Any], k: int) -> Iterator[list[tuple[float, int]]]:
        """Scores and rows for each query: the k best, and all that score the same as the last of these."""
        if not vectors:
            return
        most = min(len(self._collection.groups), MAX_HITS)
        fetch = min(k + 1, most)
        for vector, rows in zip(vectors, self._collection.search(self.field, vectors, fetch), strict=True):
            fetched = fetch
            while fetched < most and len(rows) == fetched and rows[-1][0] == rows[k - 1][0]:
                fetched = min(2 * fetched, most)
                rows = self._collection.search(self.field, [vector], fetched)[0]
            yield rows

    def _hits(self, found: list[tuple[float, int]], k: int) -> list[Hit]:
        groups, passages = self._collection.groups, self._collection.corpus.passages
        placed = [(-score, position) for score, row in found for position in groups.passages(row)]
        hits: list[Hit] = []
        for score, position in sorted(placed)[:k]:  # positions are in order of id
            passage = passages[position]
            hits.append(Hit(passage.id, passage.title, passage.text, -score))
        return hits

    def __reduce__(self) -> tuple[Any, ...]:  # a worker opens its own connection
        return (_open_part, (self._collection.corpus, self._options, self.field))


@dataclass(frozen=True, slots=True, kw_only=True)
class MilvusOptions:
    """The options of `open_milvus`.

    Attributes:
        uri: of a server, like "http://host:19530", or a milvus-lite file whose name ends in ".db"; None for such a
            file in the cache.
        collection: its name: letters, digits and underscores; None for a name derived from corpus and settings.
        mode: "bm25", "dense", or "hybrid": both, fused as `Hybrid` does it.
        k1: of BM25, 0 to 1000.
        b: of BM25, 0 to 1.
        encoder: for dense and hybrid: a name, or a dict of the options of `EncoderOptions`.
        depth: hits of each part that hybrid fuses.
        timeout: seconds for one request.

    Raises:
        ConfigError: an option has a value that cannot be used.
    """

    uri: str | None = None
    collection: str | None = None
    mode: str = "bm25"
    k1: float = 0.9
    b: float = 0.4
    encoder: EncoderSpec = MINILM
    depth: int = 100
    timeout: float = 30.0

    def __post_init__(self) -> None:
        choice("mode", self.mode, MODES)
        number("k1", self.k1, 0, 1000)
        number("b", self.b, 0, 1)
        integer("depth", self.depth, 1)
        number("timeout", self.timeout, above=0)
        uri, name = self.uri, self.collection
        if uri is not None and not (isinstance(uri, str) and (uri.endswith(FILE_SUFFIX) or "://" in uri)):
            raise ConfigError(
                f"uri is {uri!r}: give a server like 'http://localhost:19530', or a file that ends in '.db'"
            )
        if name is not None and not (isinstance(name, str) and _COLLECTION.fullmatch(name)):
            raise ConfigError(
                f"collection is {name!r}: use at most 255 letters, digits and underscores, and no digit first"
            )
        if self.mode != "bm25":
            EncoderOptions.parse(self.encoder)


@takes_options(MilvusOptions)
def open_milvus(corpus: Corpus, **options: Any) -> Milvus | Hybrid:
    """The collection of a corpus, filled at the first call; the entry point `milvus` of `searchgym.retrievers`.

    Filling continues where an earlier call was killed, and every row is read back and compared at its end. A full
    collection is opened by its count and a sample of its rows. If a server requires a token, set `MILVUS_TOKEN`.

    Args:
        corpus: what to search.
        **options: the options of `MilvusOptions`.

    Raises:
        ConfigError: an option has a value that cannot be used, or another process has the file open.
        DamagedFileError: the milvus-lite file is not what was written when the collection was filled.
        IndexMismatchError: the collection exists, and was made from another corpus or with other settings.
        RetrievalError: the server cannot be reached or fails.
        MissingExtraError: pymilvus, milvus-lite or the encoder's packages are not installed.
    """
    check_known("retriever 'milvus'", MilvusOptions, options)
    checked = MilvusOptions(**options)
    parts = _open_parts(corpus, checked)
    return Hybrid(parts, depth=checked.depth) if checked.mode == "hybrid" else parts[0]


def _open_parts(corpus: Corpus, options: MilvusOptions) -> list[Milvus]:
    """The searches of a collection: one, or the two of mode "hybrid"."""
    uri = options.uri
    if uri is not None and uri.endswith(FILE_SUFFIX):
        uri = str(Path(uri).expanduser().absolute())
    encoder = Encoder.find(options.encoder) if options.mode != "bm25" else None
    sparse = options.mode != "dense"
    key = {
        "format": _FORMAT,
        "corpus": corpus.hash,
        "tokenizer": TOKENIZER if sparse else None,
        "k1": float(options.k1) if sparse else None,
        "b": float(options.b) if sparse else None,
        "encoder": encoder.identity if encoder is not None else None,
        "exact": len(corpus.passages) <= EXACT_UP_TO,
    }
    collection = Collection(corpus, key, encoder, uri, options.collection, float(options.timeout))
    fields = {"bm25": ["sparse"], "dense": ["dense"], "hybrid": ["sparse", "dense"]}[options.mode]
    return [Milvus(collection, field, options) for field in fields]


def _open_part(corpus: Corpus, options: MilvusOptions, field: str) -> Milvus:
    return next(part for part in _open_parts(corpus, options) if part.field == field)


def _query_terms(query: str) -> dict[int, float]:
    """How often each term occurs in a query, by dimension; only the first `MAX_QUERY_TERMS` terms."""
    counts = Counter(words(query))
    terms: dict[int, float] = {}
    for word, term in stem(counts).items():
        number = dimension(term)
        if number in terms or len(terms) < MAX_QUERY_TERMS:
            terms[number] = terms.get(number, 0.0) + counts[word]
    return terms
