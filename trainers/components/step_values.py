"""Monte Carlo values of the states of episodes: the mean return of continuations that the policy plays from each.

    V̂(s_t) = 1/K Σ_k G(η_k),    η_k ~ π(· | s_t)

Episodes of one question that reach a state by the same acts share its continuations. `SearchTree` is the alternative in which
continuations are spent where returns look best.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.records.episode import Episode
from searchgym.rollouts.starts import Start

from ..core.groups import Group, Groups
from ..core.rollouts import Play

__all__ = ["continuation_values", "or_outcome", "stored_values"]


def continuation_values(
    play: Play,
    policy: Policy,
    envs: SearchVectorEnv,
    groups: Sequence[Group],
    continuations: int,
    rng: np.random.Generator,
    permute: bool = False,
) -> list[list[NDArray[np.float64]]]:
    """V̂ of the state before each round of each episode.

    Continuations that infrastructure failures cut short are left out.

    Args:
        play: e.g. `TrainContext.play`.
        policy: played the episodes and plays the continuations; its weights must not change meanwhile.
        envs: where the episodes were played.
        groups: the episodes of each question.
        continuations: K, of each distinct state.
        rng: draws episode ids, and permutes.
        permute: the control: permute the returns of all continuations of a group, so that they tell nothing about states.

    Returns:
        `values[group][episode]` of shape [R]; NaN where every continuation of a state failed.
    """
    place: list[dict[tuple[str, ...], int]] = []
    starts: list[Start] = []
    for group in groups:
        place.append({})
        for episode in group:
            for t in range(len(episode.rounds)):
                key = _acts_before(episode, t)
                if key not in place[-1]:
                    place[-1][key] = len(starts) // continuations
                    starts += [Start(episode.task_id, prefix=episode, fork_round=t)] * continuations
    with policy.remembering([episode for group in groups for episode in group]):
        played = play.branch(policy, envs, starts, rng)
    returns_SK = np.array(
        [episode.reward if episode.valid_for_training else np.nan for episode in played]
    ).reshape(-1, continuations)
    earned_S = np.array([_paid_before(start) for start in starts[::continuations]])
    returns_SK = returns_SK - earned_S[:, None]
    if permute:
        for states in place:
            rows = list(states.values())
            returns_SK[rows] = rng.permutation(returns_SK[rows].ravel()).reshape(-1, continuations)
    known_S = np.isfinite(returns_SK).sum(axis=1)
    means_S = np.where(known_S > 0, np.nansum(returns_SK, axis=1) / np.maximum(known_S, 1), np.nan)
    return [
        [means_S[[states[_acts_before(episode, t)] for t in range(len(episode.rounds))]] for episode in group]
        for group, states in zip(groups, place, strict=True)
    ]


def stored_values(episode: Episode, key: str) -> list[float] | None:
    """What an algorithm stored in `Episode.extra`, one number per round; None if it is not there.

    Args:
        episode: the episode.
        key: the key of `extra`.
    """
    found: list[float] | None = episode.extra.get(key)
    return found if found is not None and len(found) == len(episode.rounds) else None


def or_outcome(
    values: Sequence[ArrayLike | None], advantages: Sequence[NDArray[np.float64]], groups: Groups
) -> tuple[NDArray[np.float64], int]:
    """Credit of each round, [R]: its own where it is known, otherwise the advantage of its episode.

    Args:
        values: of each episode, [R of the episode], or None.
        advantages: of each episode, one array per group.
        groups: the episodes.

    Returns:
        The credit, and the number of episodes whose own is not known.
    """
    outcome = chain.from_iterable(advantages)
    parts = [
        np.full(count, advantage) if found is None else np.asarray(found, dtype=np.float64)
        for found, advantage, count in zip(values, outcome, groups.round_counts_E, strict=True)
    ]
    return np.concatenate([np.zeros(0), *parts]), sum(found is None for found in values)


def _acts_before(episode: Episode, fork_round: int) -> tuple[str, ...]:
    """Names a state inside a group: the environment is deterministic given the acts."""
    return tuple(record.text for record in episode.rounds[:fork_round])


def _paid_before(start: Start) -> float:
    """The reward of the rounds that a continuation shares with its parent."""
    rounds = start.prefix.rounds[: start.fork_round] if start.prefix is not None else []
    return sum(record.reward for record in rounds)
