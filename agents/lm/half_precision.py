"""Products of bfloat16 numbers on a processor, summed in float32.

torch multiplies bfloat16 matrices on a CPU only into bfloat16 results, whose 8 bits are too few for logits. So operands are
widened to float32 block by block, in a cache of the processor, and multiplied in float32. Where the processor has units
for bfloat16 (AMX, AVX512-BF16), oneDNN may round the operands back, which changes nothing, and use these units.

Widening takes longer than matrix units (AMX) need for the product. With these, the logits of a large vocabulary are two
bfloat16 numbers each: the rounded sum, and what the rounding left, from a second product that adds to the first inside the
kernel, in float32. Together they have 16 bits.
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
_TWICE_FROM = 2**15  # words; torch may multiply small matrices in other ways than in matrix units
_TWICE_BLOCK = 2**13  # words


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
    if len(weight_VW) >= _TWICE_FROM and has_matrix_units():
        _multiply_twice(hidden_NW, weight_VW, logits_NV)
        return logits_NV
    wide_NW = hidden_NW.float()
    with products_of_bfloat16():
        for start in range(0, len(weight_VW), _BLOCK):
            logits_NV[:, start : start + _BLOCK] = wide_NW @ weight_VW[start : start + _BLOCK].float().T
    return logits_NV


def _multiply_twice(hidden_NW: Tensor, weight_VW: Tensor, logits_NV: Tensor) -> None:
    """Write the logits as the module docstring says. The weight stands on the left, where oneDNN reads it as it lies."""
    hidden_WN = hidden_NW.T.contiguous()
    for start in range(0, len(weight_VW), _TWICE_BLOCK):
        weight_BW = weight_VW[start : start + _TWICE_BLOCK]
        negative_BN = weight_BW @ -hidden_WN
        rest_BN = torch.addmm(negative_BN, weight_BW, hidden_WN)
        logits_NV[:, start : start + _TWICE_BLOCK] = (rest_BN.float() - negative_BN).T
