"""One random stream per running episode.

A policy that draws from one generator for all its slots samples different acts as soon as other episodes run at the same
time. With a stream of its own, an episode depends only on its seed: the process that plays it, the slot and the
neighbouring episodes change nothing but the rounding of batched matrix products. Training on several processes or with
rollout workers plays this way (`searchgym.rollouts.collect(..., seeds=…)`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["RngStreams"]


class RngStreams:
    """Seeded generators, one per slot."""

    def __init__(self) -> None:
        self._generators: dict[int, np.random.Generator] = {}

    def start(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Start a stream in each slot.

        Args:
            slots: the slots; a stream that is already there is replaced.
            seeds: one non-negative integer per slot.
        """
        for slot, seed in zip(slots, seeds, strict=True):
            self._generators[slot] = np.random.default_rng(seed)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Start a new stream in each target slot.

        The streams differ from each other and from the source's, which continues unchanged. They are determined by the
        source's seed and the number of forks made of it before.
        """
        others = [slot for slot in targets if slot != source]
        for slot, generator in zip(others, self._generators[source].spawn(len(others)), strict=True):
            self._generators[slot] = generator

    def uniform(self, slots: Sequence[int], count: int) -> NDArray[np.float32]:
        """The next `count` numbers in [0, 1) of each slot, [len(slots), count].

        All of them are consumed, so the number that the caller really uses does not change later draws.
        """
        return np.stack([self._generators[slot].random(count, dtype=np.float32) for slot in slots])

    def seeds(self, slots: Sequence[int]) -> list[int]:
        """One seed per slot, below 2**63, for an engine that samples in another process."""
        return [int(self._generators[slot].integers(2**63)) for slot in slots]
