"""The judge `fidelity`: does a retrieved passage contain what the act claims? Free, deterministic, and without gold data.

    u (search) = 1 if one passage of this call contains all that the query names, else 0
    v (search) = 1 if every name of the query stood in the question or in text retrieved before, else 0
    v (answer) = 1 if a passage retrieved before contains the answer as a name, else 0

What a query names are its capitalised words and numbers or, where it has none, its words of three letters and more that are not
ordinary words of queries. Yes and no, which no passage can contain, and a query that names nothing are errors, not zeros.

It verifies facts as an external tool verifies the steps of a calculation (GroundedPRM, arXiv 2510.14942); whether a fact is the one that
the question needs, it does not know. The rule is this project's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..records.question import Corpus
from ..scoring import normalize_answer
from .grounding import CommonWords, contains_words, names_in, support
from .protocol import Trace, Verdict
from .words import FUNCTION_WORDS, QUERY_WORDS

__all__ = ["FidelityJudge"]

_WORD = re.compile(r"[^\W\d_]{3,}")
_ORDINARY = FUNCTION_WORDS | QUERY_WORDS


class FidelityJudge:
    """See the module docstring.

    Args:
        corpus: its words in lower case are common words; without one, those of the retrieved texts are.
    """

    name = "fidelity"

    def __init__(self, corpus: Corpus | None = None) -> None:
        self._words = CommonWords(corpus)

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        """One verdict per round; see `Judge`."""
        return [self._verdict(trace) for trace in traces]

    def _verdict(self, trace: Trace) -> Verdict:
        *earlier, last = trace.rounds
        if last.action.kind == "answer":
            if normalize_answer(last.action.answer) in ("yes", "no"):
                return Verdict.error("yes and no cannot be found in a passage")
            hits = [hit for record in earlier for hit in record.hits]
            held = support(last.action.answer, (), hits)
            return Verdict.ok(
                0.0, float(held), "a passage contains the answer" if held else "answer not found"
            )
        if last.action.kind != "search":
            return Verdict.ok(0.0, 0.0, "no search and no answer")
        query = " ".join(last.action.queries)
        claimed = names_in(query) or [w for w in _WORD.findall(query) if w.casefold() not in _ORDINARY]
        if not claimed:
            return Verdict.error("the query names nothing that a passage could contain")
        passages = [f"{hit.title}\n{hit.text}".casefold() for hit in last.hits]
        found = any(all(contains_words(passage, name) for name in claimed) for passage in passages)
        unseen = self._words.ungrounded(trace)
        reason = "a passage contains what is named" if found else "no passage contains all that is named"
        return Verdict.ok(
            float(found), float(not unseen), reason + (f"; not seen before: {unseen}" if unseen else "")
        )
