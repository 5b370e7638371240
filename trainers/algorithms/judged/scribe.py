"""SCRIBE on search: every round is routed to a sub-goal, and graded by the rubric of that sub-goal's prototype.

Source: arXiv 2601.03555, of which the abstract alone was available to us: sub-goals are routed to a library of skill prototypes,
and a judge that is constrained by a prototype's rubric gives a mid-level reward, between those of the outcome and of tokens. Its
formulas, prototypes and rubrics are not known to us.

[OURS] A sub-goal is a hop of the question's derivation: its evidence must be found. A search is routed to the first hop whose gold
passages have not all been returned; its prototype follows from the hop. A rubric is a list of criteria, each 0 or 1:

    prototype   routed here                                      criteria
    locate      searches for the first hop                        finds, asks, fresh
    follow      searches for a later hop                          finds, asks, grounded, fresh
    surplus     searches when all evidence has been found         none: the score is 0
    conclude    the answer                                        complete, supported

    finds: a gold passage of the hop is returned. asks: a query has a token F1 of at least 0.5 with the hop's gold sub-query.
    grounded: the query holds the name that the hop before yields, or is in the question. fresh: no query has the words of an
    earlier one. complete: all gold passages were returned before. supported: a text returned before holds the answer.

    s_t = mean of the criteria                                   an invalid act: 0; a feedback act: none
    A_i,t = A_i^O + β · z_t                                      z: z-score of s over the rounds of the group; A^O: GRPO's

Then GRPO's clipped surrogate. With rubric=judge the environment's judge grades: locate and follow (u + v) / 2, conclude v, surplus 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.judges.grounding import contains_words, repeats, support
from searchgym.records.episode import Episode, Round

from ...components.evidence import query_f1, require_derivation, require_gold, require_judge
from ...config import option
from ...core.groups import Groups
from ..scored import ScoredRounds, ScoredRoundsSettings

__all__ = ["PROTOTYPES", "SCRIBE", "Routed", "SCRIBESettings", "grade", "route"]


@dataclass(frozen=True)
class SCRIBESettings(ScoredRoundsSettings):
    """Settings of `SCRIBE`; those of GRPO and of scored rounds first."""

    rubric: Literal["rule", "judge"] = option(
        "rule", "who grades: the criteria's rules, or the environment's judge"
    )


@dataclass(frozen=True, slots=True)
class Routed:
    """A round and the sub-goal that it serves.

    Attributes:
        round_: the round.
        earlier: the rounds before it.
        episode: the episode.
        prototype: name of a prototype, "" for acts that serve none (feedback, invalid).
        hop: the hop of the derivation, {query, passage_ids, bridge, …}; {} unless it searches for one.
        bridge: what the hop before yields; "" for the first.
        missing: gold passages that no earlier round returned.
    """

    round_: Round
    earlier: Sequence[Round]
    episode: Episode
    prototype: str
    hop: Mapping[str, Any]
    bridge: str
    missing: frozenset[str]


_support = lru_cache(maxsize=4096)(
    support
)  # the episodes of a group give the same answers after the same results


def _finds(r: Routed) -> bool:
    return bool(r.missing.intersection(r.hop["passage_ids"], (hit.id for hit in r.round_.hits)))


def _asks(r: Routed) -> bool:
    return any(query_f1(query, r.hop["query"]) >= 0.5 for query in r.round_.action.queries)


def _grounded(r: Routed) -> bool:
    asked, queries = r.episode.question.casefold(), r.round_.action.queries
    return any(
        contains_words(query.casefold(), r.bridge) or contains_words(asked, query) for query in queries
    )


def _supported(r: Routed) -> bool:
    hits = tuple(hit for round_ in r.earlier for hit in round_.hits)
    return _support(r.round_.action.answer, tuple(r.episode.gold["answers"]), hits)


_CRITERIA: Mapping[str, Callable[[Routed], bool]] = {
    "finds": _finds,
    "asks": _asks,
    "grounded": _grounded,
    "fresh": lambda r: not repeats(r.round_.action.queries, r.earlier),
    "complete": lambda r: not r.missing,
    "supported": _supported,
}

PROTOTYPES: Mapping[str, tuple[str, ...]] = {
    "locate": ("finds", "asks", "fresh"),
    "follow": ("finds", "asks", "grounded", "fresh"),
    "surplus": (),
    "conclude": ("complete", "supported"),
}
"""The criteria of each prototype's rubric."""


class SCRIBE(ScoredRounds):
    """GRPO with rubric scores; see the head of this file."""

    settings_class = SCRIBESettings
    settings: SCRIBESettings

    @property
    def told(self) -> str:
        return "the gold derivation and gold passages"

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        require_derivation(env_config, "scribe", "routes rounds to the hops of a derivation")
        require_gold(env_config, "scribe", "routes rounds by the gold passages that they return")
        if self.settings.rubric == "judge":
            require_judge(env_config, "scribe", "grades rounds")
        return env_config

    def scores(self, groups: Groups) -> NDArray[np.float64]:
        judged = self.settings.rubric == "judge"
        values = [grade(routed, judged) for episode in groups.episodes for routed in route(episode)]
        return np.array(values, dtype=np.float64)


def route(episode: Episode) -> list[Routed]:
    """The sub-goal of each round.

    Args:
        episode: of a question with a derivation; without one all searches are surplus.
    """
    chain, missing = episode.gold["chain"], frozenset(episode.gold["supporting_ids"])
    routed: list[Routed] = []
    for index, round_ in enumerate(episode.rounds):
        kind = round_.action.kind
        hop = next((i for i, hop in enumerate(chain) if missing.intersection(hop["passage_ids"])), None)
        prototype = {"answer": "conclude", "search": "surplus"}.get(kind, "")
        aim, bridge = {}, ""
        if kind == "search" and hop is not None:
            prototype, aim = ("follow" if hop else "locate"), chain[hop]
            bridge = chain[hop - 1]["bridge"] if hop else ""
        routed.append(Routed(round_, episode.rounds[:index], episode, prototype, aim, bridge, missing))
        missing -= {hit.id for hit in round_.hits}
    return routed


def grade(routed: Routed, judged: bool = False) -> float:
    """The score of a round in [0, 1]; NaN if it has none.

    Args:
        routed: the round.
        judged: by its verdict in place of the rules.
    """
    kind, verdict = routed.round_.action.kind, routed.round_.judge
    if kind not in ("search", "answer"):
        return 0.0 if kind == "invalid" else np.nan
    if routed.prototype == "surplus":
        return 0.0
    if judged:
        parts = [verdict.reasoning] if kind == "answer" else [verdict.utility, verdict.reasoning]
        return float(np.mean([np.nan if part is None else part for part in parts]))
    criteria = PROTOTYPES[routed.prototype]
    return sum(_CRITERIA[name](routed) for name in criteria) / len(criteria)
