"""Writes the hits of a query as the bytes of an answer, in the form that was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from searchgym.errors import RetrievalError
from searchgym.records.retriever import Hit, Retriever, check_result

from .protocol import write_document
from .requests import MSGPACK, Form

__all__ = ["BETWEEN", "search_encoded"]

BETWEEN = b"\n"
"""Separates documents and scores in a `bare` result; JSON as it is written here has no line breaks."""

_text = json.JSONEncoder().encode


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
    if form.media == MSGPACK:
        import msgpack

        rows: list[Any] = [write_document(hit) for hit in hits]
        if form.scores:
            rows = [{"document": row, "score": float(hit.score)} for row, hit in zip(rows, hits, strict=True)]
        packed: bytes = msgpack.packb(rows, unicode_errors="replace")
        return packed
    documents = [_document(hit) for hit in hits]
    scores = [float(hit.score).__repr__() for hit in hits] if form.scores else []
    if form.bare:
        return _list(documents) + BETWEEN + _list(scores)
    if form.scores:
        pairs = zip(documents, scores, strict=True)
        documents = [f'{{"document": {document}, "score": {score}}}' for document, score in pairs]
    return _list(documents)


def _document(hit: Hit) -> str:
    # String by string, as an encoder that is set up for every document takes twice the time. And a thousand documents in one
    # call would keep Python's lock from all other threads for milliseconds.
    return "{" + ", ".join([f'"{name}": {_text(value)}' for name, value in write_document(hit).items()]) + "}"


def _list(items: Sequence[str]) -> bytes:
    return ("[" + ", ".join(items) + "]").encode()
