"""Float32 copies of weights of a lower precision.

A step of 1e-6 is far below what bfloat16 can add to a weight near 1 (its next number is 0.8 % away): most steps would
round to nothing. So the optimizer steps on float32 copies, gradients are added up in float32, and the model gets the
copies rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["MasterWeights"]


class MasterWeights:
    """The copies of those weights that need one.

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
        """While gradients are computed each goes to its copy at once: two of all weights would take too much memory."""
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
        """Give the model the copies, rounded."""
        for weight, master in self._pairs.values():
            weight.copy_(master)


def _move_gradient(master: nn.Parameter, weight: Tensor) -> None:
    if weight.grad is not None:
        gradient = weight.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        weight.grad = None
