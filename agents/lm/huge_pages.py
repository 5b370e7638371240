"""Copies the weights of a model on a CPU into the process's own memory, large ones into huge pages.

transformers maps a file of weights into memory and reads it in place. Two things follow:

- A loaded model changes with its file: `cp` of another checkpoint over it changes even weights that were trained since.
- The pages are of 4 kB. A product of large matrices touches more of them (130,000 for half a gigabyte) than the TLB, the processor's
  cache of page addresses, holds, and in a virtual machine a TLB miss is dear. Linux gives pages of 2 MB to whoever asks.
"""

from __future__ import annotations

import contextlib
import mmap
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["place_model"]

_HUGE = 2**21  # bytes of a huge page
# Not shared with forked processes.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


def place_model(model: Any, device: torch.device) -> Any:
    """The model on a device; on a CPU in memory of the process's own, in huge pages where the system has them.

    Values, ties and strides stay. Quantised weights and other subclasses of tensors stay where they are, and so does everything if
    there is no memory for a copy.

    Args:
        model: a torch module.
        device: the device.
    """
    model = model.to(device)
    copies: dict[tuple[Any, ...], Tensor] = {}  # weights that share memory keep sharing it
    with contextlib.suppress(OSError, MemoryError, RuntimeError):  # no memory: the rest is read from the file
        for weight in chain(model.parameters(), model.buffers()):
            data = weight.data
            if data.device.type != "cpu" or type(data) is not Tensor or data.layout is not torch.strided:
                continue
            if data.is_quantized or not data.numel():
                continue
            key = data.data_ptr(), data.dtype, data.shape, data.stride()
            if key not in copies:
                copies[key] = _copied(data)
            weight.data = copies[key]
    return model


def _copied(data: Tensor) -> Tensor:
    """A copy in memory of its own: freed when the copy is no longer used, so that parts of a model can be."""
    if data.nbytes < _HUGE or not data.is_contiguous() or not hasattr(mmap, "MADV_HUGEPAGE"):
        return data.clone()
    memory = mmap.mmap(-1, -(-data.nbytes // _HUGE) * _HUGE, **_PRIVATE)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=data.dtype, count=data.numel()).view(data.shape).copy_(data)
