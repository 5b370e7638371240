"""Reward terms: what the argument `reward` of an environment is composed of.

    reward of a step = Σ over the terms of  weight · term

Terms of the outcome are paid in the last step only, terms of a round in every step; each stands by itself, weighted,
in `info["reward_terms"]`. Sources: Search-R1 (arXiv 2503.09516: em), its follow-up (arXiv 2505.15117: format),
StepSearch (arXiv 2505.15107: stepsearch, search_key), MT-PPO as CW-GRPO's authors run it (arXiv 2604.14267: mt_ppo),
Rec-R1 (arXiv 2503.24289: ndcg, recall).

Departures. format: a tag sequence counts as valid if no message of the episode was an invalid act; the original
reads the whole transcript. search_key: our gold sub-queries are one per hop, the original has several phrasings.
mt_ppo: an episode without any search is paid like others; the released code pays it 0. ndcg: per search and
binary, over the `top_k` hits; Rec-R1 has one search and ranks to 1000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..judges.gain import InformationGain, redundancy
from ..judges.protocol import Grade, TraceRound, Verdict
from ..question import Question
from ..scoring import f1

__all__ = ["REWARD_TERMS", "Played", "RewardTerm"]


@dataclass(frozen=True, slots=True)
class Played:
    """What a term is computed from: the round just played, and the outcome if it was the last.

    Attributes:
        question: with its gold data.
        action: {kind, queries, draft, answer, error}.
        hits: records of this round's hits.
        round: number of this round, from 1.
        invalid: invalid rounds so far, this one included.
        earlier: the rounds before this one; empty unless a term needs the trace.
        verdict: of this round, where a judge gave one without error.
        grade: of the answer, where a grader gave one without error.
        top_k: passages a query returns at most.
        gain: of the corpus.
        outcome: {answer, em, f1, sub_em, recall, …} in the last step, else None.
        answered: whether the episode ended with an answer.
    """

    question: Question
    action: Mapping[str, Any]
    hits: Sequence[Mapping[str, Any]]
    round: int
    invalid: int
    earlier: Sequence[TraceRound]
    verdict: Verdict | None
    grade: Grade | None
    top_k: int
    gain: InformationGain
    outcome: Mapping[str, Any] | None
    answered: bool


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One term.

    Attributes:
        value: computes it; None: it is the metric of the outcome that has its name.
        last: paid in the last step only (a term of the outcome).
        needs_verdict: needs a judge that runs every step.
        needs_grade: needs a judge that grades answers.
        needs_trace: needs the earlier rounds.
        text: what it is, for the docs.
    """

    value: Callable[[Played], float] | None
    text: str
    last: bool = False
    needs_verdict: bool = False
    needs_grade: bool = False
    needs_trace: bool = False


def _format(p: Played) -> float:
    """What the table of arXiv 2505.15117 adds to EM: their sum is the table."""
    assert p.outcome is not None
    valid = p.invalid == 0
    if p.outcome["em"]:
        return 0.0 if valid else -0.2
    if p.answered:
        return 0.2 if valid else 0.1
    return 0.2 if valid else 0.0


def _search_key(p: Played) -> float:
    queries = [q for r in p.earlier for q in r.action["queries"]] + list(p.action["queries"])
    keys = [hop.query for hop in p.question.chain]
    return sum(max((f1(q, [key]) for q in queries), default=0.0) for key in keys) / len(keys) if keys else 0.0


def _ndcg(p: Played) -> float:
    gold = set(p.question.supporting_ids)
    ranked = list(dict.fromkeys(hit["id"] for hit in p.hits))
    if not gold:
        return 0.0
    ideal = sum(1 / math.log2(i + 2) for i in range(min(len(gold), max(p.top_k, len(ranked)))))
    return sum(1 / math.log2(i + 2) for i, id_ in enumerate(ranked) if id_ in gold) / ideal


def _new_recall(p: Played) -> float:
    gold = set(p.question.supporting_ids)
    before = {hit["id"] for r in p.earlier for hit in r.hits}
    return len((gold & {hit["id"] for hit in p.hits}) - before) / len(gold) if gold else 0.0


def _stepsearch(p: Played) -> float:
    if p.action["kind"] != "search":
        return 0.0
    old = [hit for r in p.earlier for hit in r.hits]
    return p.gain.gain(p.question.supporting_ids, p.hits, old) - redundancy(p.hits, old)


def _utility(p: Played) -> float:
    return p.verdict.utility or 0.0 if p.verdict else 0.0


def _reasoning(p: Played) -> float:
    return p.verdict.reasoning or 0.0 if p.verdict else 0.0


def _mt_ppo(p: Played) -> float:
    if p.outcome is not None:
        return 1.0 if p.outcome["em"] else 0.2 if p.answered else -1.0
    one_call = 0.1 if p.action["kind"] != "invalid" else -0.2
    return 0.3 * _utility(p) + one_call - 0.1 * p.round


REWARD_TERMS: dict[str, RewardTerm] = {
    "em": RewardTerm(None, "exact match of the answer", last=True),
    "f1": RewardTerm(None, "token F1 of the answer", last=True),
    "sub_em": RewardTerm(None, "a gold answer stands in the answer", last=True),
    "recall": RewardTerm(None, "share of the gold passages retrieved", last=True),
    "correct": RewardTerm(
        lambda p: p.grade.score or 0.0 if p.grade else 0.0,
        "the judge's grade of the answer against the gold answers",
        last=True,
        needs_grade=True,
    ),
    "format": RewardTerm(
        _format,
        "with em: 1 / 0.8 right, 0.2 / 0.1 wrong, 0.2 / 0 no answer (valid / invalid acts)",
        last=True,
    ),
    "unanswered": RewardTerm(
        lambda p: float(not p.answered), "1 if the episode ended without an answer", last=True
    ),
    "search_key": RewardTerm(
        _search_key,
        "mean over the gold sub-queries of the best F1 of a query with it",
        last=True,
        needs_trace=True,
    ),
    "ndcg": RewardTerm(_ndcg, "NDCG of this round's hits, gold passages relevant"),
    "new_recall": RewardTerm(
        _new_recall,
        "share of the gold passages that this round returned first; sums to recall",
        needs_trace=True,
    ),
    "stepsearch": RewardTerm(
        _stepsearch, "information gain minus redundancy of this search", needs_trace=True
    ),
    "utility": RewardTerm(_utility, "the judge's u of this round", needs_verdict=True),
    "reasoning": RewardTerm(_reasoning, "the judge's v of this round", needs_verdict=True),
    "contribution": RewardTerm(
        lambda p: _utility(p) * _reasoning(p), "the judge's u · v of this round", needs_verdict=True
    ),
    "mt_ppo": RewardTerm(
        _mt_ppo,
        "0.3 u + (0.1, invalid act −0.2) − 0.1 · round; in the last step 1 right, 0.2 wrong, −1 no answer",
        needs_verdict=True,
    ),
    "search": RewardTerm(
        lambda p: float(len(p.action["queries"])), "queries of this round; weight it below 0 for a cost"
    ),
    "invalid": RewardTerm(
        lambda p: float(p.action["kind"] == "invalid"), "1 if the act was invalid; weight it below 0"
    ),
}
"""Every term by name."""
