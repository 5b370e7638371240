"""Checks of corpora and retrievers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from ..errors import ConfigError, ConformanceError, RetrievalError, UnknownIdError
from ..records.question import Corpus, Passage, Question
from ..records.retriever import Hit, Retriever, SearchResult
from .promise import require

__all__ = ["check_corpus", "check_retriever"]

_ODD_QUERIES = {
    "an empty string": "",
    "only white space": " \t\n\u3000",
    "only punctuation": "?!… --- ''",
    "only stop words": "of the and to",
    "a script the corpus hardly has": "ᚠᚢᚦᚨᚱᚲ ᚷᚹᚺᚾ",
    "half a surrogate pair": "river \ud800 town \udfff",
    "a null byte": "river\x00town",
    "a word of 10,000 letters": "x" * 10_000,
    "one megabyte of text": "Which river flows through the town? " * 28_000,
}
_LARGEST_K = 20_000  # a larger corpus is not searched for all of its passages
_SAMPLED = 20_000  # passages looked at for identical ones


def check_corpus(corpus: Corpus) -> None:
    """Check a corpus against `searchgym.Corpus`: order, random access, questions and their gold passages.

    Reads every passage and question once.

    Raises:
        ConformanceError: a promise is broken.
    """
    require(isinstance(corpus, Corpus), f"{type(corpus).__name__} lacks an attribute of searchgym.Corpus")
    for name in ("name", "hash"):
        value = getattr(corpus, name)
        require(isinstance(value, str) and value != "", f"corpus.{name} is {value!r}, not a non-empty string")
    ids = set()
    previous = ""
    for position, passage in enumerate(corpus.passages):
        require(isinstance(passage, Passage), f"passages[{position}] is a {type(passage).__name__}")
        require(
            position == 0 or passage.id > previous,
            f"passages are ordered by id: {passage.id!r} follows {previous!r} at position {position}",
        )
        previous = passage.id
        ids.add(passage.id)
    count = len(corpus.passages)
    require(len(ids) == count > 0, f"passages has len {count} but yields {len(ids)} passages")
    require(corpus.passages[count - 1].id == previous, "passages[len - 1] is not the last passage iterated")
    tasks: dict[str, Question] = {}
    for split in corpus.splits:
        require(split in ("train", "dev", "test"), f"split {split!r} is not train, dev or test")
        require(len(corpus.questions(split)) > 0, f"corpus.splits names {split!r}, which has no questions")
        for question in corpus.questions(split):
            about = f"question {question.id!r}"
            require(question.split == split, f"{about} of split {split!r} says it is of {question.split!r}")
            require(question.id not in tasks, f"{about} occurs twice; ids are unique across splits")
            require(
                bool(question.answers) and all(question.answers), f"{about} has no answer, or an empty one"
            )
            gold = {*question.supporting_ids, *(id for hop in question.chain for id in hop.passage_ids)}
            require(gold <= ids, f"{about} names unknown passages: {sorted(gold - ids)[:3]}")
            tasks[question.id] = question
    for id in list(tasks)[:: max(1, len(tasks) // 100)]:
        require(
            corpus.question(id) == tasks[id], f"corpus.question({id!r}) differs from the one in its split"
        )
    for call, what in ((corpus.question, "question"), (corpus.questions, "questions")):
        try:
            call("no such thing")
        except UnknownIdError:
            continue
        raise ConformanceError(f"corpus.{what}('no such thing') must raise UnknownIdError")


def check_retriever(retriever: Retriever, corpus: Corpus, queries: Sequence[str] | None = None) -> None:
    """Check a retriever against `searchgym.Retriever` and the guarantees episodes rest on.

    The corpus should be small (up to a few thousand passages: all of them are retrieved) and should hold
    groups of identical passages, because those are where order goes wrong.

    Args:
        retriever: what to check; an index over `corpus`.
        corpus: the corpus it was built on, itself sound (`check_corpus`).
        queries: what to ask; by default titles, beginnings of passages and questions of the corpus.

    Raises:
        ConformanceError: a promise is broken.
    """
    require(isinstance(retriever, Retriever), f"{type(retriever).__name__} lacks name, index_hash or search")
    for name in ("name", "index_hash"):
        value = getattr(retriever, name)
        require(isinstance(value, str) and value != "", f"{name} is {value!r}, not a non-empty string")
    index_hash = retriever.index_hash
    passages = {passage.id: passage for passage in corpus.passages}
    twins = _identical_passages(corpus)
    asked = list(
        dict.fromkeys([*(queries or _default_queries(corpus)), *(_body(group[0]) for group in twins)])
    )
    everything = min(len(passages), _LARGEST_K) + 1  # more than there is, unless the corpus is large

    full = _search(retriever, asked, everything)
    require(any(full), f"none of {len(asked)} queries found anything, e.g. {_short(asked[0])}")
    for query, hits in zip(asked, full, strict=True):
        _check_hits(query, hits, everything, passages)
    if everything > len(passages):  # else the cut may run through a group
        _check_twins(asked, full, twins)
    for k in (1, 2, 3, 5, 10):
        for query, hits, longer in zip(asked, _search(retriever, asked, k), full, strict=True):
            same = hits == longer[:k]
            where = f"for {_short(query)}: {_ids(hits)} at k={k}, {_ids(longer[:k])} at k={everything}"
            require(
                same,
                f"the first k hits depend on k {where} (equal scores must be ordered by id before the cut)",
            )
    _check_batches(retriever, asked)
    _check_odd_queries(retriever, asked[0], passages)
    _check_bad_k(retriever, asked)
    _check_threads(retriever, asked)
    require(retriever.index_hash == index_hash, "index_hash changed while searching")


def _check_hits(query: str, hits: Sequence[Hit], k: int, passages: dict[str, Passage]) -> None:
    about = f"for {_short(query)}"
    require(len(hits) <= k, f"{len(hits)} hits at k={k} {about}")
    require(len({hit.id for hit in hits}) == len(hits), f"a passage occurs twice among the hits {about}")
    for hit in hits:
        require(
            type(hit.score) is float and math.isfinite(hit.score),
            f"score {hit.score!r} of {hit.id!r} {about}",
        )
        require(hit.id in passages, f"hit {hit.id!r} {about} is not in the corpus")
        passage = passages[hit.id]
        same = (hit.title, hit.text) == (passage.title, passage.text)
        require(same, f"hit {hit.id!r} {about} carries another title or text than the corpus has")
    for better, worse in pairwise(hits):
        require(
            better.score >= worse.score,
            f"score rises from {better.id!r} to {worse.id!r} {about}; best comes first",
        )
        require(
            better.score > worse.score or better.id < worse.id,
            f"{better.id!r} and {worse.id!r} score the same but are not in order of id {about}",
        )


def _check_twins(asked: list[str], results: list[list[Hit]], twins: list[list[Passage]]) -> None:
    """Identical passages score the same, and none of them is found without the others."""
    for group in twins:
        ids = {passage.id for passage in group}
        for query, hits in zip(asked, results, strict=True):
            found = [hit for hit in hits if hit.id in ids]
            about = f"the identical passages {sorted(ids)[:4]} for {_short(query)}"
            require(len({hit.score for hit in found}) <= 1, f"scores differ between {about}")
            require(len(found) in (0, len(ids)), f"{len(found)} of {len(ids)} found of {about}")


def _check_batches(retriever: Retriever, asked: list[str]) -> None:
    expected = _search(retriever, asked, 5)
    require(_search(retriever, asked, 5) == expected, "the same batch gives another result the second time")
    require(list(retriever.search([], 5)) == [], "an empty batch must have an empty result")
    for query, hits in zip(asked, expected, strict=True):
        alone = _search(retriever, [query], 5)[0]
        require(
            alone == hits, f"alone and in a batch differ for {_short(query)}: {_ids(alone)}, {_ids(hits)}"
        )
    again = _search(retriever, [*reversed(asked), *asked], 5)
    require(
        again == [*reversed(expected), *expected],
        "the result of a query depends on its neighbours in the batch",
    )


def _check_odd_queries(retriever: Retriever, normal: str, passages: dict[str, Passage]) -> None:
    expected = _search(retriever, [normal], 5)[0]
    for what, query in _ODD_QUERIES.items():
        hits, neighbour = _search(retriever, [query, normal], 5, f"{what} as a query")
        _check_hits(query, hits, 5, passages)
        require(neighbour == expected, f"{what} as a query changes the result of its neighbour")
        if not query.strip():
            require(not hits, f"{what} as a query must find nothing, but found {_ids(hits)}")


def _check_bad_k(retriever: Retriever, asked: list[str]) -> None:
    for k in (0, -1):
        try:
            retriever.search(asked[:1], k)
        except ConfigError:
            continue
        except Exception as error:
            raise ConformanceError(f"k={k} must raise ConfigError, not {type(error).__name__}") from error
        raise ConformanceError(f"k={k} must raise ConfigError, but gave a result")


def _check_threads(retriever: Retriever, asked: list[str]) -> None:
    expected = _search(retriever, asked, 5)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(_search, retriever, [query], 5) for _ in range(4) for query in asked]
        results = [job.result()[0] for job in jobs]
    require(results == expected * 4, "results differ when four threads search at once")


def _search(retriever: Retriever, queries: list[str], k: int, what: str = "a plain query") -> list[list[Hit]]:
    """Search, holding the retriever to the types it promises."""
    try:
        results: Sequence[SearchResult] = retriever.search(list(queries), k)
    except Exception as error:
        raise ConformanceError(f"{what} raised {type(error).__name__} at k={k}: {error}") from error
    require(len(results) == len(queries), f"{len(results)} results for {len(queries)} queries")
    for query, result in zip(queries, results, strict=True):
        if isinstance(result, RetrievalError):
            raise ConformanceError(f"{what} failed for {_short(query)}: {result}") from result
        require(
            isinstance(result, list),
            f"the result for {_short(query)} is a {type(result).__name__}, not a list",
        )
        for hit in result:
            require(isinstance(hit, Hit), f"a hit for {_short(query)} is a {type(hit).__name__}, not a Hit")
    return list(results)  # type: ignore[arg-type]  # failures were refused above


def _default_queries(corpus: Corpus) -> list[str]:
    step = max(1, len(corpus.passages) // 12)
    some = [corpus.passages[position] for position in range(0, len(corpus.passages), step)]
    questions = [question.text for split in corpus.splits for question in corpus.questions(split)[:8]]
    return [*questions, *(passage.title for passage in some if passage.title), *map(_body, some)]


def _identical_passages(corpus: Corpus) -> list[list[Passage]]:
    groups: dict[tuple[str, str], list[Passage]] = {}
    for passage, _ in zip(corpus.passages, range(_SAMPLED), strict=False):
        groups.setdefault((passage.title, passage.text), []).append(passage)
    return [group for group in groups.values() if len(group) > 1][:5]


def _body(passage: Passage) -> str:
    return " ".join(f"{passage.title} {passage.text}".split()[:16])


def _ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits[:10]]


def _short(query: str) -> str:
    return repr(query if len(query) <= 60 else f"{query[:60]}…")
