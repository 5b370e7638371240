"""Weights of a model on a CPU in memory of the process, in huge pages.

transformers maps a file of weights into memory. A loaded model then changes with its file: `cp` of another checkpoint over it
changes even weights that were trained since. And the file is mapped in pages of 4 kB: each product of matrices reads the
addresses of more pages than the processor keeps (130,000 for half a gigabyte), which in a virtual machine may take longer than the
product itself. Pages of 2 MB, for which Linux can be asked where it does not use them by itself, need a five-hundredth of them.
"""

from __future__ import annotations

import contextlib
import mmap
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["place_model"]

_ALIGNED = 64  # bytes, as torch aligns its own tensors
# Not shared with forked processes.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


def place_model(model: Any, device: torch.device) -> Any:
    """The model on a device; on a CPU in memory of the process, in huge pages where the system has them. Its values are the same.

    Args:
        model: a torch module.
        device: the device.
    """
    model = model.to(device)
    weights = [weight for weight in chain(model.parameters(), model.buffers()) if _movable(weight)]
    size = sum(map(_space, weights))
    if not size:
        return model
    memory = mmap.mmap(-1, size, **_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    begin = 0
    for weight in weights:
        place = torch.frombuffer(memory, dtype=weight.dtype, count=weight.numel(), offset=begin)
        weight.data = place.view(weight.shape).copy_(weight.data)
        begin += _space(weight)
    return model


def _movable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.is_contiguous() and weight.numel() > 0


def _space(weight: Tensor) -> int:
    return -(-weight.nbytes // _ALIGNED) * _ALIGNED
