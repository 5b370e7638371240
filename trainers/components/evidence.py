"""What algorithms read of a single round besides its reward: a judge's verdict and the question's gold derivation.

Also the refusal of environments that lack either, before anything is played.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Round
from searchgym.scoring import f1

from ..core.groups import Groups

__all__ = [
    "new_gold",
    "query_f1",
    "require_derivation",
    "require_gold",
    "require_judge",
    "sub_queries",
    "verdicts",
]

_PARTIAL = ("success", "unequal-success")  # leave failures without a verdict


def require_judge(env_config: EnvConfig, trainer: str, why: str, *, failures: bool = True) -> None:
    """Refuse an environment without a judge, or with one that judges successes only.

    Args:
        env_config: the environment.
        trainer: its registered name.
        why: what it does with verdicts, e.g. "penalizes wrong rounds".
        failures: whether it needs the verdicts of failed episodes, too.

    Raises:
        ConfigError: it is missing.
    """
    if env_config.judge is None:
        raise ConfigError(
            f"{trainer} {why} by a judge's verdicts, and this environment has no judge: add --env-option judge=oracle, or "
            "another judge"
        )
    if failures and env_config.judge_when in _PARTIAL:
        raise ConfigError(
            f"{trainer} {why} by verdicts on all episodes, but judge_when is {env_config.judge_when!r}, which leaves failures "
            "without: use --env-option judge_when=step, end or unequal"
        )


def require_gold(env_config: EnvConfig, trainer: str, why: str) -> None:
    """Refuse questions without gold passages, and a retriever that cannot return them.

    Args:
        env_config: the environment.
        trainer: its registered name.
        why: what it does with gold passages.

    Raises:
        ConfigError: a question of the split that is trained on has none, or hits have other ids than gold passages.
    """
    _refuse_without(env_config, trainer, why, "gold passages", "supporting_ids")
    if not getattr(env_config.retriever, "ids_match", True):
        raise ConfigError(
            f"{trainer} {why}, but retriever {env_config.retriever.name!r} returns other passages than corpus "
            f"{env_config.corpus.name!r} has: let it search this corpus, or choose another trainer"
        )


def require_derivation(env_config: EnvConfig, trainer: str, why: str) -> None:
    """Refuse questions without gold sub-queries.

    Args:
        env_config: the environment.
        trainer: its registered name.
        why: what it does with them.

    Raises:
        ConfigError: a question of the split that is trained on has no derivation.
    """
    _refuse_without(env_config, trainer, why, "gold sub-queries (a chain)", "chain")


def _refuse_without(env_config: EnvConfig, trainer: str, why: str, what: str, field: str) -> None:
    questions = env_config.tasks(env_config.split)
    missing = sum(not getattr(question, field) for question in questions)
    if missing:
        raise ConfigError(
            f"{trainer} {why}, and {missing} of {len(questions)} questions of split {env_config.split!r} of corpus "
            f"{env_config.corpus.name!r} have no {what}: choose --env-option corpus=country, forks or another corpus that "
            "has them, or another trainer"
        )


def sub_queries(episode: Episode) -> tuple[str, ...]:
    """The gold sub-query of each hop; empty where the question has no derivation."""
    return tuple(hop["query"] for hop in episode.gold["chain"])


@lru_cache(maxsize=65536)
def query_f1(query: str, key: str) -> float:
    """Token F1 of a query with a gold sub-query; remembered, because the episodes of a group repeat each other's queries."""
    return f1(query, [key])


def new_gold(episode: Episode) -> list[frozenset[str]]:
    """For each round, the gold passages that it returned and no earlier round had."""
    missing = set(episode.gold["supporting_ids"])
    found: list[frozenset[str]] = []
    for round_ in episode.rounds:
        found.append(frozenset(missing.intersection(hit.id for hit in round_.hits)))
        missing -= found[-1]
    return found


def verdicts(
    groups: Groups, criterion: Literal["utility", "reasoning", "contribution"]
) -> NDArray[np.float64]:
    """A criterion of each round's verdict, all rounds in order; NaN where there is no verdict.

    Args:
        groups: the episodes.
        criterion: u (utility), v (reasoning) or u · v (contribution). An answer retrieves nothing, so its contribution
            is v.
    """
    values = [_verdict(round_, criterion) for episode in groups.episodes for round_ in episode.rounds]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _verdict(round_: Round, criterion: str) -> float | None:
    if criterion == "contribution":
        return round_.judge.reasoning if round_.action.kind == "answer" else round_.judge.contribution
    value: float | None = getattr(round_.judge, criterion)
    return value
