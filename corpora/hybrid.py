"""Hybrid retrieval: the rankings of several retrievers over one corpus, fused.

Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009), with weights w (1 each by default):

    score(q, d) = sum over parts p that found d of  w_p / (60 + rank_p(d))

Departures:

1. Passages with equal scores share a rank, their best one, so that identical passages are not ranked by their ids.
   Where scores differ, the ranks are the paper's.
2. From each part, the first `depth` hits count, and hits that score the same as the last of these.
3. If one part fails on a query, the query has failed: a fusion of the other parts would silently be another ranking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from searchgym.errors import ConfigError, RetrievalError
from searchgym.options import integer, number
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, Retriever, SearchResult, check_result
from searchgym.specs import Spec, open_retriever

from .indexing.arguments import check_k, check_queries
from .indexing.sealed import digest

__all__ = ["RRF_CONSTANT", "Hybrid", "open_hybrid"]

RRF_CONSTANT = 60
"""The paper's k: the larger, the less the first ranks stand out."""


class Hybrid:
    """Fuses the rankings of other retrievers; implements `searchgym.Retriever`.

    Args:
        parts: two or more retrievers over the same corpus.
        weights: one for each part; 1 each by default.
        depth: hits of each part that are fused.

    Attributes:
        name: "hybrid".
        index_hash: digest of the parts' hashes, the weights and the depth.
        ids_match: whether those of all parts do; see `searchgym.Retriever`.

    Raises:
        ConfigError: fewer than two parts, or weights or a depth that cannot be used.
    """

    name = "hybrid"

    def __init__(
        self, parts: Sequence[Retriever], weights: Sequence[float] | None = None, depth: int = 100
    ) -> None:
        if len(parts) < 2:
            raise ConfigError(f"hybrid has {len(parts)} part(s): name two or more retrievers")
        self._parts = list(parts)
        self._weights = [1.0] * len(parts) if weights is None else _check_weights(weights, len(parts))
        self._depth = integer("depth", depth, 1)
        self.ids_match = all(getattr(part, "ids_match", True) for part in parts)
        self.index_hash = digest(
            {
                "format": 1,
                "backend": self.name,
                "parts": [part.index_hash for part in parts],
                "weights": self._weights,
                "depth": depth,
            }
        )

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. The scores are fused, at most Σ w / 61.

        There may be fewer than k hits: at most the first `depth` of all parts together.

        Raises:
            ConfigError: k is not a whole number >= 1, or `queries` is not a sequence of strings.
            RetrievalError: a part failed on the whole batch.
        """
        limit, checked = check_k(k), check_queries(queries)
        if not checked:
            return []
        rankings = [self._ranked(part, checked) for part in self._parts]
        return [self._fused(one_query, limit) for one_query in zip(*rankings, strict=True)]

    def _fused(self, rankings: Sequence[dict[Hit, int] | RetrievalError], k: int) -> SearchResult:
        scores: dict[tuple[str, str, str], float] = {}
        found: dict[tuple[str, str, str], Hit] = {}
        for ranking, weight in zip(rankings, self._weights, strict=True):
            if isinstance(ranking, RetrievalError):
                return ranking
            # An id names a passage, unless this part gave it to several.
            several = {id for id, count in Counter(hit.id for hit in ranking).items() if count > 1}
            for hit, rank in ranking.items():
                key = (hit.id, hit.title, hit.text) if hit.id in several else (hit.id, "", "")
                found.setdefault(key, hit)
                scores[key] = scores.get(key, 0.0) + weight / (RRF_CONSTANT + rank)
        best = sorted(scores, key=lambda key: (-scores[key], *key))[:k]
        return [found[key]._replace(score=scores[key]) for key in best]

    def _ranked(self, part: Retriever, queries: list[str]) -> list[dict[Hit, int] | RetrievalError]:
        """The hits of a part for each query, with ranks from 1."""
        ranked: list[dict[Hit, int] | RetrievalError] = []
        for query, result in zip(queries, _ask(part, queries, self._depth + 1), strict=True):
            hits, fetched = result, self._depth + 1
            # If scores are equal across the cut, fetch until they differ.
            while (
                isinstance(hits, list)
                and len(hits) == fetched
                and hits[-1].score == hits[self._depth - 1].score
            ):
                fetched *= 2
                hits = _ask(part, [query], fetched)[0]
            if isinstance(hits, RetrievalError):
                ranked.append(RetrievalError(f"part {part.name!r} of hybrid: {hits}"))
                continue
            ranks: dict[Hit, int] = {}
            rank = 0
            for place, hit in enumerate(hits):
                if place == 0 or hit.score < hits[place - 1].score:
                    rank = place + 1
                if rank > self._depth:
                    break
                ranks[hit] = rank
            ranked.append(ranks)
        return ranked

    def __reduce__(self) -> tuple[Any, ...]:
        return (Hybrid, (self._parts, self._weights, self._depth))


def open_hybrid(
    corpus: Corpus,
    *,
    parts: Sequence[Spec] = ("bm25", "dense"),
    weights: Sequence[float] | None = None,
    depth: int = 100,
) -> Hybrid:
    """Open retrievers over a corpus and fuse them; the entry point `hybrid` of `searchgym.retrievers`.

    Args:
        corpus: what all parts search.
        parts: names, paths of built indexes, or dicts like {"name": "bm25", "k1": 1.2}.
        weights: one for each part; 1 each by default.
        depth: hits of each part that are fused.

    Raises:
        ConfigError: see `Hybrid`; also what opening a part raises.
    """
    if isinstance(parts, str | Mapping) or not isinstance(parts, Sequence):
        raise ConfigError(f'parts is {parts!r}: give a list of retrievers, like ["bm25", "dense"]')
    return Hybrid([open_retriever(part, corpus, cached=False) for part in parts], weights, depth)


def _ask(part: Retriever, queries: list[str], k: int) -> Sequence[SearchResult]:
    try:
        results = part.search(queries, k)
    except RetrievalError as error:
        raise RetrievalError(f"part {part.name!r} of hybrid: {error}") from error
    if len(results) != len(queries):
        raise RetrievalError(
            f"part {part.name!r} of hybrid returned {len(results)} results for {len(queries)} queries"
        )
    return [check_result(result, part.name) for result in results]


def _check_weights(weights: object, count: int) -> list[float]:
    if isinstance(weights, str) or not isinstance(weights, Sequence) or len(weights) != count:
        raise ConfigError(f"weights is {weights!r}: give a list of {count} numbers, one for each part")
    return [number("a weight of hybrid", weight, above=0) for weight in weights]
