"""Dense retrieval: passages and queries become vectors of length 1, compared by their inner product.

`encoders.py` computes the vectors, `vectors.py` stores them, faiss finds the nearest. There are three kinds of index:

| kind | stored | searched | memory |
|---|---|---|---|
| `flat` | float32 | everything: exact | 4 bytes per component, mapped |
| `ivf`  | 8 bits per component, in `nlist` cells | the `nprobe` cells nearest to the query | 1 byte per component, mapped |
| `hnsw` | 8 bits per component, and a graph of 32 links | along the graph, `ef_search` candidates | 1 byte per component + 270 |

For all of them: equal scores are in order of id, also across the cut at k, because the search fetches beyond the cut
until the scores differ; identical passages share one vector; every query is encoded and scored alone, so that a batch
changes nothing. `flat` and `ivf` consider the same candidates for every k. `hnsw` does so only up to k = `ef_search`:
a larger k searches further, and may find better candidates.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, IndexMismatchError, RetrievalError
from searchgym.lru import LRUCache
from searchgym.options import choice, declared_options, integer
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, SearchResult

from ..indexing.arguments import check_k, check_queries
from ..indexing.backend import Estimate, IndexBackend, Progress
from ..indexing.checksums import CHECKSUMS
from ..indexing.sealed import MANIFEST, digest
from .encoders import Encoder, EncoderOptions, EncoderSpec
from .faiss_files import FaissFiles, build_faiss_files, faiss_bytes
from .model_files import MINILM
from .rows import GROUP_FILES, Groups, Vectors, group_passages, group_vectors, passage_text
from .scan import AT_ONCE, ByteScan, Scored, has_fast_bytes
from .vectors import (
    VECTORS,
    PublishedVectors,
    digest_vectors,
    encode_rows,
    load_faiss,
    pick,
    published_rows,
)

__all__ = ["DENSE_BACKEND", "FLAT_UP_TO", "Dense", "DenseBackend"]

FLAT_UP_TO = 200_000
"""The number of passages up to which `kind="auto"` is flat: searching them takes no longer than encoding the query."""
KINDS = ("auto", "flat", "ivf", "hnsw")

_FORMAT = 2
_TEXTS = "texts"  # which passages have equal texts, while an index is built
_CACHED_QUERIES = 20_000  # vectors of queries: 15 to 30 MB at 384 components
_BATCH = 16  # queries per faiss call; it scores this few one by one, and uses BLAS for more
_ENCODER_MEMORY = 700 * 2**20  # torch and transformers themselves, and the activations of a batch


class Dense:
    """A dense index over the passages of a corpus; implements `searchgym.Retriever`.

    Created by `DENSE_BACKEND`, i.e. `retriever="dense"`. Threads may share an index: they take turns encoding. After
    a fork it works in the child too, as long as the encoder's `threads` is 1.

    Attributes:
        name: "dense".
        index_hash: digest of the corpus, the encoder, the settings, the stored vectors and the vectors of two queries.
            The last bits of vectors differ between processors, devices and numbers of threads.
        encoder: the encoder of the queries.
    """

    name = "dense"

    def __init__(
        self,
        corpus: Corpus,
        encoder: Encoder,
        key: Mapping[str, Any],
        settings: Mapping[str, Any],
        directory: Path,
    ) -> None:
        self.encoder = encoder
        self._corpus = corpus
        self._settings = settings
        self.directory = directory
        self._threads = encoder.threads or 1
        self._index = FaissFiles(directory, settings["nprobe"], settings["ef_search"])
        flat = self._index.flat
        self._scan = ByteScan(flat, self._threads) if flat is not None and has_fast_bytes() else None
        self._groups = Groups(directory)
        self._vectors: LRUCache[str, NDArray[np.float32]] = LRUCache(_CACHED_QUERIES)
        files = json.loads((directory / MANIFEST).read_text("utf-8"))["files"]
        content = {
            n: {"size": f["size"], "blake2b": f["blake2b"]} for n, f in files.items() if n != CHECKSUMS
        }
        searched = {"nprobe": settings["nprobe"], "ef_search": settings["ef_search"]}
        self.index_hash = digest(
            {"key": dict(key), "content": content, "search": searched, "queries": encoder.fingerprint}
        )
        if encoder.dimension != self._index.dimension:
            raise IndexMismatchError(
                f"the index in {directory} has vectors of {self._index.dimension} components, encoder {encoder.path} "
                f"gives {encoder.dimension}: name the encoder the vectors were made with"
            )

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`.

        Any string is a query; one of white space only has the empty result. Every other query finds passages, as
        there is always a nearest one.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
            RetrievalError: the encoder failed, e.g. because the GPU ran out of memory.
        """
        limit = min(check_k(k), len(self._corpus.passages))
        distinct = list(dict.fromkeys(query for query in check_queries(queries) if query.strip()))
        found: dict[str, SearchResult] = {}
        vectors: dict[str, NDArray[np.float32]] = {}
        for query in distinct:
            try:
                vectors[query] = self._vector(query)
            except RetrievalError as error:  # of this query
                found[query] = error
            except RuntimeError as error:  # torch's error for every failure of a device
                raise RetrievalError(f"encoder {self.encoder.path.name!r} failed: {error}") from error
        with _faiss_threads(self._threads):
            encoded = list(vectors)
            for start in range(0, len(encoded), AT_ONCE):
                batch = encoded[start : start + AT_ONCE]
                rows = self._nearest(np.stack([vectors[query] for query in batch]), limit)
                found.update(zip(batch, (self._hits(*r, limit) for r in rows), strict=True))
        results = []
        for query in queries:
            hits = found.get(query, [])
            results.append(hits.copy() if isinstance(hits, list) else hits)
        return results

    def _vector(self, query: str) -> NDArray[np.float32]:
        """The query's vector, from the cache if the query was used before."""
        vector = self._vectors.find(query)
        if vector is None:
            vector = self.encoder.encode_query(query)
            self._vectors.put(query, vector)
        return vector

    def _nearest(self, queries: NDArray[np.float32], k: int) -> list[Scored]:
        """Scores and rows for each query: the k best, and all that score the same as the last of these."""
        k = min(k, len(self._groups))
        scanned = self._scan.search(queries, k) if self._scan is not None else [None] * len(queries)
        left = [number for number, one in enumerate(scanned) if one is None]
        searched: list[Scored] = []
        for start in range(0, len(left), _BATCH):
            searched += self._searched(queries[left[start : start + _BATCH]], k)
        rest = iter(searched)
        return [next(rest) if one is None else one for one in scanned]

    def _searched(self, queries: NDArray[np.float32], k: int) -> Iterator[Scored]:
        """`_nearest`, by faiss alone."""
        fetch = min(k + 1, len(self._groups))
        scores, rows = self._index.search(queries, fetch)
        for query, some_scores, some_rows in zip(queries, scores, rows, strict=True):
            fetched = fetch
            while (
                fetched < len(self._groups) and some_rows[-1] >= 0 and some_scores[-1] == some_scores[k - 1]
            ):
                fetched = min(2 * fetched, len(self._groups))
                found = self._index.search(query[None], fetched)
                some_scores, some_rows = found[0][0], found[1][0]
            there = some_rows >= 0  # an approximate search may run out of candidates
            yield some_scores[there], some_rows[there]

    def _hits(self, scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> SearchResult:
        if not len(rows) or not np.isfinite(scores).all():
            return RetrievalError(
                f"the dense index in {self.directory} gave a score that is not a finite number: its vectors or the query's "
                "are too large or damaged"
            )
        found = [
            (-score, position)
            for score, row in zip(scores.tolist(), rows.tolist(), strict=True)
            for position in self._groups.passages(row)
        ]
        hits = []
        for score, position in sorted(found)[:k]:  # positions are in order of id
            passage = self._corpus.passages[position]
            hits.append(Hit(passage.id, passage.title, passage.text, -score))
        return hits

    def __reduce__(self) -> tuple[Any, ...]:  # a worker maps the same files
        return (DENSE_BACKEND.open, (self._corpus, self._settings, self.directory))


class DenseBackend(IndexBackend):
    """Builds and opens `Dense` indexes; the entry point `dense` of `searchgym.retrievers`."""

    name = "dense"
    lazy = ("index-*.faiss", *GROUP_FILES)

    def settings(
        self,
        *,
        encoder: EncoderSpec = MINILM,
        kind: str = "auto",
        nlist: int | None = None,
        nprobe: int = 128,
        ef_search: int = 128,
        vectors: str | None = None,
        vector_ids: str | None = None,
        vectors_digest: str | None = None,
    ) -> dict[str, Any]:
        """Check the options.

        Args:
            encoder: "minilm", the directory of a sentence-transformers model, its id on the Hugging Face Hub, or a
                dict of the options of `EncoderOptions`: {"name": …, "dtype": …}.
            kind: "flat", "ivf", "hnsw", or "auto": flat up to `FLAT_UP_TO` passages, ivf for more.
            nlist: cells of an ivf index; None for about four times the square root of the number of rows.
            nprobe: cells that an ivf search reads. Not part of the files.
            ef_search: candidates that an hnsw search keeps. Not part of the files.
            vectors: a published `.npy` file or flat faiss index, used instead of encoding the passages.
            vector_ids: the passage of each row of `vectors`; see `published_rows`.
            vectors_digest: what identifies `vectors`. Computed from the file and recorded with the index, so that the
                index can be opened without the file.

        Raises:
            ConfigError: a value out of range, or no such encoder or file.
            MissingExtraError: "minilm" without its package.
        """
        choice("kind", kind, KINDS)
        if nlist is not None:
            integer("nlist", nlist, 1)
        integer("nprobe", nprobe, 1)
        integer("ef_search", ef_search, 1)
        if vectors is None and (vector_ids is not None or vectors_digest is not None):
            raise ConfigError(
                "vector_ids needs vectors, the file whose rows it identifies: give both or neither"
            )
        if vectors is not None and vectors_digest is None:
            file = Path(vectors).expanduser().absolute()
            if not file.is_file():
                raise ConfigError(
                    f"vectors is {vectors!r}, which is not a file: give a .npy file or a flat faiss index"
                )
            vectors, vectors_digest = str(file), digest_vectors(file)
        if vector_ids not in (None, "number"):
            vector_ids = str(Path(vector_ids).expanduser().absolute())
        parsed = EncoderOptions.parse(encoder)
        Encoder.find(asdict(parsed))
        return {
            **_recorded_encoder(parsed),
            "kind": kind,
            "nlist": nlist,
            "nprobe": nprobe,
            "ef_search": ef_search,
            "vectors": vectors,
            "vector_ids": vector_ids,
            "vectors_digest": vectors_digest,
        }

    def recorded_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the encoder are recorded next to the others; `settings` takes them as one specification."""
        encoder = _recorded_encoder(EncoderOptions())
        others = {name: value for name, value in settings.items() if name not in encoder}
        return {**others, "encoder": asdict(_encoder_options(settings))}

    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the files depend on. faiss reads the files of its earlier versions, so its version is not part of it."""
        kind = _kind(corpus, settings)
        rows: dict[str, Any] | None = None
        if settings["vectors"] is not None:
            rows = {"digest": settings["vectors_digest"], "ids": _ids_digest(settings["vector_ids"])}
        return {
            "format": _FORMAT,
            "backend": self.name,
            "corpus": corpus.hash,
            "settings": {"kind": kind, "nlist": settings["nlist"] if kind == "ivf" else None},
            "encoder": _encoder(settings).identity,
            "vectors": rows,
        }

    def estimate(self, corpus: Corpus, settings: Mapping[str, Any]) -> Estimate:
        """Disk: the index, the vectors it is built from, and two numbers per passage. Loads the encoder."""
        rows = len(corpus.passages)
        encoder = _encoder(settings)
        kind = _kind(corpus, settings)
        published = settings["vectors"] is not None
        dimension = PublishedVectors(Path(settings["vectors"])).dimension if published else encoder.dimension
        index, memory = faiss_bytes(kind, rows, dimension, settings["nlist"])
        seconds = None if published else _encoding_seconds(corpus, encoder)
        return Estimate(
            disk=index + (0 if published else 4 * rows * dimension) + 8 * rows,
            # 64 bytes per passage to find identical texts; they are free again before the index is built
            memory=max(64 * rows, memory) + _ENCODER_MEMORY + encoder.weights,
            seconds=seconds,
        )

    def build(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path, progress: Progress) -> None:
        load_faiss()
        encoded = directory / VECTORS
        if (
            (directory / "index-00000.faiss").exists()
            and not encoded.exists()
            and settings["vectors"] is None
        ):
            return  # killed when everything was done: the encoded vectors are removed last
        vectors: Vectors
        texts = directory / _TEXTS
        if settings["vectors"] is not None:
            vectors = PublishedVectors(Path(settings["vectors"]))
            what = f"vectors {settings['vectors']!r}"
            source = published_rows(corpus, vectors, settings["vector_ids"])
            groups = group_passages(corpus, texts, progress, order=source)
            rows = source[groups.firsts()][groups.rows()]
        else:
            what = f"the vectors of encoder {settings['encoder']!r}"
            groups = group_passages(corpus, texts, progress)
            vectors = encode_rows(corpus, groups, _encoder(settings), encoded, progress)
            rows = groups.rows()
        groups = group_vectors(vectors, rows, corpus, directory, what, progress)
        distinct = pick(vectors, rows[groups.firsts()])
        with _faiss_threads(settings["threads"]):
            build_faiss_files(_kind(corpus, settings), distinct, directory, settings["nlist"], progress)
        shutil.rmtree(texts)
        encoded.unlink(missing_ok=True)

    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> Dense:
        """Open a built index. Loads the encoder, so that an unusable one is reported before any work starts."""
        load_faiss()
        encoder = _encoder(settings)
        return Dense(corpus, encoder, self.key(corpus, settings), settings, directory)


DENSE_BACKEND = DenseBackend()


def _recorded_encoder(options: EncoderOptions) -> dict[str, Any]:
    """The options of an encoder as settings record them: flat, which keeps the hashes of existing indexes."""
    recorded = asdict(options)
    return {"encoder": recorded.pop("name"), **recorded}


def _encoder_options(settings: Mapping[str, Any]) -> EncoderOptions:
    names = [option.name for option in declared_options(EncoderOptions) if option.name != "name"]
    return EncoderOptions(name=settings["encoder"], **{name: settings[name] for name in names})


def _encoder(settings: Mapping[str, Any]) -> Encoder:
    return Encoder.find(asdict(_encoder_options(settings)))


def _kind(corpus: Corpus, settings: Mapping[str, Any]) -> str:
    kind: str = settings["kind"]
    if kind != "auto":
        return kind
    return "flat" if len(corpus.passages) <= FLAT_UP_TO else "ivf"


def _ids_digest(ids: str | None) -> str | None:
    if ids in (None, "number"):
        return ids
    try:
        return digest_vectors(Path(ids))
    except OSError as error:
        raise ConfigError(f"vector_ids {ids!r} cannot be read: {error.strerror or error}") from error


def _encoding_seconds(corpus: Corpus, encoder: Encoder) -> float:
    """Estimated from the model's operations, two per weight and token, at the rate measured for MiniLM on one core."""
    import torch

    step = max(1, len(corpus.passages) // 100)
    lengths = [len(passage_text(corpus.passages[i])) for i in range(0, len(corpus.passages), step)]
    tokens = min(sum(lengths) / len(lengths) / 4, encoder.max_tokens)
    rate = 2e13 if encoder.on_gpu else 5e10 * (encoder.threads or torch.get_num_threads())
    return len(corpus.passages) * tokens * 2 * encoder.operations / rate


@contextlib.contextmanager
def _faiss_threads(number: int | None) -> Iterator[None]:
    """Let faiss use this many threads within the block; None for its own number."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
