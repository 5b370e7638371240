"""The numbers of an update, summed over minibatches and processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..processes import world
from .importance import ratio_statistics

__all__ = ["UpdateMetrics"]


class UpdateMetrics:
    """Sums metrics over micro-batches and averages them over the minibatches of an iteration.

    Tensors stay on their device until `result`, so that logging does not wait for an accelerator.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.updates = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One micro-batch's parts (see `Batch.mean`)."""
        for name, value in values.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def largest(self, name: str, value: Tensor) -> None:
        """Record a value whose maximum over the iteration is kept."""
        value = value.detach()
        self._largest[name] = torch.maximum(self._largest[name], value) if name in self._largest else value

    def compare(self, engine_N: Tensor, trainer_N: Tensor) -> None:
        """Record log-probabilities of the same tokens, as sampled and as the trainer computes them before the update."""
        self._pairs.append((engine_N.detach(), trainer_N.detach()))

    def result(self) -> dict[str, float]:
        """The metrics as plain numbers, over all processes."""
        sums, maxima = world().sum_metrics(self._sums, self._largest)
        means = {name: float(value) / max(self.updates, 1) for name, value in sums.items()}
        largest = {name: float(value) for name, value in maxima.items()}
        mine = [(engine_N.cpu(), trainer_N.cpu()) for engine_N, trainer_N in self._pairs]
        pairs = [pair for part in world().gather(mine) for pair in part]
        if not pairs:
            return means | largest
        engine_N, trainer_N = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return means | largest | ratio_statistics(engine_N, trainer_N)
