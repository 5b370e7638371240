"""Reward terms, of which the argument `reward` of an environment is composed.

    reward of a step = Σ over the terms of  weight · term

Terms of the outcome are paid in the last step only, terms of a round in every step; `info["reward_terms"]` lists each
of them, weighted. Sources: Search-R1 (arXiv 2503.09516: em), its follow-up (arXiv 2505.15117: format),
StepSearch (arXiv 2505.15107: stepsearch, search_key), MT-PPO as CW-GRPO's authors run it (arXiv 2604.14267: mt_ppo),
Rec-R1 (arXiv 2503.24289: ndcg, recall).

Departures. format: a tag sequence counts as valid if no message of the episode was an invalid act; the original
reads the whole transcript. search_key: our gold sub-queries are one per hop, the original has several phrasings.
mt_ppo: an episode without any search is paid like others; the released code pays it 0. ndcg: per search and
binary, over the `top_k` hits; a gold passage pays in the first round that returns it, so that repeating a search
pays nothing; Rec-R1 has one search and ranks to 1000. sub_em: an answer that is much longer than the gold answer it
contains pays 0; else all retrieved text, or a list of frequent answers, would be the best answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..judges import Grade, Verdict
from ..judges.gain import InformationGain, redundancy
from ..records.episode import Outcome, RoundRecord
from ..records.question import Question
from ..scoring import f1, ndcg, normalize_answer, sub_exact_match

__all__ = ["REWARD_TERMS", "SUB_EM_EXTRA", "RewardContext", "RewardTerm"]

SUB_EM_EXTRA = 50
"""Characters, after normalisation, that an answer may have besides the gold answer for the term `sub_em`: a sentence, and
not a list."""


@dataclass(frozen=True, slots=True)
class RewardContext:
    """What a reward term is computed from.

    The record, and those in `earlier`, belong to the episode: read them and change nothing.

    Attributes:
        question: the task, with its gold data.
        record: the round just played; `record.outcome` is set in the last step.
        earlier: the rounds before it; empty unless a term needs the trace.
        invalid: invalid rounds so far, including this one.
        verdict: on this round, if a judge gave one without an error.
        grade: of the answer, if a grader gave one without an error.
        top_k: the largest number of passages that a query returns.
        gain: information gain over the corpus.
    """

    question: Question
    record: RoundRecord
    earlier: Sequence[RoundRecord]
    invalid: int
    verdict: Verdict | None
    grade: Grade | None
    top_k: int
    gain: InformationGain

    @property
    def rounds(self) -> list[RoundRecord]:
        """The rounds so far, this one included; only this one unless a term needs the trace."""
        return [*self.earlier, self.record]

    @property
    def outcome(self) -> Outcome:
        """How the episode ended: answer, metrics and stop reason. For terms of the outcome.

        Raises:
            ConfigError: the episode goes on; a term that is paid in every step cannot read it.
        """
        if self.record.outcome is None:
            raise ConfigError(
                "the episode goes on, it has no outcome yet: declare the term with RewardTerm(…, last=True)"
            )
        return self.record.outcome


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One term. Those of other packages are registered under the entry-point group `searchgym.rewards`.

    Attributes:
        value: computes the term, a finite number; None: the term is the metric of the outcome that has its name (built-in
            terms only).
        text: what the term is, for the docs.
        last: paid in the last step only (a term of the outcome).
        needs_verdict: needs a judge that runs in every step.
        needs_grade: needs a judge that grades answers.
        needs_trace: needs the earlier rounds.
        needs_gold: compares hits with the gold passages.
    """

    value: Callable[[RewardContext], float] | None
    text: str = ""
    last: bool = False
    needs_verdict: bool = False
    needs_grade: bool = False
    needs_trace: bool = False
    needs_gold: bool = False


def _sub_em(c: RewardContext) -> float:
    answer = c.record.outcome.answer if c.record.outcome else ""
    length = len(normalize_answer(answer))
    near = [gold for gold in c.question.answers if length <= len(normalize_answer(gold)) + SUB_EM_EXTRA]
    return sub_exact_match(answer, near)


def _format(c: RewardContext) -> float:
    """What the reward table of arXiv 2505.15117 adds to EM: EM plus this term is the table."""
    assert c.record.outcome is not None
    valid = c.invalid == 0
    if c.record.outcome.em:
        return 0.0 if valid else -0.2
    if c.record.terminated:
        return 0.2 if valid else 0.1
    return 0.2 if valid else 0.0


def _search_key(c: RewardContext) -> float:
    queries = [q for r in c.earlier for q in r.action.queries] + list(c.record.action.queries)
    keys = [hop.query for hop in c.question.chain]
    return sum(max((f1(q, [key]) for q in queries), default=0.0) for key in keys) / len(keys) if keys else 0.0


def _ndcg(c: RewardContext) -> float:
    gold = set(c.question.supporting_ids)
    ranked = list(dict.fromkeys(hit.id for hit in c.record.hits))
    if not gold:
        return 0.0
    new = gold.difference(hit.id for r in c.earlier for hit in r.hits)
    return ndcg(ranked, new, min(len(gold), max(c.top_k, len(ranked))))


def _new_recall(c: RewardContext) -> float:
    gold = set(c.question.supporting_ids)
    before = {hit.id for r in c.earlier for hit in r.hits}
    return len((gold & {hit.id for hit in c.record.hits}) - before) / len(gold) if gold else 0.0


def _query_format(c: RewardContext) -> float:
    return 0.1 if c.record.action.kind == "search" else -2.0


def _stepsearch(c: RewardContext) -> float:
    if c.record.action.kind != "search":
        return 0.0
    old = [hit for r in c.earlier for hit in r.hits]
    return c.gain.gain(c.question.supporting_ids, c.record.hits, old) - redundancy(c.record.hits, old)


def _utility(c: RewardContext) -> float:
    return c.verdict.utility or 0.0 if c.verdict else 0.0


def _reasoning(c: RewardContext) -> float:
    return c.verdict.reasoning or 0.0 if c.verdict else 0.0


def _mt_ppo(c: RewardContext) -> float:
    if c.record.outcome is not None:
        return 1.0 if c.record.outcome.em else 0.2 if c.record.terminated else -1.0
    one_call = 0.1 if c.record.action.kind != "invalid" else -0.2
    return 0.3 * _utility(c) + one_call - 0.1 * c.record.round


REWARD_TERMS: dict[str, RewardTerm] = {
    "em": RewardTerm(None, "exact match of the answer", last=True),
    "f1": RewardTerm(None, "token F1 of the answer", last=True),
    "sub_em": RewardTerm(
        _sub_em,
        f"1 if the answer contains a gold answer and at most {SUB_EM_EXTRA} characters more",
        last=True,
    ),
    "recall": RewardTerm(None, "share of the gold passages retrieved", last=True, needs_gold=True),
    "correct": RewardTerm(
        lambda c: c.grade.score or 0.0 if c.grade else 0.0,
        "the judge's grade of the answer against the gold answers",
        last=True,
        needs_grade=True,
    ),
    "format": RewardTerm(
        _format,
        "with em: 1 / 0.8 right, 0.2 / 0.1 wrong, 0.2 / 0 no answer (valid / invalid acts)",
        last=True,
    ),
    "query_format": RewardTerm(
        _query_format, "0.1 if the last act is a search, otherwise −2; for the task `query`", last=True
    ),
    "unanswered": RewardTerm(
        lambda c: float(not c.record.terminated), "1 if the episode ended without an answer", last=True
    ),
    "search_key": RewardTerm(
        _search_key,
        "mean over the gold sub-queries of the best F1 of a query with it",
        last=True,
        needs_trace=True,
    ),
    "ndcg": RewardTerm(
        _ndcg,
        "NDCG of this round's hits; relevant: gold passages not returned before",
        needs_trace=True,
        needs_gold=True,
    ),
    "new_recall": RewardTerm(
        _new_recall,
        "share of the gold passages that this round returned first; sums to recall",
        needs_trace=True,
        needs_gold=True,
    ),
    "stepsearch": RewardTerm(
        _stepsearch, "information gain minus redundancy of this search", needs_trace=True, needs_gold=True
    ),
    "utility": RewardTerm(_utility, "the judge's u of this round", needs_verdict=True),
    "reasoning": RewardTerm(_reasoning, "the judge's v of this round", needs_verdict=True),
    "contribution": RewardTerm(
        lambda c: _utility(c) * _reasoning(c), "the judge's u · v of this round", needs_verdict=True
    ),
    "mt_ppo": RewardTerm(
        _mt_ppo,
        "0.3 u + (0.1, invalid act −0.2) − 0.1 · round; in the last step 1 right, 0.2 wrong, −1 no answer",
        needs_verdict=True,
    ),
    "search": RewardTerm(
        lambda c: float(len(c.record.action.queries)), "queries of this round; weight it below 0 for a cost"
    ),
    "invalid": RewardTerm(
        lambda c: float(c.record.action.kind == "invalid"), "1 if the act was invalid; weight it below 0"
    ),
}
"""The built-in terms by name."""
