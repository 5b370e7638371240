"""The dialects of the `/retrieve` protocol that the client speaks: what is sent, and where the hits are in the reply.

Which one a server speaks is tried once, when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DIALECTS", "QUERIES", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect.

    Attributes:
        name: for messages.
        batch: queries per request at most; None for any number.
        request: the body for some queries and a number of hits.
        rows: the rows of hits in a reply. Raises KeyError, TypeError or ValueError if it is in another dialect.
    """

    name: str
    batch: int | None
    request: Callable[[Sequence[str], int], dict[str, Any]]
    rows: Callable[[Any], list[Any]]


def _result(reply: Any) -> list[Any]:
    rows = reply["result"]
    if not isinstance(rows, list):
        raise TypeError(f"'result' is {rows!r:.60}, not a list")
    return rows


def _lists(reply: Any) -> list[Any]:
    """The rows of ReSearch's servers: the documents of each query, or these and their scores."""
    if not isinstance(reply, list):
        raise TypeError(f"the reply is {reply!r:.60}, not a list")
    if len(reply) != 2 or not _are_scores(reply[1]):
        return reply
    return [
        [{"document": document, "score": score} for document, score in zip(documents, scores, strict=True)]
        for documents, scores in zip(*reply, strict=True)
    ]


def _are_scores(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and all(isinstance(score, int | float) for score in row) for row in value
    )


QUERIES = Dialect(
    "queries", None, lambda queries, k: {"queries": list(queries), "topk": k, "return_scores": True}, _result
)
"""Search-R1's, which most servers speak, ours too."""

_QUERY = Dialect(
    "query", 1, lambda queries, k: {"query": queries[0], "topk": k, "return_scores": True}, _result
)
_LISTS = Dialect(
    "batch_search",
    None,
    lambda queries, k: {"query": list(queries), "top_n": k, "return_score": True},
    _lists,
)

DIALECTS: Mapping[bool, tuple[Dialect, ...]] = {
    False: (QUERIES, _QUERY, _LISTS),
    True: (_LISTS, QUERIES, _QUERY),
}
"""In the order in which they are tried; True for a URL that ends in "search", as those of ReSearch's servers do."""
