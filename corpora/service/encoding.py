"""Writes the hits of a query as the bytes of an answer, in the form that was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from searchgym.errors import RetrievalError
from searchgym.retriever import Hit, Retriever, check_result

from .protocol import write_document
from .requests import MSGPACK, Form

__all__ = ["BETWEEN", "search_encoded"]

BETWEEN = b"\n"
"""Separates documents and scores in a `bare` result; JSON as it is written here has no line breaks."""


def search_encoded(retriever: Retriever, queries: Sequence[str], form: Form) -> list[bytes | RetrievalError]:
    """Search a batch and encode its results.

    Args:
        retriever: what searches.
        queries: distinct queries.
        form: what is asked for each.

    Returns:
        The part of the answer that each query gets, or its failure.
    """
    results = (check_result(result, retriever.name) for result in retriever.search(queries, form.topk))
    return [r if isinstance(r, RetrievalError) else _encode(r, form) for r in results]


def _encode(hits: Sequence[Hit], form: Form) -> bytes:
    documents = [write_document(hit) for hit in hits]
    scores = [float(hit.score) for hit in hits] if form.scores else []
    if form.bare:
        return _dump(documents) + BETWEEN + _dump(scores)
    rows: list[Any] = documents
    if form.scores:
        rows = [{"document": d, "score": s} for d, s in zip(documents, scores, strict=True)]
    if form.media == MSGPACK:
        import msgpack

        packed: bytes = msgpack.packb(rows, unicode_errors="replace")
        return packed
    return _dump(rows)


def _dump(rows: Sequence[Any]) -> bytes:
    # One by one: encoding a thousand in one call keeps Python's lock from all other threads for milliseconds.
    return ("[" + ", ".join([json.dumps(row, allow_nan=False) for row in rows]) + "]").encode()
