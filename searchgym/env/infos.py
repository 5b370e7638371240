"""Infos of a vector environment, stacked when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from ..records.episode import RoundRecord
from .episode_start import EpisodeStart

__all__ = ["InfoSource", "Restarted", "VectorInfos"]


class InfoSource(Protocol):
    """What the info of one slot is derived from: a `RoundRecord`, or the start of an episode."""

    def to_info(self) -> dict[str, Any]:
        """A fresh info of a single environment."""


class Restarted:
    """The info of a slot whose episode ended and was replaced in the same step.

    Args:
        last: the last record of the episode that ended.
        start: of the new episode.
    """

    __slots__ = ("last", "start")

    def __init__(self, last: RoundRecord, start: EpisodeStart) -> None:
        self.last, self.start = last, start

    def to_info(self) -> dict[str, Any]:
        """See `InfoSource`: the info of the new episode, with the last observation and info of the old one."""
        final = {"final_obs": self.last.observation, "final_info": self.last.to_info()}
        return final | self.start.to_info()


class VectorInfos(dict[str, Any]):
    """The infos of a call of `reset` or `step`, laid out as Gymnasium's own vector environments stack them.

    A key of the single environment's info is an array with one entry per slot (nested dicts are dicts of arrays), and
    `_key` is the mask of the slots that have the key: `infos["outcome"]["em"][i]`. Building these arrays takes longer than a
    step, so it happens at the first access. A copy or a pickle is a plain dict.

    Args:
        num_envs: number of slots.
        sources: where the info of each slot comes from; slots that took no part in the call are absent.
    """

    def __init__(self, num_envs: int, sources: Mapping[int, InfoSource]) -> None:
        # Not empty where the filled infos are not: json's encoder looks at the raw size before it asks for the items.
        super().__init__({"schema": None} if sources else {})
        self._num_envs = num_envs
        self._sources = sources
        self._filled = False

    @property
    def active(self) -> NDArray[np.bool_]:
        """Which slots took part in the call, [num_envs]."""
        mask = np.zeros(self._num_envs, dtype=np.bool_)
        mask[list(self._sources)] = True
        return mask

    def rows(self) -> list[dict[str, Any]]:
        """The infos of the single environments, one per slot; {} for a slot that took no part in the call."""
        return [
            self._sources[slot].to_info() if slot in self._sources else {} for slot in range(self._num_envs)
        ]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (dict, (dict(self),))

    def _fill(self) -> None:
        if not self._filled:
            stacker = VectorEnv[Any, Any, Any]()
            stacker.num_envs = self._num_envs
            columns: dict[str, Any] = {}
            for slot in sorted(self._sources):
                # Gymnasium's own stacking, so that every vectorization mode has one layout.
                columns = stacker._add_info(columns, self._sources[slot].to_info(), slot)
            dict.clear(self)
            dict.update(self, columns)
            self._filled = True  # not before: an interrupted fill is repeated


def _filling(name: str) -> Callable[..., Any]:
    """A method of `dict` that fills the infos first."""
    method = getattr(dict, name)

    def filled(self: VectorInfos, *args: Any, **kwargs: Any) -> Any:
        self._fill()
        return method(self, *args, **kwargs)

    filled.__name__ = name
    filled.__doc__ = method.__doc__
    return filled


for _name in (
    "__contains__ __delitem__ __eq__ __getitem__ __ior__ __iter__ __len__ __ne__ __or__ __repr__ __reversed__ __ror__ "
    "__setitem__ clear copy get items keys pop popitem setdefault update values"
).split():
    setattr(VectorInfos, _name, _filling(_name))
