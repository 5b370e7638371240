"""Different acts in one state: which rounds of a group begin alike, and how the acts that were taken there score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.groups import Groups

__all__ = ["Place", "acts_of", "count_unjudged", "score_acts"]

Place = tuple[int, int]
"""An episode, counted over all groups, and the index of one of its rounds."""


def acts_of(groups: Groups) -> list[list[list[Place]]]:
    """The acts of every state with more than one, each as the places of its copies, in order of episode ids.

    Args:
        groups: the episodes. Rounds of a group that follow the same messages begin in one state.
    """
    states: list[dict[str, list[Place]]] = []
    first = 0
    for group in groups:
        successors: dict[tuple[int, str], int] = {}
        states.append({})
        question = len(states) - 1
        for e in sorted(range(len(group)), key=lambda e: group[e].episode_id):
            state = question
            for t, record in enumerate(group[e].rounds):
                states[state].setdefault(record.text, []).append((first + e, t))
                if (state, record.text) not in successors:
                    successors[state, record.text] = len(states)
                    states.append({})
                state = successors[state, record.text]
        first += len(group)
    return [list(acts.values()) for acts in states if len(acts) > 1]


def score_acts(
    groups: Groups, acts: Sequence[Sequence[Place]], rewards_E: NDArray[np.float64], *, by_judge: bool
) -> list[tuple[Place, float]]:
    """The first place of each act of a state, and the act's score; acts without a verdict are left out.

    Args:
        groups: the episodes.
        acts: see `acts_of`.
        rewards_E: reward of each episode.
        by_judge: whether searches are scored by verdicts, by u · v; answers are scored by rewards.
    """
    scored = []
    for places in acts:
        e, t = places[0]
        record = groups.episodes[e].rounds[t]
        if not by_judge or record.action.kind == "answer":
            # Rounded, so that means of the same rewards in another order are equal.
            scored.append((places[0], round(float(np.mean([rewards_E[e] for e, _ in places])), 9)))
        elif record.judge.contribution is not None:
            scored.append((places[0], record.judge.contribution))
    return scored


def count_unjudged(groups: Groups) -> int:
    """Number of searches and invalid acts without a verdict.

    Args:
        groups: the episodes.
    """
    records = [record for episode in groups.episodes for record in episode.rounds]
    return sum(r.action.kind in ("search", "invalid") and r.judge.contribution is None for r in records)
