"""The processes of a run, as the loop sees them. Here there is one, and no communication.

`distributed.data_parallel` implements the same methods for several processes. Every process holds all episodes of an
iteration and computes the same credit and the same minibatches from them; only the expensive work is divided: rollouts,
forward and backward passes. An algorithm is therefore written as if there were one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from searchgym.agents.policy import Policy, Sample

__all__ = ["World", "set_world", "world"]

T = TypeVar("T")


class World:
    """A world of one process.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        gradient_scale: factor on a loss before its backward pass, so that the gradients of all processes add up to
            the gradient of the whole minibatch.
    """

    rank: int = 0
    count: int = 1
    gradient_scale: float = 1.0

    @property
    def main(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    # -- communication -----------------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank."""
        return [value]

    def from_main(self, value: Callable[[], T]) -> T:
        """The result of a function that only the main process calls.

        Args:
            value: the function. A `SearchGymError` it raises is raised in all processes.
        """
        return value()

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """The items this process works on: every `count`-th. `all_gather_ordered` collects the results."""
        return items

    def all_gather_ordered(self, mine: Sequence[T]) -> list[T]:
        """The results of all processes, in the order of the items that `shard` divided."""
        return list(mine)

    # -- learning ----------------------------------------------------------------------------------------------

    def assign(self, policy: Policy, samples: Sequence[Sample]) -> list[int]:
        """Positions of the samples that this process evaluates: costs nearly equal, groups kept together."""
        return list(range(len(samples)))

    def pad_passes(self, parts: list[T], spare: T) -> list[tuple[T, bool]]:
        """Equalize the number of forward passes where all processes must make the same number.

        Args:
            parts: the passes of this process.
            spare: what an additional pass evaluates.

        Returns:
            (part, True) for each part, then (spare, False) for each additional pass, whose result does not count.
        """
        return [(part, True) for part in parts]

    def by_mesh(self, parameters: dict[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
        """A module's parameters in parts that one optimizer step can take together (sharded, not sharded)."""
        return [parameters] if parameters else []

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their sum over the processes."""

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale gradients down to a norm of at most `limit`; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def any(self, flag: bool) -> bool:
        """Whether the flag is True in any process."""
        return flag

    def sum_metrics(
        self, sums: Mapping[str, Tensor], largest: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sums of the first mapping and maxima of the second over the processes."""
        return dict(sums), dict(largest)

    # -- weights -----------------------------------------------------------------------------------------------

    def broadcast_weights(self, policy: Policy) -> None:
        """Give all processes the main one's weights and, under FSDP, shard them."""

    @contextmanager
    def playing(self, policy: Policy) -> Iterator[None]:
        """Keep weights gathered, so that each process may make as many forward passes as it needs."""
        yield

    @contextmanager
    def unsharded(self, policy: Policy, *, load: bool = False) -> Iterator[None]:
        """Parameters are plain, whole tensors inside the context. All processes must enter it.

        Args:
            policy: the policy.
            load: keep what is written into the parameters.
        """
        yield

    def full(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor that may be sharded. All processes must call it in the same order."""
        return tensor

    def reshard_like(self, tensor: Tensor, like: Tensor) -> Tensor:
        """The reverse of `full`, for a tensor that is sharded like the parameter `like`."""
        return tensor

    def local(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor that may be sharded."""
        return tensor


_world = World()


def world() -> World:
    """The processes of this run."""
    return _world


def set_world(joined: World) -> None:
    """Set the processes of this run; a program with several processes has one run."""
    global _world
    _world = joined
