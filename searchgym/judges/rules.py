"""The rules judge: free verdicts from the words of passages.

With a gold derivation (gold passages in order), StepSearch's step reward, see `gain`:

    u = max(gain − redundancy, 0)

With gold passages that have no order, the share of what was missing of a gold passage that this call found:

    u = found                         1 for a new gold passage, whatever else the call returned

Without gold passages u is 1 − redundancy if this call is the first to return an answer string, else 0.

    v (search) = 0 if the query has the words of an earlier one, else 1
    v (answer) = 1 if a retrieved passage contains the answer as a name, or as an accepted answer, else 0; yes and no need
                 every gold passage

Departure from StepSearch: u is clipped at 0 (a verdict lies in [0, 1]; the reason gives gain and redundancy). The
reward term `stepsearch` is not clipped. `gain` is a mean over the gold passages: with an order, each step is expected to
find its own; without, one of two would never be worth more than a half.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, UnknownIdError
from ..records.episode import RoundRecord
from ..records.question import Corpus, Question
from ..records.retriever import Hit
from ..scoring import contains_answer, normalize_answer
from .gain import InformationGain, redundancy
from .grounding import repeats, support
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
        question = trace.question
        old = [hit for round_ in earlier for hit in round_.hits]
        if kind == "answer":
            held = _supported(question, last.action.answer, old)
            return Verdict.ok(
                0.0, float(held), "the passages contain the answer" if held else "answer not found"
            )
        if kind != "search":
            return Verdict.ok(0.0, 0.0, "no search and no answer")
        repeated = redundancy(last.hits, old)
        try:
            utility, reason = self._utility(question, last, old, repeated)
        except UnknownIdError as error:
            return Verdict.error(f"a gold passage is not in corpus {self._corpus.name!r}: {error}")
        asked_again = repeats(last.action.queries, earlier)
        reason += "; repeated query" if asked_again else ""
        return Verdict.ok(utility, float(not asked_again), reason)

    def _utility(
        self, question: Question, last: RoundRecord, old: Sequence[Hit], repeated: float
    ) -> tuple[float, str]:
        """u of a search, and its reason."""
        if question.supporting_ids and not question.chain:
            found = min(1.0, self._information.found(question.supporting_ids, last.hits, old))
            return found, f"found {found:.3f} of a missing gold passage"
        if question.supporting_ids:
            gain = self._information.gain(question.supporting_ids, last.hits, old)
        else:
            answers = question.answers
            gain = float(_contains_answer(last.hits, answers) and not _contains_answer(old, answers))
        return min(1.0, max(0.0, gain - repeated)), f"gain {gain:.3f}, redundancy {repeated:.3f}"


def _supported(question: Question, answer: str, hits: Sequence[Hit]) -> bool:
    if question.supporting_ids and normalize_answer(answer) in ("yes", "no"):
        return {hit.id for hit in hits}.issuperset(question.supporting_ids)
    return support(answer, question.answers, hits)


def _contains_answer(hits: Sequence[Hit], answers: Sequence[str]) -> bool:
    return any(contains_answer(f"{hit.title} {hit.text}", answer) for hit in hits for answer in answers)
