"""Dense retrieval: passages and queries become vectors of length 1, and nearness is their inner product.

`encoders.py` makes the vectors, `vectors.py` keeps them, faiss finds the nearest. Three kinds of index:

| kind | what is stored | searched | memory |
|---|---|---|---|
| `flat` | float32 | everything: exact | 4 bytes a number, mapped |
| `ivf`  | 8 bits a number, in `nlist` cells | the `nprobe` cells nearest to the query | 1 byte a number, mapped |
| `hnsw` | 8 bits a number and a graph of 32 links | along the graph, `ef_search` candidates | 1 byte a number + 270 |

What holds for all: equal scores are in order of id, also across the cut at k, because the search fetches beyond
the cut until the scores differ; identical passages share one vector; every query is encoded and scored alone, so
a batch changes nothing. `flat` and `ivf` look at the same candidates for every k. `hnsw` does so up to
k = `ef_search` only: beyond that a larger k searches further, and may find better ones.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, IndexMismatchError, RetrievalError
from searchgym.question import Corpus
from searchgym.retriever import Hit, SearchResult

from ..indexing.arguments import check_k, check_queries
from ..indexing.backend import Estimate, IndexBackend, Progress
from ..indexing.cache import MANIFEST, digest
from .encoders import MINILM, Encoder
from .faiss_files import FaissFiles, build_faiss_files, faiss_bytes
from .vectors import (
    VECTORS,
    Groups,
    PublishedVectors,
    Vectors,
    digest_vectors,
    encode_rows,
    group_passages,
    load_faiss,
    passage_text,
    pick,
    published_rows,
)

__all__ = ["DENSE_BACKEND", "FLAT_UP_TO", "Dense", "DenseBackend"]

FLAT_UP_TO = 200_000
"""Passages up to which `kind="auto"` is flat: searching them takes no longer than encoding the query."""
KINDS = ("auto", "flat", "ivf", "hnsw")

_FORMAT = 1
_KNOWN_QUERIES = 10_000  # vectors of queries kept at hand: 15 MB at 384 numbers
_TOGETHER = 16  # queries handed to faiss at once; it scores so few one by one, for many it takes BLAS
_ENCODER_MEMORY = 700 * 2**20  # torch and transformers themselves, and the activations of a batch


class Dense:
    """A dense index over the passages of a corpus; implements `searchgym.Retriever`.

    Made by `DENSE_BACKEND`, i.e. `retriever="dense"`. Threads may share one: encoding takes turns. After a fork
    it works on in the child as long as `threads` is 1.

    Attributes:
        name: "dense".
        index_hash: digest of the corpus, the encoder, the settings and the stored vectors themselves, whose last
            bits differ between processors.
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
        self._threads = settings["threads"] or 1
        self._index = FaissFiles(directory, settings["nprobe"], settings["ef_search"])
        self._groups = Groups(directory)
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        content = json.loads((directory / MANIFEST).read_text("utf-8"))["files"]
        searched = {"nprobe": settings["nprobe"], "ef_search": settings["ef_search"]}
        self.index_hash = digest({"key": dict(key), "content": content, "search": searched})
        if encoder.dimension != self._index.dimension:
            raise IndexMismatchError(
                f"the index in {directory} has vectors of {self._index.dimension} numbers, encoder {encoder.path} gives "
                f"{encoder.dimension}: name the encoder the vectors were made with"
            )

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`.

        Any string is a query; one of white space only has the empty result. Everything else finds something:
        passages are near or far, never unrelated.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
            RetrievalError: the encoder failed, e.g. for want of memory on the GPU.
        """
        limit = min(check_k(k), len(self._corpus.passages))
        asked = list(dict.fromkeys(query for query in check_queries(queries) if query.strip()))
        found: dict[str, SearchResult] = {}
        try:
            vectors = [self._vector(query) for query in asked]
        except RuntimeError as error:  # torch's, for everything that can go wrong on a device
            raise RetrievalError(f"encoder {self.encoder.path.name!r} failed: {error}") from error
        with _faiss_threads(self._threads):
            for start in range(0, len(asked), _TOGETHER):
                some = np.stack(vectors[start : start + _TOGETHER])
                rows = self._nearest(some, limit)
                found.update(
                    zip(asked[start : start + _TOGETHER], (self._hits(*r, limit) for r in rows), strict=True)
                )
        results = []
        for query in queries:
            hits = found.get(query, [])
            results.append(hits.copy() if isinstance(hits, list) else hits)
        return results

    def _vector(self, query: str) -> NDArray[np.float32]:
        """The query's vector, at hand if it was asked for before."""
        known = self._vectors
        vector = known.get(query)
        if vector is None:
            vector = known[query] = self.encoder.encode_query(query)
            while len(known) > _KNOWN_QUERIES:
                with contextlib.suppress(KeyError):  # another thread may have dropped it
                    known.popitem(last=False)
            return vector
        with contextlib.suppress(KeyError):
            known.move_to_end(query)
        return vector

    def _nearest(
        self, queries: NDArray[np.float32], k: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Scores and rows for each query: the k best, and all that score the same as the last of them."""
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

    def _hits(self, scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> list[Hit]:
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

    def settings(
        self,
        *,
        encoder: str = MINILM,
        revision: str | None = None,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
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
            encoder: "minilm", the directory of a sentence-transformers model, or its id on the hub.
            revision: commit, tag or branch, for a model of the hub.
            query_prefix: put before queries; by default what the model is known to want.
            passage_prefix: likewise, before passages.
            max_length: tokens read of a text; by default the model's own limit.
            dtype: "float32", "bfloat16" or "float16", for encoding.
            device: e.g. "cuda:1"; by default a CUDA device if there is one, else the CPU.
            threads: of the encoder and of faiss; by default one for searching, all for building.
            kind: "flat", "ivf", "hnsw", or "auto": flat up to `FLAT_UP_TO` passages, then ivf.
            nlist: cells of an ivf index; by default about four times the root of the number of rows.
            nprobe: cells that an ivf search looks into. Not built in.
            ef_search: candidates that an hnsw search keeps. Not built in.
            vectors: a published `.npy` file or flat faiss index, taken instead of encoding the passages.
            vector_ids: which passage a row of `vectors` is of; see `published_rows`.
            vectors_digest: what identifies `vectors`. Filled in from the file, and recorded with the index, which
                can then be opened where the file is not.

        Raises:
            ConfigError: a value out of range, or no such encoder or file.
            MissingExtraError: "minilm" without its package.
        """
        if kind not in KINDS:
            raise ConfigError(f"kind={kind!r}: use one of {', '.join(KINDS)}")
        for what, number in (("nlist", nlist), ("nprobe", nprobe), ("ef_search", ef_search)):
            if (number is not None or what != "nlist") and (type(number) is not int or number < 1):
                raise ConfigError(f"{what}={number!r}: use a whole number >= 1")
        if vectors is None and (vector_ids is not None or vectors_digest is not None):
            raise ConfigError(
                "vector_ids goes with vectors, the file whose rows it names: give both or neither"
            )
        if vectors is not None and vectors_digest is None:
            file = Path(vectors).expanduser().absolute()
            if not file.is_file():
                raise ConfigError(
                    f"vectors={vectors!r} is not a file: give a .npy file or a flat faiss index"
                )
            vectors, vectors_digest = str(file), digest_vectors(file)
        if vector_ids not in (None, "number"):
            vector_ids = str(Path(vector_ids).expanduser().absolute())
        folder = Path(encoder).expanduser() if isinstance(encoder, str) else None
        if folder is not None and encoder != MINILM and folder.is_dir():
            encoder = str(folder.absolute())
        settings = {
            "encoder": encoder,
            "revision": revision,
            "query_prefix": query_prefix,
            "passage_prefix": passage_prefix,
            "max_length": max_length,
            "dtype": dtype,
            "device": device,
            "threads": threads,
            "kind": kind,
            "nlist": nlist,
            "nprobe": nprobe,
            "ef_search": ef_search,
            "vectors": vectors,
            "vector_ids": vector_ids,
            "vectors_digest": vectors_digest,
        }
        _encoder(settings)
        return settings

    def key(self, corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the files depend on. faiss reads the files of its earlier versions, so that its own is not in it."""
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
        """Disk: the index, the vectors it is made from, and two numbers a passage. Loads the encoder."""
        rows = len(corpus.passages)
        encoder = _encoder(settings)
        kind = _kind(corpus, settings)
        published = settings["vectors"] is not None
        dimension = PublishedVectors(Path(settings["vectors"])).dimension if published else encoder.dimension
        index, memory = faiss_bytes(kind, rows, dimension, settings["nlist"])
        seconds = None if published else _encoding_seconds(corpus, encoder)
        return Estimate(
            disk=index + (0 if published else 4 * rows * dimension) + 8 * rows,
            # 64 bytes a passage to find identical texts; that is over before the index itself is made
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
            return  # killed after everything was done: the encoded vectors are removed last
        vectors: Vectors
        if settings["vectors"] is not None:
            published = PublishedVectors(Path(settings["vectors"]))
            source = published_rows(corpus, published, settings["vector_ids"])
            groups = group_passages(corpus, directory, progress, order=source)
            vectors = pick(published, source[groups.firsts()])
        else:
            encoder = _encoder(settings)
            groups = group_passages(corpus, directory, progress)
            vectors = encode_rows(corpus, groups, encoder, encoded, progress)
        with _faiss_threads(settings["threads"]):
            build_faiss_files(_kind(corpus, settings), vectors, directory, settings["nlist"], progress)
        encoded.unlink(missing_ok=True)

    def open(self, corpus: Corpus, settings: Mapping[str, Any], directory: Path) -> Dense:
        """Open a built index; loads the encoder, so that a broken one is noticed before any work starts."""
        load_faiss()
        return Dense(corpus, _encoder(settings), self.key(corpus, settings), settings, directory)


DENSE_BACKEND = DenseBackend()


def _encoder(settings: Mapping[str, Any]) -> Encoder:
    names = ("revision", "query_prefix", "passage_prefix", "max_length", "dtype", "device", "threads")
    return Encoder.find(settings["encoder"], **{name: settings[name] for name in names})


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
        raise ConfigError(f"vector_ids={ids!r} cannot be read: {error.strerror or error}") from error


def _encoding_seconds(corpus: Corpus, encoder: Encoder) -> float:
    """By the operations of the model: two a weight and token, at the rate measured for MiniLM on one core."""
    import torch

    step = max(1, len(corpus.passages) // 100)
    lengths = [len(passage_text(corpus.passages[i])) for i in range(0, len(corpus.passages), step)]
    tokens = min(sum(lengths) / len(lengths) / 4, encoder.max_tokens)
    rate = 2e13 if encoder.on_gpu else 5e10 * (encoder.threads or torch.get_num_threads())
    return len(corpus.passages) * tokens * 2 * encoder.operations / rate


@contextlib.contextmanager
def _faiss_threads(number: int | None) -> Iterator[None]:
    """Let faiss use so many threads in here; None: as many as it would."""
    faiss = load_faiss()

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
