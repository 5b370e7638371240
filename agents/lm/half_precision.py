"""Products of bfloat16 numbers on a processor, summed in float32.

torch multiplies bfloat16 matrices on a CPU only into bfloat16 results, whose 8 bits are too few for logits. So operands are
widened to float32 block by block, in a cache of the processor, and multiplied in float32. Where the processor has units
for bfloat16 (AMX, AVX512-BF16), oneDNN may round the operands back, which changes nothing, and use these units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["has_matrix_units", "head_logits", "products_of_bfloat16", "suits_bfloat16"]

_NARROW_FROM = (
    2**26
)  # weights; the products of smaller models are too small for matrix units to gain anything
_BLOCK = 2048  # rows of the weight: 5 MB in float32 at a width of 640


def has_matrix_units() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in units of their own (AMX)."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def suits_bfloat16(weights: int) -> bool:
    """Whether a model of this many weights is faster in bfloat16 than in float32 on this processor."""
    return weights >= _NARROW_FROM and has_matrix_units()


@contextmanager
def products_of_bfloat16() -> Iterator[None]:
    """A context for float32 products whose operands are bfloat16 numbers: the processor's units for these may be used."""
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    if settings is None:
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def head_logits(hidden_NW: Tensor, weight_VW: Tensor) -> Tensor:
    """Logits in float32 of bfloat16 hidden states and weights on a CPU, [N, V].

    Args:
        hidden_NW: hidden states.
        weight_VW: weight of the language-model head; no float32 copy of it is made.
    """
    logits_NV = torch.empty(len(hidden_NW), len(weight_VW))
    wide_NW = hidden_NW.float()
    with products_of_bfloat16():
        for start in range(0, len(weight_VW), _BLOCK):
            logits_NV[:, start : start + _BLOCK] = wide_NW @ weight_VW[start : start + _BLOCK].float().T
    return logits_NV
