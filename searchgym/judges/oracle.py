"""The oracle judge: exact verdicts from the gold derivation. Free, deterministic, and an upper bound.

    u = 1  iff the call returned a gold passage that no earlier call had returned
    v = 1  iff, for a search, it does not repeat an earlier one, and every name in the query that is not in the
           question occurred in text retrieved before; for an answer, the retrieved text supports it

"Name" means a capitalised word or a number of the query, the gold bridge of a hop in upper or lower case, or a word in lower
case that is not an ordinary word of queries and that the corpus never writes in lower case; see `grounding`. The rule is this project's own; the judge of CW-GRPO is
a language model.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records.episode import RoundRecord
from ..records.question import Corpus
from ..scoring import normalize_answer
from .grounding import CommonWords, holds_name, repeats, support
from .protocol import Trace, Verdict

__all__ = ["OracleJudge"]


class OracleJudge:
    """See the module docstring. Rounds that neither search nor answer get u = 0, v = 0.

    A question without gold passages cannot be judged: the verdict is then an error, not u = 0.

    Args:
        corpus: its words in lower case are common words; without one, those of the retrieved texts are.
    """

    name = "oracle"
    needs_gold = True
    _words = CommonWords(None)  # of a subclass that takes no corpus

    def __init__(self, corpus: Corpus | None = None) -> None:
        self._words = CommonWords(corpus)

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        return [self._verdict(trace) for trace in traces]

    def _verdict(self, trace: Trace) -> Verdict:
        *earlier, last = trace.rounds
        question = trace.question
        if not question.supporting_ids:
            return Verdict.error("the question has no gold passages")
        kind = last.action.kind
        if kind == "search":
            gold = set(question.supporting_ids)
            before = {hit.id for round_ in earlier for hit in round_.hits}
            new = [hit.title for hit in last.hits if hit.id in gold and hit.id not in before]
            unseen = self._words.ungrounded(trace, question.chain)
            repeated = repeats(last.action.queries, earlier)
            reason = f"new gold: {', '.join(new)}" if new else "no new gold passage"
            if unseen:
                reason += f"; not seen before: {unseen}"
            if repeated:
                reason += "; repeated query"
            return Verdict.ok(float(bool(new)), float(not unseen and not repeated), reason)
        if kind == "answer":
            supported = self._supported(trace, earlier, last.action.answer)
            return Verdict.ok(0.0, float(supported), "supported" if supported else "not supported")
        return Verdict.ok(0.0, 0.0, "no search and no answer")

    def _supported(self, trace: Trace, earlier: Sequence[RoundRecord], answer: str) -> bool:
        """Whether retrieved text contains the answer. An answer that the question names (a comparison), and yes or no,
        are supported if every gold passage was retrieved."""
        question, key = trace.question, normalize_answer(answer)
        hits = [hit for round_ in earlier for hit in round_.hits]
        named = f" {key} " in f" {normalize_answer(question.text)} " and (
            key in map(normalize_answer, question.answers) or holds_name(question.text, key)
        )
        if key in ("yes", "no") or (key and named):
            return {hit.id for hit in hits}.issuperset(question.supporting_ids)
        return support(answer, question.answers, hits)
