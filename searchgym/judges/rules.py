"""The rules judge: for corpora whose gold passages have no order, or that have none at all.

With gold passages, StepSearch's step reward (arXiv 2505.15107, `qa_step.py`):

    gain       = 1/n Σ_i max(c_i − M_i, 0)     c_i: best TF-IDF cosine of this call's passages to gold passage i
                                               M_i: the best of all earlier calls; n gold passages
    redundancy = share of this call's passages that an earlier call had already returned
    u          = max(gain − redundancy, 0)

Without gold passages u is 1 − redundancy if this call is the first to return an answer string, else 0.

    v (search) = 0 if the query repeats an earlier one after normalisation, else 1
    v (answer) = 1 if the answer stands in a retrieved passage, else 0

Departures from StepSearch: u is cut at 0 (a verdict lies in [0, 1]; gain and redundancy stand in the reason), and
the document frequencies come from at most 20,000 evenly spaced passages.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from searchgym.errors import ConfigError
from searchgym.question import Corpus, find_passage
from searchgym.scoring import normalize_answer

from .protocol import Trace, TraceRound, Verdict

__all__ = ["RulesJudge"]

_WORD = re.compile(r"\w+")
_FREQUENCY_SAMPLE = 20_000


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
        self._idf: dict[str, float] | None = None
        self._vector = lru_cache(maxsize=8_192)(self._weigh)

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        return [self._verdict(trace) for trace in traces]

    def _verdict(self, trace: Trace) -> Verdict:
        *earlier, last = trace.rounds
        kind = last.action["kind"]
        if kind == "answer":
            held = _contains_answer(earlier, [last.action["answer"]])
            return Verdict.ok(
                0.0, float(held), "answer stands in the passages" if held else "answer not found"
            )
        if kind != "search":
            return Verdict.ok(0.0, 0.0, "no search and no answer")
        before = {hit["id"] for round_ in earlier for hit in round_.hits}
        repeated = sum(hit["id"] in before for hit in last.hits)
        redundancy = repeated / len(last.hits) if last.hits else 0.0
        if trace.question.supporting_ids:
            gain = self._gain(trace, earlier, last)
        else:
            answers = trace.question.answers
            gain = float(_contains_answer([last], answers) and not _contains_answer(earlier, answers))
        queries = {normalize_answer(q) for round_ in earlier for q in round_.action["queries"]}
        asked_again = any(normalize_answer(q) in queries for q in last.action["queries"])
        reason = f"gain {gain:.3f}, redundancy {redundancy:.3f}" + ("; repeated query" if asked_again else "")
        return Verdict.ok(min(1.0, max(0.0, gain - redundancy)), float(not asked_again), reason)

    def _gain(self, trace: Trace, earlier: Sequence[TraceRound], last: TraceRound) -> float:
        golds = [self._vector(self._text(i)) for i in trace.question.supporting_ids]
        new = [self._vector(f"{h['title']}\n{h['text']}") for h in last.hits]
        old = [self._vector(f"{h['title']}\n{h['text']}") for r in earlier for h in r.hits]
        total = 0.0
        for gold in golds:
            best_old = max((_cosine(gold, v) for v in old), default=0.0)
            best_new = max((_cosine(gold, v) for v in new), default=0.0)
            total += max(best_new - best_old, 0.0)
        return total / len(golds)

    def _text(self, passage_id: str) -> str:
        passage = find_passage(self._corpus, passage_id)
        return f"{passage.title}\n{passage.text}"

    def _weigh(self, text: str) -> Mapping[str, float]:
        """Unit-length TF-IDF vector of a text."""
        if self._idf is None:
            passages = self._corpus.passages
            step = max(1, len(passages) // _FREQUENCY_SAMPLE)
            sample = [passages[i] for i in range(0, len(passages), step)]
            frequency = Counter(w for p in sample for w in set(_words(f"{p.title}\n{p.text}")))
            self._idf = {w: math.log((1 + len(sample)) / (1 + n)) + 1.0 for w, n in frequency.items()}
            self._unseen_idf = math.log(1 + len(sample)) + 1.0
        weights = {w: n * self._idf.get(w, self._unseen_idf) for w, n in Counter(_words(text)).items()}
        norm = math.sqrt(sum(x * x for x in weights.values())) or 1.0
        return {w: x / norm for w, x in weights.items()}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    return sum(x * large.get(w, 0.0) for w, x in small.items())


def _contains_answer(rounds: Sequence[TraceRound], answers: Sequence[str]) -> bool:
    keys = [key for answer in answers if (key := normalize_answer(answer))]
    return any(
        f" {key} " in f" {normalize_answer(hit['title'])} {normalize_answer(hit['text'])} "
        for round_ in rounds
        for hit in round_.hits
        for key in keys
    )
