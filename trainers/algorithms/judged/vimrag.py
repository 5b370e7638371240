"""VimRAG's graph-guided policy optimization (GGPO) on text: rounds off the answer's path are masked in successes, and rounds
that retrieved valid evidence in failures.

Source: VimRAG, arXiv 2602.12735, as third parties describe it; its training code is not released. The rounds of an episode are the nodes
v_t of a graph of evidence. With r the outcome, P_ans the path from the question to the answer and R_val the nodes that carried valid
retrieval:

    μ_t = 1[r = 1] · 1[v_t ∉ P_ans]  +  1[r = 0] · 1[v_t ∈ R_val]
    L   = the clipped surrogate of the rounds with μ_t = 0, with GRPO's advantage and one ratio for the sequence
                                                                               divided by the number of kept tokens

So dead ends of right answers are not reinforced, and useful searches of wrong answers are not discouraged.

[OURS] The graph, on text. Round s is a parent of round t if s is the first round that returned a text with the query of t in it; or,
where no text holds the whole query, one of its names (capitalised words and numbers). Names and queries that the question
holds have the question as their source. An answer's parent is the first round that returned a text with the answer in
it. P_ans is the answer's round and all of its ancestors. R_val: the round returned a gold passage that no earlier one had
returned (`valid=gold`), or its verdict has u ≥ 0.5 (`valid=judge`).

Departures:
1. r = 1 where A > 0 and r = 0 where A < 0: with EM as the reward that is the outcome, and any other reward works.
2. The paper's graph is written by the model, which names the parents of each node; here it is read from the texts.
3. The paper's memory (summaries and images kept by importance) is not part of this: it is a method of the agent's
   context, not of credit.
4. The ratio is GSPO's (`ratio=sequence`), over the kept tokens; clips are GRPO's 0.2, because GSPO's are made for
   sequences of thousands of tokens. aggregation=token-mean.
5. An answer that no text holds has no path but itself: then the answer alone is reinforced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.judges.grounding import contains_words, names_in, text_of
from searchgym.records.episode import Episode
from searchgym.scoring import contains_answer

from ...components.evidence import new_gold, require_gold, require_judge, verdicts
from ...config import option
from ...core.credit import Credit
from ...core.groups import Groups
from ...core.objective import Aggregation
from ..grpo import GRPO, GRPOSettings

__all__ = ["VimRAG", "VimRAGSettings", "answer_path", "evidence_graph"]


@dataclass(frozen=True)
class VimRAGSettings(GRPOSettings):
    """Settings of `VimRAG`; those of GRPO first."""

    ratio: Literal["token", "sequence"] = option(
        "sequence", "importance ratio of each sequence, or of each token"
    )
    aggregation: Aggregation = option("token-mean", "how token losses become one loss")
    valid: Literal["gold", "judge"] = option(
        "gold", "valid retrieval: a new gold passage, or a verdict with utility of at least 0.5"
    )
    mask: Literal["both", "dead-ends", "valid"] = option(
        "both", "mask dead ends of successes, valid retrievals of failures, or both"
    )


class VimRAG(GRPO):
    """GRPO with masked rounds; see the head of this file."""

    settings_class = VimRAGSettings
    settings: VimRAGSettings

    @property
    def told(self) -> str:
        return "gold passages" if self.settings.valid == "gold" and self.settings.mask != "dead-ends" else ""

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self.settings.mask != "dead-ends":
            if self.settings.valid == "gold":
                require_gold(env_config, "vimrag", "keeps rounds of failures that return gold passages")
            else:
                require_judge(env_config, "vimrag", "keeps useful rounds of failures")
        return env_config

    def credit(self, groups: Groups) -> Credit:
        given = super().credit(groups)
        if not len(groups) or self.settings.permute_rewards:
            return given
        a_R = np.concatenate(self.advantages(groups))[groups.episode_R]
        masked_R = np.zeros(len(a_R), dtype=bool)
        if self.settings.mask != "valid":
            on_path_R = np.concatenate([_on_path(episode) for episode in groups.episodes])
            masked_R |= (a_R > 0.0) & ~on_path_R
        if self.settings.mask != "dead-ends":
            masked_R |= (a_R < 0.0) & self._valid(groups)
        metrics = {**given.metrics, "masked_rounds": float(masked_R.mean())}
        return replace(given, metrics=metrics, loss_mask_N=~masked_R[groups.round_of_token_N])

    def _valid(self, groups: Groups) -> NDArray[np.bool_]:
        if self.settings.valid == "judge":
            return verdicts(groups, "utility") >= 0.5  # NaN >= 0.5 is False
        return np.array([bool(new) for episode in groups.episodes for new in new_gold(episode)], dtype=bool)


def evidence_graph(episode: Episode) -> list[list[int]]:
    """The parents of each round: the earlier rounds whose results it stands on.

    Args:
        episode: the episode; agents that write names in lower case get parents by whole queries only.
    """
    asked = episode.question.casefold()
    texts = [text_of(round_.hits).casefold() for round_ in episode.rounds]
    parents: list[list[int]] = []
    for t, round_ in enumerate(episode.rounds):
        if round_.action.kind == "answer":
            answer = round_.action.answer
            held = [s for s in range(t) if contains_answer(text_of(episode.rounds[s].hits), answer)]
            parents.append(held[:1])
            continue
        sources: set[int] = set()
        for query in round_.action.queries:
            if contains_words(asked, query):
                continue
            whole = _first(texts[:t], query)
            names = [] if whole else [n for n in names_in(query) if not contains_words(asked, n)]
            sources.update(whole, *(_first(texts[:t], name) for name in names))
        parents.append(sorted(sources))
    return parents


def answer_path(parents: list[list[int]], answer: int) -> set[int]:
    """A round and all of its ancestors.

    Args:
        parents: of each round.
        answer: the round.
    """
    path, frontier = {answer}, [answer]
    while frontier:
        new = set(parents[frontier.pop()]) - path
        path |= new
        frontier.extend(new)
    return path


def _first(texts: list[str], words: str) -> list[int]:
    """The first text that holds the words, if any."""
    return next(([s] for s, text in enumerate(texts) if contains_words(text, words)), [])


def _on_path(episode: Episode) -> NDArray[np.bool_]:
    """Whether each round is on the answer's path; all are where the episode has no answer."""
    count = len(episode.rounds)
    if not count or episode.rounds[-1].action.kind != "answer":
        return np.ones(count, dtype=bool)
    path = answer_path(evidence_graph(episode), count - 1)
    return np.isin(np.arange(count), list(path))
