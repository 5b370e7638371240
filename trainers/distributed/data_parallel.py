"""Several processes train one policy: `torchrun` or `accelerate launch` start them, accelerate connects them.

    accelerate launch --num_processes 4 -m searchgym train …

Each process plays its share of the questions (groups stay whole), then all processes exchange their episodes. Every
process thus holds the whole iteration and computes the same credit, minibatches and token weights from it, and an
algorithm is written as if there were one process. Of each minibatch a process evaluates its share of the samples. Token
weights are those of the whole minibatch, so the gradients of the processes add up to the gradient that one process would
have computed; they are summed once per optimizer step. (A wrapper that averages gradients over processes, like
`DistributedDataParallel`, would make a token's weight depend on the number of other tokens in its process.)

Every episode draws from its own random stream (`streams=episode`), so the result does not depend on the process that
plays it. Only the main process writes the run directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from searchgym.agents.policy import Policy, Sample
from searchgym.errors import SearchGymError

from ..processes import World

__all__ = [
    "Distributed",
    "LostProcessError",
]

T = TypeVar("T")

_BUCKET = (
    64 * 1024 * 1024
)  # elements summed in one call: a second copy of a large model's gradients would not fit


class LostProcessError(SearchGymError):
    """Another process of the run has ended or does not answer."""


class Distributed(World):
    """One of several processes.

    Args:
        accelerator: an `accelerate.Accelerator`, which holds the default process group.
        timeout: seconds to wait for other processes.
    """

    def __init__(self, accelerator: Any, timeout: float) -> None:
        self.accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self._timeout = timeout
        # Objects are exchanged on the CPU; episodes in a separate group, because a thread may be collecting ahead.
        group_timeout = timedelta(seconds=timeout)
        self._control = dist.new_group(backend="gloo", timeout=group_timeout)
        self._playing = dist.new_group(backend="gloo", timeout=group_timeout)

    # -- exchanging --------------------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        return self._gather(value, self._control)

    def from_main(self, value: Callable[[], T]) -> T:
        said: tuple[T | None, SearchGymError | None] = (None, None)
        if self.main:
            try:
                said = (value(), None)
            except SearchGymError as error:
                said = (None, error)
        result, refusal = self.gather(said)[0]
        if refusal is not None:
            raise refusal
        return result  # type: ignore[return-value]

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.rank :: self.count]

    def all_gather_ordered(self, mine: Sequence[T]) -> list[T]:
        parts = self._gather(list(mine), self._playing)
        return [parts[i % self.count][i // self.count] for i in range(sum(map(len, parts)))]

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def _gather(self, value: T, group: Any) -> list[T]:
        values: list[Any] = [None] * self.count
        with self._others():
            dist.all_gather_object(values, value, group=group)
        return values

    def _others(self) -> Any:
        return lost_process(f"process {self.rank} of {self.count}", self._timeout)

    # -- learning ----------------------------------------------------------------------------------------------

    def assign(self, policy: Policy, samples: Sequence[Sample]) -> list[int]:
        costs = [policy.cost(sample) for sample in samples]
        groups = [sample.episode.group_id for sample in samples]
        by_group = (
            len(set(groups)) >= self.count
        )  # common prefixes cost less when they are evaluated together
        units: dict[Any, list[int]] = {}
        for i, group in enumerate(groups):
            units.setdefault(group if by_group else i, []).append(i)
        loads, owned = [0] * self.count, []
        for members in sorted(units.values(), key=lambda members: -sum(costs[i] for i in members)):
            lightest = loads.index(min(loads))
            loads[lightest] += sum(costs[i] for i in members)
            owned += members if lightest == self.rank else []
        return sorted(owned)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        with self._others():
            dist.all_reduce(present, group=self._control)
            used = [p for p, processes in zip(parameters, present.tolist(), strict=True) if processes]
            for p in used:
                if p.grad is None:  # no sample of this process has a gradient for it
                    p.grad = torch.zeros_like(p)
            for bucket in _buckets([self.local(p.grad) for p in used if p.grad is not None]):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                sizes = [gradient.numel() for gradient in bucket]
                for gradient, total in zip(bucket, torch.split(flat, sizes), strict=True):
                    gradient.copy_(total.view_as(gradient))

    def sum_metrics(
        self, sums: Mapping[str, Tensor], largest: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        def reduce(values: Mapping[str, Tensor], join: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
            parts = self.gather({name: value.cpu() for name, value in values.items()})
            names = dict.fromkeys(name for part in parts for name in part)
            return {n: join(torch.stack([part[n] for part in parts if n in part])) for n in names}

        return reduce(sums, lambda v: v.sum(0)), reduce(largest, lambda v: v.amax(0))

    # -- weights -----------------------------------------------------------------------------------------------

    def broadcast_weights(self, policy: Policy) -> None:
        with self._others(), torch.no_grad():
            for tensor in (*policy.module.parameters(), *policy.module.buffers()):
                dist.broadcast(tensor.data, 0)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Divide tensors into parts of one type and device each, of limited size; the same way in every process."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for kind in kinds.values():
        bucket: list[Tensor] = []
        for tensor in kind:
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


@contextmanager
def lost_process(who: str, timeout: float) -> Iterator[None]:
    """Turn failures of communication into an error that explains them.

    Args:
        who: this process, for the message.
        timeout: seconds to wait for others, for the message.

    Raises:
        LostProcessError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:  # also torch's DistError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LostProcessError(
            f"{who} of this run has lost another one, which has ended (see its own message) or did not answer "
            f"within {timeout:g} s: {reason}. The last checkpoint is complete: start the processes again "
            "with --resume"
        ) from error
