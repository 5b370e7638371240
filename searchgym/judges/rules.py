"""The rules judge, for corpora whose gold passages have no order, and for those without gold passages.

With gold passages, StepSearch's step reward, see `gain`:

    u = max(gain − redundancy, 0)

Without gold passages u is 1 − redundancy if this call is the first to return an answer string, else 0.

    v (search) = 0 if the query repeats an earlier one after normalisation, else 1
    v (answer) = 1 if a retrieved passage contains the answer, else 0

Departure from StepSearch: u is clipped at 0 (a verdict lies in [0, 1]; the reason gives gain and redundancy). The
reward term `stepsearch` is not clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..episode import RoundRecord
from ..errors import ConfigError, UnknownIdError
from ..question import Corpus
from ..scoring import normalize_answer
from .gain import InformationGain, redundancy
from .protocol import Trace, Verdict

__all__ = ["RulesJudge"]


class RulesJudge:
    """See the module docstring.

    Args:
        corpus: where the gold passages' texts and the document frequencies come from.
    """

    name = "rules"

    def __init__(self, corpus: Corpus | None) -> None:
        if corpus is None:
            raise ConfigError("judge 'rules' needs a corpus: name the one the episodes were played on")
        self._corpus = corpus
        self._information = InformationGain(corpus)

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        return [self._verdict(trace) for trace in traces]

    def _verdict(self, trace: Trace) -> Verdict:
        *earlier, last = trace.rounds
        kind = last.action.kind
        if kind == "answer":
            held = _contains_answer(earlier, [last.action.answer])
            return Verdict.ok(
                0.0, float(held), "the passages contain the answer" if held else "answer not found"
            )
        if kind != "search":
            return Verdict.ok(0.0, 0.0, "no search and no answer")
        question = trace.question
        old = [hit for round_ in earlier for hit in round_.hits]
        repeated = redundancy(last.hits, old)
        if question.supporting_ids:
            try:
                gain = self._information.gain(question.supporting_ids, last.hits, old)
            except UnknownIdError as error:
                return Verdict.error(f"a gold passage is not in corpus {self._corpus.name!r}: {error}")
        else:
            answers = question.answers
            gain = float(_contains_answer([last], answers) and not _contains_answer(earlier, answers))
        queries = {normalize_answer(q) for round_ in earlier for q in round_.action.queries}
        asked_again = any(normalize_answer(q) in queries for q in last.action.queries)
        reason = f"gain {gain:.3f}, redundancy {repeated:.3f}" + ("; repeated query" if asked_again else "")
        return Verdict.ok(min(1.0, max(0.0, gain - repeated)), float(not asked_again), reason)


def _contains_answer(rounds: Sequence[RoundRecord], answers: Sequence[str]) -> bool:
    keys = [key for answer in answers if (key := normalize_answer(answer))]
    return any(
        f" {key} " in f" {normalize_answer(hit.title)} {normalize_answer(hit.text)} "
        for round_ in rounds
        for hit in round_.hits
        for key in keys
    )
