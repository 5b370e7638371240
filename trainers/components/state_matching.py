"""Which rounds of a question start in the same state, by what the policy saw or did before: numbers for comparing rounds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.memory.clusters import cluster_texts
from searchgym.records.episode import Episode, RoundRecord

from ..core.groups import Groups

__all__ = ["act_signature", "anchor_states", "found_passages", "number_states"]


def number_states(groups: Groups, names: Callable[[Episode], Sequence[Hashable]]) -> NDArray[np.int64]:
    """The state of each round as a number from 0, unique to its group: all rounds in order.

    Args:
        groups: the episodes.
        names: gives an episode's states, one per round; equal names in a group are one state.
    """
    numbers: dict[tuple[int, Hashable], int] = {}
    return np.array(
        [
            numbers.setdefault((g, name), len(numbers))
            for g, group in enumerate(groups)
            for episode in group
            for name in names(episode)
        ],
        dtype=np.int64,
    )


def found_passages(episode: Episode) -> list[Hashable]:
    """For each round, the passages that the searches before it have returned, whatever their order."""
    found: frozenset[str] = frozenset()
    states: list[Hashable] = []
    for record in episode.rounds:
        states.append(found)
        found |= {hit.id for hit in record.hits}
    return states


def act_signature(record: RoundRecord) -> Hashable:
    """What a round does, without its thoughts: the kind of act and its words, in lower case."""
    act = record.action
    words = act.queries or (act.answer or act.draft or "",)
    return act.kind, *(" ".join(text.lower().split()) for text in words)


def anchor_states(groups: Groups, similarity: float = 1.0) -> NDArray[np.int64]:
    """The state each round's act was chosen in, as a number from 0, unique to its group: all rounds in order.

    Args:
        groups: the episodes.
        similarity: observations of a group are one state from this difflib ratio on; 1: equal anchors only.
    """
    if similarity >= 1.0:
        return number_states(groups, lambda episode: [record.anchor for record in episode.rounds])
    leaders = [
        cluster_texts([text for episode in group for text in _observations(episode)], similarity)
        for group in groups
    ]
    leader = {id(episode): found for group, found in zip(groups, leaders, strict=True) for episode in group}
    return number_states(
        groups, lambda episode: [leader[id(episode)][text] for text in _observations(episode)]
    )


def _observations(episode: Episode) -> list[str]:
    """The observation that each round's act responded to."""
    return [episode.question, *(round_.observation for round_ in episode.rounds[:-1])][: len(episode.rounds)]
