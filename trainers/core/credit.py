"""What an algorithm gives the loss: credit (advantages) per episode, per round or per sampled token."""

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

Unit = Literal["episode", "round", "token"]


@dataclass(frozen=True)
class Credit:
    """Advantages, at the resolution the algorithm works at. Build it with one of the class methods.

    Attributes:
        unit: what one value belongs to.
        values: nested lists, group by group and episode by episode, of one array per episode: [1], [R] or [N], the
            episode's sampled tokens.
        metrics: numbers for the log, e.g. the spread of round weights.
        loss_mask_N: False for sampled tokens that do not enter the loss at all, [N]; None: all enter it.
    """

    unit: Unit
    values: list[list[NDArray[np.float64]]]
    metrics: dict[str, float] = field(default_factory=dict)
    loss_mask_N: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.loss_mask_N is None:
            return
        mask_N = np.asarray(self.loss_mask_N)
        if mask_N.dtype != np.bool_:  # numbers would be taken for positions
            raise TrainingError(
                f"credit.loss_mask_N has dtype {mask_N.dtype}: give one bool per sampled token"
            )
        object.__setattr__(self, "loss_mask_N", mask_N)

    @classmethod
    def per_episode(cls, values: Sequence[ArrayLike], metrics: dict[str, float] | None = None) -> Credit:
        """One value per episode, for every token of the episode.

        Args:
            values: `values[group]` has shape [G].
            metrics: see `Credit`.

        Raises:
            TrainingError: the values are not numbers nested like this.
        """
        try:
            nested = [list(np.asarray(v_G, dtype=np.float64).reshape(-1, 1)) for v_G in values]
        except (TypeError, ValueError) as error:
            raise _misshapen(
                "per_episode", "values[group] must hold one number per episode", error
            ) from error
        return cls("episode", nested, metrics or {})

    @classmethod
    def per_round(
        cls, values: Sequence[Sequence[ArrayLike]], metrics: dict[str, float] | None = None
    ) -> Credit:
        """One value per round.

        Args:
            values: `values[group][episode]` has shape [R].
            metrics: see `Credit`.

        Raises:
            TrainingError: the values are not numbers nested like this.
        """
        return cls("round", _nested("per_round", "round", values), metrics or {})

    @classmethod
    def per_token(
        cls, values: Sequence[Sequence[ArrayLike]], metrics: dict[str, float] | None = None
    ) -> Credit:
        """One value per sampled token.

        Args:
            values: `values[group][episode]` has shape [N]: the episode's tokens with mask 1, in order.
            metrics: see `Credit`.

        Raises:
            TrainingError: the values are not numbers nested like this.
        """
        return cls("token", _nested("per_token", "sampled token", values), metrics or {})

    @classmethod
    def flat(
        cls,
        unit: Literal["round", "token"],
        values: NDArray[np.float64],
        groups: Groups,
        metrics: dict[str, float] | None = None,
        loss_mask_N: NDArray[np.bool_] | None = None,
    ) -> Credit:
        """Credit from one flat array.

        Args:
            unit: what one value belongs to.
            values: one per round of `groups.episodes` in order, or one per sampled token, [N].
            groups: the episodes.
            metrics: see `Credit`.
            loss_mask_N: see `Credit`.
        """
        if unit == "round":
            counts = groups.round_counts_E
        else:
            counts = np.bincount(groups.tokens.episode_N, minlength=len(groups.episodes))
        arrays = iter(np.split(values, np.cumsum(counts)[:-1]) if len(counts) else [])
        return cls(unit, [[next(arrays) for _ in group] for group in groups], metrics or {}, loss_mask_N)

    def to_tokens(self, groups: Groups) -> NDArray[np.float64]:
        """The advantage of every sampled token of `groups`, [N].

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
            wanted = groups.round_counts_E
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
                f"{owner.reward}): guard the division or the logarithm that computed it"
            )
        if self.unit == "token":
            return flat
        if self.unit == "round":
            by_round: NDArray[np.float64] = flat[groups.round_of_token_N]
            return by_round
        by_episode: NDArray[np.float64] = flat[tokens.episode_N]
        return by_episode


def _nested(method: str, unit: str, values: Sequence[Sequence[ArrayLike]]) -> list[list[NDArray[np.float64]]]:
    try:
        return [[np.asarray(v, dtype=np.float64) for v in group] for group in values]
    except (TypeError, ValueError) as error:
        wanted = f"values[group][episode] must hold one number per {unit}"
        raise _misshapen(method, wanted, error) from error


def _misshapen(method: str, wanted: str, error: Exception) -> TrainingError:
    return TrainingError(f"Credit.{method}(values): {wanted} ({error})")
