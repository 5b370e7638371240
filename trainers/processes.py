"""The processes of a run, as the loop sees them. Here there is one, and nothing is to be exchanged.

`distributed.py` has the same methods for many. Every process holds all episodes of an iteration and computes the same
credit and the same minibatches from them; what is shared out is what takes time: playing, forward and backward
passes. So an algorithm is written as if there were one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from searchgym.agents.policy import Policy, Sample

__all__ = ["Processes", "current", "use"]

T = TypeVar("T")


class Processes:
    """One process.

    Attributes:
        rank: which process this is, from 0.
        count: how many there are.
        gradient_scale: what a loss is multiplied with before its backward pass, so that the gradients of all
            processes add up to that of the whole minibatch.
    """

    rank: int = 0
    count: int = 1
    gradient_scale: float = 1.0

    @property
    def main(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    # -- exchanging --------------------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank."""
        return [value]

    def main_says(self, value: Callable[[], T]) -> T:
        """What the function gives, called in the main process only; its `SearchGymError` is raised in all."""
        return value()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items this process takes care of: every `count`-th. See `merge`."""
        return items

    def merge(self, mine: Sequence[T]) -> list[T]:
        """Everybody's results of the items of `share`, in the order of the items."""
        return list(mine)

    # -- learning ----------------------------------------------------------------------------------------------

    def own(self, policy: Policy, samples: Sequence[Sample]) -> list[int]:
        """Positions of the samples this process takes through the model: nearly equal costs, groups stay whole."""
        return list(range(len(samples)))

    def level(self, parts: list[T], spare: T) -> list[tuple[T, bool]]:
        """The parts with True; where all must make equally many passes, `spare` with False after them."""
        return [(part, True) for part in parts]

    def alike(self, parameters: dict[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
        """A module's weights in parts that one optimizer step can take together."""
        return [parameters] if parameters else []

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their sum over the processes."""

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale gradients down to a norm of `limit`; gives the norm before."""
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def sum_metrics(
        self, sums: Mapping[str, Tensor], largest: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sums and maxima over the processes."""
        return dict(sums), dict(largest)

    # -- weights -----------------------------------------------------------------------------------------------

    def spread(self, policy: Policy) -> None:
        """Give all processes the main one's weights and, where it was asked for, cut them into shards."""

    @contextmanager
    def playing(self, policy: Policy) -> Iterator[None]:
        """Weights are in one piece, so that processes may call the model as often as each needs."""
        yield

    @contextmanager
    def in_one_piece(self, policy: Policy, *, load: bool = False) -> Iterator[None]:
        """Parameters are plain tensors, to be saved; with `load`, what is written into them is kept. All enter."""
        yield

    def full(self, tensor: Tensor) -> Tensor:
        """A tensor that may be cut into shards, in one piece. All processes call it in the same order."""
        return tensor

    def cut_like(self, tensor: Tensor, like: Tensor) -> Tensor:
        """The reverse of `full`, for a tensor that goes with the weights `like`."""
        return tensor

    def local(self, tensor: Tensor) -> Tensor:
        """What this process has of a tensor."""
        return tensor


_current = Processes()


def current() -> Processes:
    """Those of this run."""
    return _current


def use(processes: Processes) -> None:
    """Make them those of this run; there is one run in a program that has several processes."""
    global _current
    _current = processes
