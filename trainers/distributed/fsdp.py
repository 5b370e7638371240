"""FSDP: the layers' weights, gradients and optimizer states are sharded over the processes.

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 4 -m searchgym train --agent hf …

This is torch's `fully_shard` as accelerate's plugin sets it up. Specific to reinforcement learning:

- The decoder is sharded; embeddings and output head stay whole on every process (log-probabilities are computed from
  the head's weight in blocks, outside any forward pass that FSDP could see).
- During rollouts, weights are gathered once and stay whole: processes make different numbers of forward passes then, and
  a pass that gathers weights would wait for the others.
- During an update all processes make the same number of passes; a process with fewer micro-batches adds passes of
  weight 0.
- FSDP averages gradients over processes. Token weights are those of the whole minibatch, so the sum is needed: losses are
  multiplied by the number of processes, and gradients of weights that are not sharded are divided by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from searchgym.agents.policy import Policy
from searchgym.errors import ConfigError

from .data_parallel import Distributed

__all__ = ["Sharded"]

T = TypeVar("T")


class Sharded(Distributed):
    """One of several processes, each with a shard of the weights."""

    def __init__(self, accelerator: Any, timeout: float) -> None:
        super().__init__(accelerator, timeout)
        from accelerate.utils import FullyShardedDataParallelPlugin

        self.gradient_scale = float(self.count)
        state = accelerator.state
        # On a CPU accelerate omits the plugin, although torch can shard weights there.
        plugin = getattr(state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap"
        )
        if plugin.fsdp_version != 2:
            raise ConfigError("FSDP version 1 does not support rollouts: launch with --fsdp_version 2")
        plugin.cpu_ram_efficient_loading = False  # every process has opened the model
        plugin.reshard_after_forward = True
        self._plugin = state.fsdp_plugin = plugin

    def broadcast_weights(self, policy: Policy) -> None:
        super().broadcast_weights(policy)
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        decoder: Any = policy.fsdp_module()
        if decoder is None:
            raise ConfigError(
                f"agent {policy.name!r} cannot be sharded with these options: FSDP needs passes through the model's own "
                'forward(); for agent "hf" give --agent-option attention=sdpa, or train without --use_fsdp'
            )
        self._plugin.ignored_modules = [decoder.get_input_embeddings()]
        fsdp2_prepare_model(self.accelerator, decoder)
        for module in _sharded(
            policy
        ):  # weights that stay gathered after a reference pass would be the reference's
            module.set_reshard_after_forward(True, recurse=False)

    # -- learning ----------------------------------------------------------------------------------------------

    def pad_passes(self, parts: list[T], spare: T) -> list[tuple[T, bool]]:
        passes = max(self.gather(len(parts)))
        return [(part, True) for part in parts] + [(spare, False)] * (passes - len(parts))

    def by_mesh(self, parameters: dict[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
        kinds: tuple[dict[str, nn.Parameter], ...] = ({}, {})
        for name, parameter in parameters.items():
            kinds[isinstance(parameter, DTensor)][name] = parameter
        return [kind for kind in kinds if kind]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        whole = [p for p in parameters if not isinstance(p, DTensor)]
        super().sum_gradients(whole)
        for p in whole:
            if p.grad is not None:
                p.grad /= self.gradient_scale

    @torch.no_grad()
    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = [torch.zeros((), device=g.device) for g in gradients[:1]] * 2  # sharded, whole
        for gradient in gradients:
            whole = not isinstance(gradient, DTensor)
            squares[whole] = squares[whole] + self.local(gradient).float().square().sum()
        if not squares:
            return torch.zeros(())
        with self._others():
            dist.all_reduce(squares[0])
        norm = (squares[0] + squares[1]).sqrt()
        for gradient in gradients:
            self.local(gradient).mul_((limit / (norm + 1e-6)).clamp(max=1.0).to(gradient.dtype))
        return norm

    # -- weights -----------------------------------------------------------------------------------------------

    @contextmanager
    def playing(self, policy: Policy) -> Iterator[None]:
        for module in _sharded(policy):
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in _sharded(policy):
                module.set_reshard_after_forward(True, recurse=False)
                module.reshard()

    @contextmanager
    def unsharded(self, policy: Policy, *, load: bool = False) -> Iterator[None]:
        whole: dict[nn.Parameter, nn.Parameter] = {}  # on the CPU: all weights may not fit on one device
        places: list[tuple[nn.Module, str, nn.Parameter]] = [
            (module, name, parameter)
            for module in policy.module.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and isinstance(parameter, DTensor)
        ]
        for module, name, parameter in places:
            if parameter not in whole:
                full = self.full(parameter.detach())
                whole[parameter] = nn.Parameter(full.cpu(), requires_grad=parameter.requires_grad)
            module._parameters[name] = whole[parameter]
        try:
            yield
        finally:
            for module, name, parameter in places:
                module._parameters[name] = parameter
        if load:
            with torch.no_grad():
                for parameter, full in whole.items():
                    parameter.copy_(self.reshard_like(full.detach(), parameter))

    def full(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        with self._others():
            return tensor.full_tensor()

    def reshard_like(self, tensor: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor) or tensor.shape != like.shape:
            return tensor
        with self._others():
            return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sharded(policy: Policy) -> list[FSDPModule]:
    return [module for module in policy.module.modules() if isinstance(module, FSDPModule)]
