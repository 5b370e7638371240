"""Weights of a model on a CPU in huge pages of memory.

transformers maps a file of weights into memory, in pages of 4 kB. Each product of matrices then reads the addresses of more pages
than the processor keeps (65,000 for half a billion bytes), which in a virtual machine may take longer than the product. Pages of
2 MB, for which Linux can be asked where it does not use them by itself, need a five-hundredth of the addresses.
"""

from __future__ import annotations

import mmap
from typing import Any

import torch
from torch import Tensor

__all__ = ["place_model"]

_WORTHWHILE = 2**26  # bytes of weights; smaller ones fit a cache of the processor, or nearly
_ALIGNED = 64  # bytes, as torch aligns its own tensors


def place_model(model: Any, device: torch.device) -> Any:
    """The model on a device; on a CPU in huge pages, where its weights are large and the system has them.

    The values are the same. A model that is on the CPU is copied to memory of this process, so that its files may be replaced.

    Args:
        model: a torch module.
        device: the device.
    """
    model = model.to(device)
    weights = [weight for weight in model.parameters() if _movable(weight)]
    size = sum(_space(weight) for weight in weights)
    if size < _WORTHWHILE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return model
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return model
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
