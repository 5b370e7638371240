"""Which rounds of a question start in the same state, by what the policy saw or did before: numbers for comparing rounds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from difflib import SequenceMatcher
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from searchgym.episode import Episode, RoundRecord

from .groups import Groups

__all__ = ["act_signature", "anchor_states", "cluster_texts", "found_passages", "number_states"]


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


def cluster_texts(texts: Sequence[str], similarity: float) -> dict[str, str]:
    """The representative of each text: in sorted order, the first that is similar enough, or the text itself.

    Args:
        texts: the texts; duplicates count once.
        similarity: smallest difflib ratio inside a cluster.
    """
    unique = sorted(set(texts))
    length_U = np.array([len(text) for text in unique])
    letters_UB = np.array([_letters(text) for text in unique])
    leaders: list[int] = []
    leader_of: dict[str, str] = {}
    matcher = SequenceMatcher(autojunk=False)
    for i, text in enumerate(unique):
        # The ratio is 2 · matching letters / both lengths, and a letter cannot match more often than it occurs in both
        # texts: a cheap bound that avoids most calls of the quadratic ratio().
        most_L = np.minimum(letters_UB[leaders], letters_UB[i]).sum(axis=1)
        possible_L = 2.0 * most_L >= similarity * (length_U[leaders] + length_U[i])
        matcher.set_seq2(text)  # difflib indexes this side once
        for leader in compress(leaders, possible_L):
            matcher.set_seq1(unique[leader])
            if matcher.ratio() >= similarity:
                leader_of[text] = unique[leader]
                break
        else:
            leaders.append(i)
            leader_of[text] = text
    return leader_of


def _letters(text: str) -> NDArray[np.int64]:
    """How often each letter occurs, [128]; letters that share a place can only raise the bound on similarity."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return np.bincount(codes % 128, minlength=128)


def _observations(episode: Episode) -> list[str]:
    """The observation that each round's act responded to."""
    return [episode.question, *(round_.observation for round_ in episode.rounds[:-1])][: len(episode.rounds)]
