"""The oracle judge: exact verdicts from the gold derivation. Free, deterministic, and an upper bound.

    u = 1  iff the call returned a gold passage that no earlier call had returned
    v = 1  iff, for a search, every entity in the query that is not in the question occurred in text retrieved
           before; for an answer, the retrieved text supports it

"Entity" means a capitalised word or a number of the query, or the gold bridge of a hop in upper or lower case. The
rule is this project's own; the judge of CW-GRPO is a language model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..episode import RoundRecord
from ..question import Corpus
from ..scoring import normalize_answer
from .protocol import Trace, Verdict

__all__ = ["OracleJudge"]

_ENTITY = re.compile(r"\b(?:[A-Z][\w'’-]*|\d(?:[\w.,]*\w)?)")
# Words that are capitalised at the beginning of a query although they are not names.
_OPENERS = frozenset(
    "a an and are at by did do does find for from give has have how in is it of on or search tell the to was "
    "were what when where which who whom whose why with".split()
)


class OracleJudge:
    """See the module docstring. Rounds that neither search nor answer get u = 0, v = 0.

    A question without gold passages cannot be judged: the verdict is then an error, not u = 0.

    Args:
        corpus: not used: the question holds everything that is needed.
    """

    name = "oracle"
    needs_gold = True

    def __init__(self, corpus: Corpus | None = None) -> None:
        del corpus

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
            unseen = self._unseen(trace, earlier, " ".join(last.action.queries))
            reason = f"new gold: {', '.join(new)}" if new else "no new gold passage"
            if unseen:
                reason += f"; not seen before: {unseen}"
            return Verdict.ok(float(bool(new)), float(not unseen), reason)
        if kind == "answer":
            supported = self._supported(trace, earlier, last.action.answer)
            return Verdict.ok(0.0, float(supported), "supported" if supported else "not supported")
        return Verdict.ok(0.0, 0.0, "no search and no answer")

    def _unseen(self, trace: Trace, earlier: Sequence[RoundRecord], query: str) -> str:
        """The first entity of the query that neither the question nor retrieved text contains, or ""."""
        entities = [e for e in _ENTITY.findall(query) if e.lower() not in _OPENERS]
        folded = query.casefold()
        entities += [h.bridge for h in trace.question.chain if h.bridge.casefold() in folded]
        known = trace.question.text.casefold()
        missing = [e for e in entities if not _contains(known, e)]
        if missing:
            known = "\n".join(f"{h.title}\n{h.text}" for r in earlier for h in r.hits).casefold()
            missing = [e for e in missing if not _contains(known, e)]
        return missing[0] if missing else ""

    def _supported(self, trace: Trace, earlier: Sequence[RoundRecord], answer: str) -> bool:
        """Whether retrieved text contains the answer. An answer that the question names (a comparison), and yes or no,
        are supported if every gold passage was retrieved."""
        key = f" {normalize_answer(answer)} "
        if key.strip() in ("", "yes", "no") or key in f" {normalize_answer(trace.question.text)} ":
            found = {hit.id for round_ in earlier for hit in round_.hits}
            return bool(key.strip()) and found.issuperset(trace.question.supporting_ids)
        return any(
            key in f" {normalize_answer(h.title)} {normalize_answer(h.text)} "
            for r in earlier
            for h in r.hits
        )


def _contains(text: str, entity: str) -> bool:
    """Whether casefolded text contains the entity as whole words."""
    folded = entity.casefold()
    start = text.find(folded)
    while start >= 0:
        end = start + len(folded)
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            return True
        start = text.find(folded, start + 1)
    return False
