"""What an algorithm hands to the loss: credit per episode, per round or per sampled token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from searchgym.errors import TrainingError

from .groups import Groups

__all__ = ["Credit"]


@dataclass(frozen=True)
class Credit:
    """Advantages, at the resolution the algorithm works at. Build it with one of the class methods.

    Attributes:
        unit: what one value belongs to.
        values: nested lists, group by group and episode by episode, of one array per episode: [1], [R] or the
            episode's sampled tokens.
        metrics: numbers for the log, e.g. the spread of round weights.
        loss_mask_N: False for sampled tokens that shall not enter the loss at all, [N]; None: all enter it.
    """

    unit: Literal["episode", "round", "token"]
    values: list[list[NDArray[np.float64]]]
    metrics: dict[str, float] = field(default_factory=dict)
    loss_mask_N: NDArray[np.bool_] | None = None

    @classmethod
    def per_episode(cls, values: Sequence[ArrayLike], metrics: dict[str, float] | None = None) -> Credit:
        """One value per episode: `values[group]` has shape [G]. Every token of the episode gets it."""
        nested = [list(np.asarray(v_G, dtype=np.float64).reshape(-1, 1)) for v_G in values]
        return cls("episode", nested, metrics or {})

    @classmethod
    def per_round(
        cls, values: Sequence[Sequence[ArrayLike]], metrics: dict[str, float] | None = None
    ) -> Credit:
        """One value per round: `values[group][episode]` has shape [R]."""
        return cls("round", [[np.asarray(v, dtype=np.float64) for v in g] for g in values], metrics or {})

    @classmethod
    def per_token(
        cls, values: Sequence[Sequence[ArrayLike]], metrics: dict[str, float] | None = None
    ) -> Credit:
        """One value per sampled token: `values[group][episode]`, the episode's tokens with mask 1 in order."""
        return cls("token", [[np.asarray(v, dtype=np.float64) for v in g] for g in values], metrics or {})

    @classmethod
    def flat(
        cls,
        unit: Literal["round", "token"],
        values: NDArray[np.float64],
        groups: Groups,
        metrics: dict[str, float] | None = None,
        loss_mask_N: NDArray[np.bool_] | None = None,
    ) -> Credit:
        """The same from one array: all rounds of `groups.episodes` in order, or all N sampled tokens."""
        if unit == "round":
            counts = [len(episode.rounds) for episode in groups.episodes]
        else:
            counts = np.bincount(groups.tokens.episode_N, minlength=len(groups.episodes)).tolist()
        arrays = iter(np.split(values, np.cumsum(counts)[:-1]) if counts else [])
        return cls(unit, [[next(arrays) for _ in group] for group in groups], metrics or {}, loss_mask_N)

    def to_tokens(self, groups: Groups) -> NDArray[np.float64]:
        """The advantage of every sampled token of `groups`, shape [N].

        Raises:
            TrainingError: the shape does not fit the groups, or a value is not finite.
        """
        if [len(g) for g in self.values] != [len(g) for g in groups]:
            raise TrainingError(
                f"credit has {[len(g) for g in self.values]} episodes per group, but the groups have "
                f"{[len(g) for g in groups]}: return one entry for every episode of every group"
            )
        tokens = groups.tokens
        arrays = list(chain.from_iterable(self.values))
        if self.unit == "episode":
            wanted = np.ones(len(arrays), dtype=np.int64)
        elif self.unit == "round":
            wanted = np.array([len(e.rounds) for e in groups.episodes], dtype=np.int64)
        else:
            wanted = np.bincount(tokens.episode_N, minlength=len(arrays))
        for array, episode, count in zip(arrays, groups.episodes, wanted, strict=True):
            if array.shape != (count,):
                raise TrainingError(
                    f"credit per {self.unit} of episode {episode.episode_id!r} has shape {array.shape}, "
                    f"not ({count},): give one value per {self.unit}"
                )
        flat = np.concatenate(arrays) if arrays else np.zeros(0)
        if not np.isfinite(flat).all():
            owner = groups.episodes[int(np.repeat(np.arange(len(arrays)), wanted)[~np.isfinite(flat)][0])]
            raise TrainingError(
                f"credit of episode {owner.episode_id!r} is not finite (group {owner.group_id!r}, reward "
                f"{owner.reward}): guard the division or the logarithm that made it"
            )
        if self.unit == "token":
            return flat
        starts = np.cumsum(wanted) - wanted
        offset_N = tokens.round_N if self.unit == "round" else 0
        result: NDArray[np.float64] = flat[starts[tokens.episode_N] + offset_N]
        return result
