"""A Milvus collection with the rows of a corpus: connecting, filling, checking, searching.

`index.py` describes a row. Every failure of the server is raised as `RetrievalError`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.errors import ConfigError, IndexMismatchError, MissingExtraError, RetrievalError
from searchgym.records.question import Corpus

from ..bm25.index import BM25, open_bm25
from ..dense.encoders import Encoder
from ..dense.rows import Vectors, cached_groups
from ..dense.vectors import cached_vectors
from ..indexing.backend import Progress, shown_progress
from ..indexing.cache import home
from ..indexing.sealed import digest
from .local_files import check_local, record_local

__all__ = ["FILE_SUFFIX", "Collection", "dimension"]

FILE_SUFFIX = ".db"
"""The end of a milvus-lite file's name."""

_BATCH = 1000  # rows per request; four megabytes at 1,024 components per vector
_SAMPLE = 64  # rows of a full collection that are checked when it is opened
_NOT_LOADED = 101  # error code of Milvus: the server was restarted, or a client released the collection
_NO_TERM = 0  # the dimension of passages without terms, as Milvus accepts no empty vectors; no query has it


class Collection:
    """A connection to the collection of a corpus. Creating it fills the collection if necessary.

    Args:
        corpus: the passages.
        key: what determines the rows, as JSON values: k1 (None for no field `sparse`), b, exact, and more.
        encoder: of the field `dense`; None for no such field.
        uri: of a server, or a file; None for a file in the cache.
        name: of the collection; None for one derived from the key.
        timeout: seconds for one request.

    Attributes:
        groups: the passages of each row.
        client: the `MilvusClient`.

    Raises:
        ConfigError: the URI cannot be used, or another process has the file open.
        DamagedFileError: the file is not what was written when the collection was filled.
        IndexMismatchError: the collection exists, and was made from another corpus or with other settings.
        RetrievalError: the server cannot be reached or fails.
        MissingExtraError: pymilvus or milvus-lite is not installed.
    """

    def __init__(
        self,
        corpus: Corpus,
        key: Mapping[str, Any],
        encoder: Encoder | None,
        uri: str | None,
        name: str | None,
        timeout: float,
    ) -> None:
        self.corpus, self.key, self.encoder = corpus, dict(key), encoder
        self.name = name or f"searchgym_{digest(self.key)}"
        self.uri = uri or str(home() / "milvus" / f"{self.name}{FILE_SUFFIX}")
        self._local = self.uri.endswith(FILE_SUFFIX)
        self._timeout = timeout
        self._process = os.getpid()
        self._pymilvus = _load_pymilvus()
        # pymilvus does not wrap all errors of gRPC.
        self._rpc_error: type[Exception] = importlib.import_module("grpc").RpcError
        self.client = self._connect()
        with shown_progress() as progress:
            self.groups = cached_groups(corpus, progress)
            self._fill(progress)
        if self._local:
            record_local(self.uri, self.name)

    def search(self, field: str, vectors: list[Any], count: int) -> list[list[tuple[float, int]]]:
        """Search for the rows with the greatest inner products.

        Args:
            field: "sparse" or "dense".
            vectors: one per query.
            count: rows per query.

        Returns:
            (score, row) pairs for each query, best first.

        Raises:
            RetrievalError: the server did not answer or answered with an error, or this process was forked.
        """
        if os.getpid() != self._process:
            raise RetrievalError(
                f"Milvus at {self.uri} was opened before this process was forked, and gRPC does not survive that: "
                'start workers with the method "spawn", or open the retriever in the worker'
            )
        if self._local and field == "dense" and len(vectors) > 1:
            # milvus-lite multiplies matrices, whose sums depend on the size of the batch; a request costs very little.
            return [self.search(field, [vector], count)[0] for vector in vectors]
        # An exact index takes no parameters; a graph must keep more candidates than are requested.
        graph = field == "dense" and not self.key["exact"]
        request: dict[str, Any] = {
            "data": vectors,
            "anns_field": field,
            "limit": count,
            "search_params": {"metric_type": "IP", "params": {"ef": max(128, count)} if graph else {}},
            "output_fields": ["row"],
            "timeout": self._timeout,
        }
        with self._failures():
            try:
                found = self.client.search(self.name, **request)
            except self._pymilvus.MilvusException as error:
                if error.code != _NOT_LOADED:
                    raise
                self.client.load_collection(self.name, timeout=self._timeout)
                found = self.client.search(self.name, **request)
            results = [[(float(hit["distance"]), int(hit["row"])) for hit in hits] for hits in found]
        if len(results) != len(vectors):
            raise RetrievalError(
                f"Milvus at {self.uri} gave {len(results)} results for {len(vectors)} queries"
            )
        return results

    def _connect(self) -> Any:
        if self._local:
            _need_milvus_lite()
            Path(self.uri).parent.mkdir(parents=True, exist_ok=True)
            check_local(self.uri, self.name)
        # The token comes from the environment: in a specification it would end up in episode records.
        token = os.environ.get("MILVUS_TOKEN", "")
        try:
            return self._pymilvus.MilvusClient(self.uri, token=token, timeout=self._timeout)
        except self._pymilvus.exceptions.ConnectionConfigException as error:
            if not self._local:
                raise ConfigError(f"uri is {self.uri!r}: {_reason(error)}") from error
            raise ConfigError(
                f"the Milvus file {self.uri} cannot be opened: another process has it open, or it is damaged. "
                "Only one process at a time can use such a file: close the other, give another uri, or run a server"
            ) from error
        except Exception as error:  # from pymilvus, gRPC or milvus-lite
            raise RetrievalError(f"Milvus at {self.uri} cannot be reached: {_reason(error)}") from error

    def _fill(self, progress: Progress) -> None:
        """Create the collection, insert the rows that are missing, and check the others."""
        total = len(self.groups)
        with self._failures():
            there = self.client.has_collection(self.name, timeout=self._timeout)
        if there:
            self._check_fields()
        with self._failures():
            if there:
                self.client.load_collection(self.name, timeout=self._timeout)
            counted = self._count() if there else 0
        if counted > total:
            raise self._mismatch(f"it has {counted:,} rows, but the corpus has {total:,} distinct passages")
        if counted == total:
            self._check(np.unique(np.linspace(0, total - 1, _SAMPLE).astype(np.int64)).tolist())
            return
        vectors = cached_vectors(self.corpus, self.encoder, progress) if self.encoder is not None else None
        bm25 = (
            open_bm25(self.corpus, k1=self.key["k1"], b=self.key["b"]) if self.key["k1"] is not None else None
        )
        if not there:
            with self._failures():
                self._create(vectors.dimension if vectors is not None else None)
        for start in range(0, total, _BATCH):
            batch = range(start, min(start + _BATCH, total))
            if not counted or not self._check(batch):
                rows = self._rows(batch, bm25, vectors)
                with self._failures():
                    # Not `insert`: a part of the batch may be there, if an earlier call was killed while it was sent.
                    self.client.upsert(self.name, rows, timeout=self._timeout)
            progress("insert", batch.stop, total)
        with self._failures():
            self.client.flush(self.name, timeout=self._timeout)
            counted = self._count()
        whole = all(self._check(range(i, min(i + _BATCH, total))) for i in range(0, total, _BATCH))
        if counted != total or not whole:
            raise RetrievalError(
                f"Milvus at {self.uri} has {counted:,} rows in collection {self.name!r} after {total:,} were inserted"
                f"{'' if whole else ', and some are missing'}: drop the collection, and open the retriever again"
            )

    def _rows(self, batch: range, bm25: BM25 | None, vectors: Vectors | None) -> list[dict[str, Any]]:
        positions = [self.groups.passages(row)[0] for row in batch]
        rows: list[dict[str, Any]] = [{"row": row, "digest": self._digest(row)} for row in batch]
        if bm25 is not None:
            for entry, position in zip(rows, positions, strict=True):
                gains = bm25.gains(position)
                entry["sparse"] = {dimension(term): gain for term, gain in gains.items()} or {_NO_TERM: 1.0}
        if vectors is not None:
            for entry, vector in zip(rows, vectors.read(np.array(positions)), strict=True):
                entry["dense"] = vector
        return rows

    def _check(self, rows: range | list[int]) -> bool:
        """Whether all of these rows are there; raises `IndexMismatchError` if one of them belongs to another corpus."""
        wanted = f"row >= {rows.start} and row < {rows.stop}" if isinstance(rows, range) else f"row in {rows}"
        with self._failures():
            found = self.client.query(
                self.name,
                filter=wanted,
                output_fields=["row", "digest"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        for entry in found:
            if entry["digest"] != self._digest(entry["row"]):
                raise self._mismatch(f"row {entry['row']} is another passage, or has other vectors")
        return len({entry["row"] for entry in found}) == len(rows)

    def _digest(self, row: int) -> int:
        passage = self.corpus.passages[self.groups.passages(row)[0]]
        state = hashlib.blake2b(digest(self.key).encode(), digest_size=8)
        state.update(f"{passage.title}\n{passage.text}".encode("utf-8", "replace"))
        return int.from_bytes(state.digest(), "big", signed=True)

    def _check_fields(self) -> None:
        with self._failures():
            described = self.client.describe_collection(self.name, timeout=self._timeout)
        fields = {field["name"] for field in described["fields"]}
        wanted = {"row", "digest"}
        wanted |= {
            name for name, part in (("sparse", "k1"), ("dense", "encoder")) if self.key[part] is not None
        }
        if fields != wanted:
            raise self._mismatch(f"it has the fields {', '.join(sorted(fields))}")

    def _mismatch(self, why: str) -> IndexMismatchError:
        return IndexMismatchError(
            f"collection {self.name!r} of Milvus at {self.uri} was not made from {self.corpus.name!r} with these "
            f"settings: {why}. Name another collection, or drop this one to create it again"
        )

    def _create(self, numbers: int | None) -> None:
        types = self._pymilvus.DataType
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", types.INT64, is_primary=True)
        schema.add_field("digest", types.INT64)
        indexes = self.client.prepare_index_params()
        if self.key["k1"] is not None:
            schema.add_field("sparse", types.SPARSE_FLOAT_VECTOR)
            indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        if numbers is not None:
            schema.add_field("dense", types.FLOAT_VECTOR, dim=numbers)
            graph: dict[str, Any] = {"index_type": "HNSW", "params": {"M": 32, "efConstruction": 200}}
            how = {"index_type": "FLAT"} if self.key["exact"] else graph
            indexes.add_index("dense", metric_type="IP", **how)
        self.client.create_collection(self.name, schema=schema, index_params=indexes, timeout=self._timeout)

    def _count(self) -> int:
        found = self.client.query(
            self.name,
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
            timeout=self._timeout,
        )
        return int(found[0]["count(*)"])

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        # ValueError: gRPC on a closed channel.
        except (self._pymilvus.MilvusException, self._rpc_error, OSError, ValueError) as error:
            raise RetrievalError(f"Milvus at {self.uri}: {_reason(error)}") from error


def dimension(term: str) -> int:
    """The dimension of a term in sparse vectors, from 1 to 2^32 - 2, the last one that Milvus accepts."""
    number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "big")
    return number % (2**32 - 2) + 1


def _load_pymilvus() -> Any:
    try:
        return importlib.import_module("pymilvus")
    except ModuleNotFoundError as error:
        raise MissingExtraError("retriever 'milvus'", "pymilvus", "scale") from error


def _need_milvus_lite() -> None:
    if importlib.util.find_spec("milvus_lite") is None:
        raise MissingExtraError("a Milvus file (a uri that ends in .db)", "milvus_lite", "scale")


def _reason(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
