"""SLATE: the next act is drawn k times from one shared prefix, graded by a judge, and compared with its alternatives only.

Source: arXiv 2602.23440 and its code, algoprog/SLATE at cbab153. From the state before step t the policy draws k acts. A judge
grades the parts of each on {−1, 0, +1}:

    search    r_t^j = r_think + r_query
    answer    r_t^j = r_think + r_answer + λ (B − t) / B             B: the budget of rounds
    A_t^j     = (r_t^j − mean_j r) / (std_j r + 1e-6)                for the tokens of act j
    next act  ~ softmax_j(A_t^j / η)

The prefix continues with the act that was chosen, to the answer. Each of the k acts of each step is learned from with the clipped
surrogate; a step's acts have the same past, so the variance of the other steps does not enter A.

`group_size` is k = 5, λ = 0.1, η = 0.7, as published. An episode of the group is a prefix and one act; metrics of outcomes are
those of the one episode per question that the chosen acts make.

Departures from the paper and its code:
1. [OURS] The judge is the environment's: r_query = 2u − 1 and r_think = 2v − 1, rounded to {−1, 0, 1}. Our judges grade a search
   by what it returned, where SLATE grades the query before its results are seen. So all k acts are executed; the searches of
   those that are not chosen are counted.
2. [OURS] r_answer = 2 EM − 1, exact, where SLATE has a judge compare the answer with the gold one.
3. [OURS] An act without a valid form has r = −2. An act whose verdict failed is not learned from (`unjudged`), and is chosen
   only where all verdicts failed.
4. t counts from 1, and B is the environment's max_rounds (the paper: 4).
5. The standard deviation is the unbiased one (n − 1), as in grpo.py.
6. Every act weighs the same in a minibatch. The paper adds up the means over the k acts of each step, and its code divides
   by the number of steps.
7. The control `permute_rewards` permutes the scores of a question's acts; which acts were continued is decided before.
8. β = 0 by default; the paper has 0.001 with k3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts.starts import Start, stopped_after_act

from ...config import option
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.objective import group_advantages
from ...core.rollouts import check_can_branch
from ..grpo import GRPO, GRPOSettings

__all__ = ["SLATE", "SLATESettings", "act_score"]

SCORE = "slate_score"
"""The key of `Episode.extra` with the score of the episode's last act; None if its verdict failed."""


@dataclass(frozen=True)
class SLATESettings(GRPOSettings):
    """Settings of `SLATE`; those of GRPO first."""

    group_size: int = option(5, "k: acts that are drawn in every state", low=1)
    temperature: float = option(0.7, "eta: of the choice among them; 0: the best", low=0.0)
    haste: float = option(
        0.1, "lambda: what an answer in the first round earns more than one in the last", low=0.0
    )


class SLATE(GRPO):
    """Step-level comparison of k next acts; see the head of this file."""

    settings_class = SLATESettings
    settings: SLATESettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if env_config.judge is None or env_config.judge_when not in ("step", "end"):
            raise ConfigError(
                f"slate grades every act by a judge's verdict, and this environment's judge is {env_config.judge_spec!r} with "
                f"judge_when={env_config.judge_when!r}: add --env-option judge=oracle --env-option judge_when=end, or "
                "another judge"
            )
        return env_config

    def check_policy(self, policy: Policy) -> None:
        check_can_branch(policy)

    def play(self, policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str]) -> list[Group]:
        play, rng, k = self.context.play, self.context.rng, self.settings.group_size
        slates = play(policy, envs, task_ids, k, rng, rounds=1)
        groups = [list(slate) for slate in slates]
        playing = list(range(len(groups)))
        while playing:
            chosen = {i: self._choose(slates[i], envs.config.max_rounds) for i in playing}
            for episode in chosen.values():
                episode.extra["lookahead"] = stopped_after_act(episode)
            playing = [i for i, episode in chosen.items() if stopped_after_act(episode)]
            starts = [
                Start(task_ids[i], prefix=chosen[i], fork_round=len(chosen[i].rounds) - 1, rounds=1)
                for i in playing
                for _ in range(k)
            ]
            played = iter(play.branch(policy, envs, starts, rng) if starts else [])
            for i in playing:
                slates[i] = [next(played) for _ in range(k)]
                groups[i] += slates[i]
        return groups

    def _choose(self, slate: Group, budget: int) -> Episode:
        """Score the acts of a step, mark them, and draw the one to go on with."""
        scores = [act_score(episode, budget, self.settings.haste) for episode in slate]
        for episode, score in zip(slate, scores, strict=True):
            episode.extra |= {SCORE: score, "lookahead": True}
        known = [j for j, score in enumerate(scores) if score is not None and slate[j].valid_for_training]
        if not known:
            return slate[int(self.context.rng.integers(len(slate)))]
        a_K = group_advantages(np.array([scores[j] for j in known], dtype=np.float64))
        if self.settings.temperature == 0.0:
            return slate[known[int(a_K.argmax())]]
        weights_K = np.exp((a_K - a_K.max()) / self.settings.temperature)
        return slate[known[int(self.context.rng.choice(len(known), p=weights_K / weights_K.sum()))]]

    def rewards(self, group: Group) -> NDArray[np.float64]:
        if not all(SCORE in episode.extra for episode in group):
            return super().rewards(group)  # not collected by this trainer
        return np.array([episode.extra[SCORE] or 0.0 for episode in group], dtype=np.float64)

    def credit(self, groups: Groups) -> Credit:
        values: list[list[NDArray[np.float64]]] = []
        unjudged = 0
        for group, r_G, outcome_G in zip(groups, groups.rewards, self.advantages(groups), strict=True):
            if not all(SCORE in episode.extra for episode in group):
                values.append([np.full(len(e.rounds), a) for e, a in zip(group, outcome_G, strict=True)])
                continue
            act_G = np.array([episode.fork_round or 0 for episode in group])
            known_G = np.array([episode.extra[SCORE] is not None for episode in group])
            unjudged += int((~known_G).sum())
            a_G = np.zeros(len(group))
            for step in np.unique(act_G):
                members = np.flatnonzero((act_G == step) & known_G)
                if len(members) > 1:
                    a_G[members] = group_advantages(r_G[members])
            # A shared round has the advantage of the act it is in all episodes that continue it.
            own = {e.rounds[t].uid: a for e, t, a in zip(group, act_G, a_G, strict=True)}
            values.append([np.array([own.get(r.uid, 0.0) for r in episode.rounds]) for episode in group])
        steps = [len({e.fork_round for e in group}) for group in groups]
        metrics = {"unjudged": float(unjudged), "steps": float(np.mean(steps)) if steps else 0.0}
        return Credit.per_round(values, metrics)


def act_score(episode: Episode, budget: int, haste: float) -> float | None:
    """r of the act after which an episode stopped; None if its verdict failed.

    Args:
        episode: a prefix and one act.
        budget: B, in rounds.
        haste: λ.
    """
    step = episode.fork_round or 0
    record = episode.rounds[step]
    if record.action.kind in ("invalid", "none"):
        return -2.0
    verdict = record.judge
    if verdict.status != "ok" or verdict.reasoning is None or verdict.utility is None:
        return None
    think, query = (float(round(2.0 * x - 1.0)) for x in (verdict.reasoning, verdict.utility))
    if record.action.kind != "answer":
        return think + query
    return think + 2.0 * episode.outcome.em - 1.0 + haste * (budget - step - 1) / budget
