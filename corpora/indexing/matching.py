"""Which passage of the corpus a hit of another server or index is.

Ids that were given elsewhere say nothing: most collections count from 0, so that an id of one is often the id of another
passage in the other. A hit is a passage of the corpus if both have the same id and the same title or text, or if title
and text are equal. Texts are compared by their letters and digits, whatever their case, spacing and punctuation.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import RetrievalError, UnknownIdError, warn
from searchgym.records.question import Corpus, Passage, find_passage
from searchgym.records.retriever import Hit, SearchResult, content_id

from .cache import cached_directory

__all__ = ["PROBE_HITS", "PassageMatcher"]

T = TypeVar("T")

_FORMAT = 1
PROBE_HITS = 10
"""Hits of a query that looks for a passage of the corpus."""
_PROBES = 8
_PROBE_WORDS = 12
_drop_others = re.compile(r"[\W_]+").sub


class PassageMatcher:
    """Gives hits the ids of the corpus's passages.

    Args:
        corpus: the corpus of the questions.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def match(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits with the ids of the corpus where it has the passages.

        Other hits keep their ids, unless the corpus has another passage with this id: then the id is `content_id`.
        """
        return [self._match(hit)[0] for hit in hits]

    def probes(self) -> list[str]:
        """Queries for passages that the corpus has, gold ones if there are any; at most 8."""
        return [
            f"{passage.title} {' '.join(passage.text.split()[:_PROBE_WORDS])}".strip()
            for passage in islice(self._sample(), _PROBES)
        ]

    def knows(self, result: SearchResult) -> bool:
        """Whether a result has a passage of the corpus."""
        return not isinstance(result, RetrievalError) and any(self._match(hit)[1] for hit in result)

    def check(self, results: Sequence[SearchResult], where: str) -> bool:
        """Whether most probes found a passage of the corpus; otherwise a warning says what that means.

        Args:
            results: of the probes, with at most `PROBE_HITS` hits each.
            where: the server or the index, for the warning.
        """
        found = sum(map(self.knows, results))
        if 2 * found >= len(results):
            return True
        warn(
            f"{where} does not return the passages of corpus {self._corpus.name!r}: it was asked for {len(results)} of "
            f"them, and {found} came back, by id or by title and text. Recall, gold feedback, the oracle judge and rewards "
            "from gold passages mean nothing with it, and are refused as arguments: let it search this corpus",
            RuntimeWarning,
            stacklevel=2,
        )
        return False

    def _match(self, hit: Hit) -> tuple[Hit, bool]:
        """The hit under the id it has here, and whether the corpus has it."""
        taken = False
        try:
            passage = find_passage(self._corpus, hit.id)
        except UnknownIdError:
            pass
        else:
            if _same(passage, hit):
                return hit, True
            taken = True
        found = self._find(hit)
        if found is not None:
            return hit._replace(id=found.id), True
        return (hit._replace(id=content_id(hit.title, hit.text)) if taken else hit), False

    def _find(self, hit: Hit) -> Passage | None:
        """The passage with the title and the text of a hit."""
        digests, positions = self._table
        wanted = _digest(hit.title, hit.text)
        for place in range(int(digests.searchsorted(wanted)), len(digests)):
            if digests[place] != wanted:
                break
            passage = self._corpus.passages[int(positions[place])]
            if _letters(passage.title + passage.text) == _letters(hit.title + hit.text):
                return passage
        return None

    @cached_property
    def _table(self) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """The digests of all passages, ascending, and their positions; memory-mapped. Made at the first unknown id."""

        def build(directory: Path) -> None:
            found = np.fromiter((_digest(p.title, p.text) for p in self._corpus.passages), np.uint64)
            order = found.argsort(kind="stable")
            np.save(directory / "digests.npy", found[order], allow_pickle=False)
            np.save(directory / "positions.npy", order.astype(np.int32), allow_pickle=False)

        place = cached_directory("contents", {"format": _FORMAT, "corpus": self._corpus.hash}, build)
        digests, positions = (
            np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("digests", "positions")
        )
        return digests, positions

    def _sample(self) -> Iterator[Passage]:
        """Passages spread over the corpus: gold ones of its questions first."""
        for split in self._corpus.splits:
            for question in _spread(self._corpus.questions(split)):
                for id in question.supporting_ids[:1]:
                    try:
                        yield find_passage(self._corpus, id)
                    except UnknownIdError:
                        continue
        yield from _spread(self._corpus.passages)


def _spread(items: Sequence[T]) -> Iterator[T]:
    return (items[position] for position in range(0, len(items), max(1, len(items) // _PROBES)))


def _same(passage: Passage, hit: Hit) -> bool:
    """Whether a hit with the id of a passage is this passage: some servers send a part of the text, or no title."""
    title, text = _letters(passage.title), _letters(passage.text)
    there = _letters(hit.text)
    return (title != "" and title == _letters(hit.title)) or (
        there != "" and (there in text or text in there)
    )


def _digest(title: str, text: str) -> np.uint64:
    content = _letters(title + text).encode(errors="replace")
    return np.uint64(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()))


def _letters(text: str) -> str:
    """What is compared of a text."""
    return _drop_others("", unicodedata.normalize("NFKC", text).casefold())
