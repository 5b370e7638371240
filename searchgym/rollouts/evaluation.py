"""Evaluation: metrics with intervals over questions.

The unit of resampling is the question, not the episode: several samples of one question are not independent.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..agent import Agent
from ..env.vector import SearchVectorEnv
from ..errors import ConfigError
from ..options import check_count
from ..records.episode import Episode
from ..scoring import ndcg
from ..statistics import Interval, bootstrap
from .collection import AgentLike, EnvLike, choose_tasks, collect, open_agent, open_envs

__all__ = ["METRICS", "EvalResult", "evaluate", "evaluate_tasks", "invalid_shares", "summarize"]

METRICS = ("em", "f1", "sub_em", "recall")
_OF_HITS = ("recall", "ndcg")  # metrics that compare hits with the gold passages


@dataclass(slots=True, repr=False)
class EvalResult:
    """The result of an evaluation.

    Attributes:
        agent: name of the agent.
        env: fingerprint of the environment.
        questions: number of distinct questions scored.
        samples: episodes per question (k).
        metrics: "em", "f1", "sub_em", "recall", "rounds", "searches" averaged over all samples (avg@k); "recall" over the
            questions whose gold passages are known, and absent if there are none; "ndcg" over the same questions, in the task
            `query`, where the scores of answers are 0; and
            "pass@k": share of questions with at least one exact match among the k samples.
        by_group: EM per question type and hop count, "chain/2" and so on; empty in the task `query`.
        stop_reasons: number of episodes per stop reason.
        failed: episodes lost to infrastructure; they are not scored.
        assisted: share of episodes that used the feedback act.
        judged: empty without a judge; otherwise "judgements", "judge_errors" and the costs of `env.unwrapped.stats`, and
            over the judged rounds the means "utility" and "reasoning" and the share "contributing" (u · v >= 0.5).
        episodes: the records.
        costs: the costs of the agent's acts (`Agent.costs`); empty for agents that cost nothing.
        invalid: share of all messages that were not a valid act, by reason ("no_act", …), most frequent first.
        search: of `evaluate_search`: how the episodes were chosen and what that cost per question; otherwise empty.
    """

    agent: str
    env: dict[str, Any]
    questions: int
    samples: int
    metrics: dict[str, Interval]
    by_group: dict[str, Interval]
    stop_reasons: dict[str, int]
    failed: int
    assisted: float
    judged: dict[str, float]
    episodes: list[Episode]
    costs: dict[str, float] = field(default_factory=dict)
    invalid: dict[str, float] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the episodes, as JSON data."""
        left_out = ("episodes", "metrics", "by_group", *(() if self.search else ("search",)))
        data = {n: getattr(self, n) for n in self.__slots__ if n not in left_out}
        for name in ("metrics", "by_group"):
            data[name] = {k: v.to_json() for k, v in getattr(self, name).items()}
        return data

    @property
    def rows(self) -> list[tuple[str, Interval | None]]:
        """The metrics in the order in which they are shown; None for one that is not defined for these questions."""
        names = dict.fromkeys((*METRICS, *self.metrics))
        return [(name, self.metrics.get(name)) for name in names]

    def __str__(self) -> str:
        rows = "  ".join(f"{name} {'–' if value is None else value}" for name, value in self.rows)
        lost = f"; {self.failed} episodes lost to infrastructure" if self.failed else ""
        wasted = sum(self.invalid.values())
        invalid = f"; {wasted:.1%} of the messages invalid" if wasted else ""
        return f"{self.agent}: {self.questions} questions x {self.samples}: {rows}{invalid}{lost}"

    def __repr__(self) -> str:
        return f"<EvalResult {self}>"


def by_question(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Episodes of one question together, in the order in which the questions first come."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.task_id, []).append(episode)
    return list(groups.values())


def average(groups: Sequence[Sequence[Episode]], value: Callable[[Episode], float]) -> Interval:
    """Mean of a value over questions, each question's episodes averaged first, with its interval."""
    # The mean of one value is the value; numpy takes longer to say so than everything else here.
    means = [float(np.mean([*map(value, group)]) if len(group) > 1 else value(group[0])) for group in groups]
    return bootstrap(means)


def summarize(episodes: Sequence[Episode]) -> EvalResult:
    """Score a set of episodes, grouped by question.

    Args:
        episodes: those lost to infrastructure are counted and not scored.

    Raises:
        ConfigError: no episode can be scored.
    """
    valid = [e for e in episodes if e.valid_for_training]
    if not valid:
        raise ConfigError(
            f"none of {len(episodes)} episodes can be scored: "
            f"{dict(Counter(str(e.outcome.stop_reason) for e in episodes))}"
        )
    groups = by_question(valid)
    samples = max(map(len, groups))
    # Without known gold passages, a recall of 0 is no measurement.
    supported = [g for g in groups if g[0].gold.get("supporting_ids")]
    metrics = {}
    for name in METRICS:
        defined = supported if name in _OF_HITS else groups
        if defined:
            metrics[name] = average(defined, lambda e, n=name: getattr(e.outcome, n))  # type: ignore[misc]
    answers = valid[0].env.get("task", "answer") == "answer"
    if supported and not answers:
        metrics["ndcg"] = average(supported, _ndcg)
    if samples > 1:
        metrics[f"pass@{samples}"] = bootstrap([max(e.outcome.em for e in g) for g in groups])
    metrics["rounds"] = average(groups, lambda e: e.outcome.rounds)
    metrics["searches"] = average(groups, lambda e: e.outcome.searches)
    kinds: dict[str, list[list[Episode]]] = {}
    for group in groups if answers else ():
        question_type = str(group[0].extra.get("type", "unknown"))
        kinds.setdefault(f"{question_type}/{group[0].extra.get('hops', 0)}", []).append(group)
    return EvalResult(
        agent=valid[0].agent,
        env=valid[0].env,
        questions=len(groups),
        samples=samples,
        metrics=metrics,
        by_group={k: average(of, lambda e: e.outcome.em) for k, of in sorted(kinds.items())},
        stop_reasons=dict(Counter(str(e.outcome.stop_reason) for e in episodes)),
        failed=len(episodes) - len(valid),
        assisted=float(np.mean([e.outcome.assisted for e in valid])),
        judged=_judged(valid),
        episodes=list(episodes),
        invalid=invalid_shares(valid),
    )


def _ndcg(episode: Episode) -> float:
    """NDCG of the last round's hits, among the environment's `top_k`."""
    gold = set(episode.gold["supporting_ids"])
    ranked = list(dict.fromkeys(hit.id for hit in episode.rounds[-1].hits))
    return ndcg(ranked, gold, min(len(gold), max(int(episode.env["top_k"]), len(ranked))))


def invalid_shares(episodes: Sequence[Episode]) -> dict[str, float]:
    """Share of the messages that were not a valid act, by reason, the most frequent first.

    Args:
        episodes: those whose messages are counted.
    """
    messages = [r.action for e in episodes for r in e.rounds if r.action.kind != "none"]
    reasons = Counter(action.error for action in messages if action.kind == "invalid")
    return {reason: count / len(messages) for reason, count in reasons.most_common()}


def _judged(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means of the verdicts, over all rounds that have one."""
    verdicts = [r.judge for e in episodes for r in e.rounds if r.judge.status == "ok"]
    if not verdicts:
        return {}
    return {
        "utility": float(np.mean([v.utility or 0.0 for v in verdicts])),
        "reasoning": float(np.mean([v.reasoning or 0.0 for v in verdicts])),
        "contributing": float(np.mean([(v.contribution or 0.0) >= 0.5 for v in verdicts])),
    }


def evaluate(
    env: EnvLike,
    agent: AgentLike,
    episodes: int | None = 200,
    *,
    samples: int = 1,
    split: str | None = "dev",
    seed: int | None = None,
    num_envs: int = 64,
    on_episode: Callable[[Episode], None] | None = None,
    **arguments: Any,
) -> EvalResult:
    """Play and score.

    Args:
        env: registered id, search environment, or vector environment.
        agent: an `Agent`, a registered name, or a function (observation, info) -> action.
        episodes: number of questions, at most those of the split; None: the whole split.
        samples: episodes per question.
        split: "dev" by default; None: the environment's.
        seed: draws the questions; None takes the first ones in corpus order.
        num_envs: episodes played at once.
        on_episode: called as each episode ends.
        **arguments: environment arguments (only with an id).

    Raises:
        ConfigError: an argument that cannot be used, or no episode that can be scored.
    """
    check_count("samples", samples, 1)
    if episodes is not None:
        check_count("episodes", episodes, 1)
    opened = open_agent(agent)
    envs = open_envs(env, opened, num_envs, split, **arguments)
    tasks = choose_tasks(envs.config, split, None, seed)[:episodes]
    return evaluate_tasks(envs, opened, tasks, samples=samples, on_episode=on_episode)


def evaluate_tasks(
    envs: SearchVectorEnv,
    agent: Agent,
    tasks: Sequence[str],
    *,
    samples: int = 1,
    ids: random.Random | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> EvalResult:
    """Play and score given questions; `evaluate` chooses them.

    Args:
        envs: where the episodes are played.
        agent: plays.
        tasks: ids of the questions.
        samples: episodes per question.
        ids: source of episode ids; pass a seeded one for reproducible records.
        on_episode: called as each episode ends.

    Raises:
        ConfigError: no episode can be scored.
    """
    source = ids or random.Random(secrets.randbits(64))
    before = agent.costs()
    groups = [f"{source.getrandbits(64):016x}" for _ in tasks]
    played = collect(
        envs,
        agent,
        [task for task in tasks for _ in range(samples)],
        group_ids=[group for group in groups for _ in range(samples)],
        ids=source,
        on_episode=on_episode,
    )
    result = summarize(played)
    if not getattr(envs.config.retriever, "ids_match", True):
        for name in _OF_HITS:
            result.metrics.pop(name, None)  # its hits are not the corpus's passages
    result.costs = {name: value - before.get(name, 0.0) for name, value in agent.costs().items()}
    if envs.config.judge is not None:
        result.judged |= envs.judge_costs.to_stats()
    return result
