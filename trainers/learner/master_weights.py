"""Float32 copies of weights of a lower precision.

A step of 1e-6 is far below the resolution of bfloat16 for a weight near 1 (the next number is 0.8 % away), so most steps
would be rounded away. The optimizer therefore steps on float32 copies, gradients are accumulated in float32, and the
model gets the rounded copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["MasterWeights"]


class MasterWeights:
    """Float32 copies of the weights that need one.

    Args:
        weights: all weights that are trained.

    Attributes:
        parameters: what an optimizer steps on, in the order of `weights`: the copies, or the weights themselves.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {
            i: (weight, nn.Parameter(weight.detach().float().clone()))
            for i, weight in enumerate(weights)
            if weight.dtype in (torch.bfloat16, torch.float16)
        }
        self.parameters = [self._pairs[i][1] if i in self._pairs else p for i, p in enumerate(weights)]

    def named(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The copies by the names of their weights, for a checkpoint."""
        return {names[i]: master.detach() for i, (_, master) in self._pairs.items()}

    @contextmanager
    def accumulating_grads(self) -> Iterator[None]:
        """Inside the context each gradient is moved to its copy as soon as it is complete, so that no two sets are in memory."""
        handles = [
            weight.register_post_accumulate_grad_hook(partial(_move_gradient, master))  # type: ignore[no-untyped-call]
            for weight, master in self._pairs.values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Round the copies into the model's weights."""
        for weight, master in self._pairs.values():
            weight.copy_(master)


def _move_gradient(master: nn.Parameter, weight: Tensor) -> None:
    if weight.grad is not None:
        gradient = weight.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        weight.grad = None
