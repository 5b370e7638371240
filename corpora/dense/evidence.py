"""The evidence judge, for corpora without gold passages: does a search return a new passage that bears on the question?

    u = 1                if such a passage has a title that the question names and that was not returned before, or is the
                         first to contain an accepted answer
    u = s / 2t           otherwise, s being a cosine by a sentence encoder: of the passage closest to the question, if it is
                         closer than every earlier one; or of the passage closest to the query, among those with a new
                         title that an earlier passage names. At most 1. t is the threshold (0.55): u ≥ 1/2 means s ≥ t

    v (search) = 1 if it does not repeat an earlier one and every name in it has been read, as by the oracle
    v (answer) = 1 if a retrieved passage contains the answer as a name, or as an accepted answer; yes and no need passages
                 that contain every name of the question

Why this finds gold: a multi-hop question names where to begin, the passages found there name where to continue, and the
last one holds the answer. Each of these pays once, so that paging through an article or repeating what is known earns
nothing. A passage is named by its title without what stands in brackets. The rule is this project's own;
docs/judge-audit.md says how far it agrees with the oracle, and where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, SearchGymError
from searchgym.judges.grounding import CommonWords, contains_words, names_in, repeats, support, text_of
from searchgym.judges.protocol import Trace, Verdict
from searchgym.lru import LRUCache
from searchgym.options import boolean, number
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit
from searchgym.scoring import normalize_answer

from .encoders import Encoder, EncoderSpec
from .model_files import MINILM

__all__ = ["EvidenceJudge"]

_BRACKETS = re.compile(r"\s*\(.*?\)")
_VECTORS = 50_000
_LEAST_LETTERS = 3  # shorter titles and answers ("2") are in too many texts


class EvidenceJudge:
    """See the module docstring. Gold passages are not used. Rounds that neither search nor answer get u = 0, v = 0.

    Args:
        corpus: its words in lower case are no names; without one, those of the retrieved texts are none.
        encoder: a sentence-transformers model: a name, or a dict of options, as for the retriever `dense`.
        threshold: t, the cosine from which a passage counts as evidence, in (0, 1).
        answers: whether accepted answers may be used; without, the judge stands for a reader who has no key.

    Raises:
        ConfigError: an option has a value that cannot be used, or there is no such encoder.
        MissingExtraError: the extra `dense` is not installed.
    """

    name = "evidence"

    def __init__(
        self,
        corpus: Corpus | None = None,
        encoder: EncoderSpec = MINILM,
        threshold: float = 0.55,
        answers: bool = True,
    ) -> None:
        self._threshold = number("threshold", threshold, above=0.0)
        if self._threshold >= 1.0:
            raise ConfigError(
                f"threshold is {threshold!r}: a cosine from which a passage counts lies below 1"
            )
        self._answers = boolean("answers", answers)
        self._encoder = Encoder.find(encoder)
        self._vectors: LRUCache[str, NDArray[np.float32]] = LRUCache(_VECTORS)
        self._words = CommonWords(corpus)

    def check(self) -> None:
        """Load the encoder; raises `ConfigError` or `MissingExtraError` if that fails."""
        self._encoder.encode_query("check")

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        verdicts = []
        for trace in traces:
            try:
                verdicts.append(self._verdict(trace))
            except SearchGymError as error:  # of the encoder; the judgement failed and is not a zero
                verdicts.append(Verdict.error(str(error)))
        return verdicts

    def _verdict(self, trace: Trace) -> Verdict:
        *earlier, last = trace.rounds
        read = [hit for round_ in earlier for hit in round_.hits]
        if last.action.kind == "answer":
            supported = self._supported(trace, last.action.answer, read)
            return Verdict.ok(0.0, float(supported), "supported" if supported else "not supported")
        if last.action.kind != "search":
            return Verdict.ok(0.0, 0.0, "no search and no answer")
        utility, reason = self._utility(trace, read)
        unseen = self._words.ungrounded(trace)
        repeated = repeats(last.action.queries, earlier)
        reason += f"; not seen before: {unseen}" if unseen else ""
        reason += "; repeated query" if repeated else ""
        return Verdict.ok(utility, float(not unseen and not repeated), reason)

    def _utility(self, trace: Trace, read: Sequence[Hit]) -> tuple[float, str]:
        """u of the last round, a search, and its reason."""
        last, question = trace.rounds[-1], trace.question
        before, titles = {hit.id for hit in read}, {_name(hit) for hit in read}
        new = [hit for hit in last.hits if hit.id not in before]
        if not new:
            return 0.0, "nothing new"
        unread = [hit for hit in new if len(_name(hit)) >= _LEAST_LETTERS and _name(hit) not in titles]
        asked, seen = f" {normalize_answer(question.text)} ", f" {normalize_answer(text_of(read))} "
        named = next((hit.title for hit in unread if f" {_name(hit)} " in asked), None)
        if named is not None:
            return 1.0, f"new, and named in the question: {named}"
        keys = [normalize_answer(answer) for answer in question.answers] if self._answers else []
        keys = [f" {key} " for key in keys if len(key) >= _LEAST_LETTERS and key not in ("yes", "no")]
        found = f" {normalize_answer(text_of(new))} "
        if any(key in found for key in keys) and not any(key in seen for key in keys):
            return 1.0, "the first to contain the answer"
        closest, about = self._closest(question.text, new), "question"
        if closest <= self._closest(question.text, read):
            closest = 0.0
        linked = [hit for hit in unread if f" {_name(hit)} " in seen]
        for query in last.action.queries:
            if (close := self._closest(query, linked)) > closest:
                closest, about = close, "query"
        utility = min(1.0, max(0.0, closest / (2 * self._threshold)))
        return utility, f"new closeness to the {about}: {closest:.3f}"

    def _closest(self, text: str, hits: Sequence[Hit]) -> float:
        """The greatest cosine of a question or a query to a passage; −1 without passages."""
        if not hits:
            return -1.0
        query = self._encoded(text, query=True)
        return max(float(query @ self._encoded(f"{hit.title}\n{hit.text}")) for hit in hits)

    def _encoded(self, text: str, query: bool = False) -> NDArray[np.float32]:
        """The vector of a text. One text at a time: a vector must not depend on what else is judged."""
        key = f"{'query' if query else 'passage'}: {text}"
        vector = self._vectors.find(key)
        if vector is None:
            vector = self._encoder.encode_query(text) if query else self._encoder.encode_passages([text])[0]
            self._vectors.put(key, vector)
        return vector

    def _supported(self, trace: Trace, answer: str, read: Sequence[Hit]) -> bool:
        if normalize_answer(answer) in ("yes", "no"):
            text = text_of(read).casefold()
            names = names_in(trace.question.text)
            return bool(read) and all(contains_words(text, name) for name in names)
        return support(answer, trace.question.answers if self._answers else (), read)


def _name(hit: Hit) -> str:
    """The normalised title of a hit, without what stands in brackets."""
    return normalize_answer(_BRACKETS.sub("", hit.title))
