"""One stream of random numbers per running episode.

A policy that draws from one generator for all its slots samples other acts as soon as other episodes run beside
one. With a stream of its own an episode does not notice: who plays it, beside which others and in which slot
changes nothing but the rounding of a batched matrix product. Training on several processes or with rollout workers
plays that way (`searchgym.rollouts.collection(..., seeds=…)`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Streams"]


class Streams:
    """Seeded generators, one per slot."""

    def __init__(self) -> None:
        self._generators: dict[int, np.random.Generator] = {}

    def start(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """New episodes start in these slots; seeds are whole numbers from 0 on."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._generators[slot] = np.random.default_rng(seed)

    def fork(self, source: int, target: int) -> None:
        """Start a stream in `target`: another one than `source`'s, fixed by its seed and the forks made of it."""
        self._generators[target] = self._generators[source].spawn(1)[0]

    def uniform(self, slots: Sequence[int], count: int) -> NDArray[np.float32]:
        """The next numbers in [0, 1) of each slot, [len(slots), count]: how many are used changes no later draw."""
        return np.stack([self._generators[slot].random(count, dtype=np.float32) for slot in slots])

    def seeds(self, slots: Sequence[int]) -> list[int]:
        """A seed per slot below 2**63, for an engine that draws in another process."""
        return [int(self._generators[slot].integers(2**63)) for slot in slots]
