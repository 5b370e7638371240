"""Products of bfloat16 numbers on a processor, summed in float32.

torch multiplies bfloat16 matrices on a CPU only into bfloat16 results, whose 8 bits are too few for logits. So operands are
widened to float32 block by block, in a cache of the processor, and multiplied in float32. Where the processor has units
for bfloat16 (AMX, AVX512-BF16), oneDNN may round the operands back, which changes nothing, and use these units.

To sample from a large vocabulary, bfloat16 results are computed first, and the likely words again (`rounded_head_logits`). The
others keep a rounding of at most 2**-9 of their logit, which changes the sum of all probabilities little, because they have
little of it and their roundings cancel.

Axis suffixes: _N hidden states, _W width, _V words of the vocabulary, _L likely words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "has_matrix_units",
    "head_logits",
    "products_of_bfloat16",
    "rounded_head_logits",
    "rounds_well",
    "suits_bfloat16",
    "word_logits",
]

_NARROW_FROM = (
    2**26
)  # weights; the products of smaller models are too small for matrix units to gain anything
_BLOCK = 2048  # rows of the weight: 5 MB in float32 at a width of 640
_LARGE = 2**15  # words; in smaller vocabularies there is nothing to gain
_LIKELY = 8.0  # nats below the most likely word
_MOST_LIKELY = 2048  # words: each of the others then has less than a 2048th
_GREATEST = 64.0  # logit, beyond which bfloat16 results are too coarse


def has_matrix_units() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in units of their own (AMX)."""
    return _has("amx_bf16")


def _has(*features: str) -> bool:
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(feature) for feature in features)


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


def rounds_well(weight_VW: Tensor) -> bool:
    """Whether `rounded_head_logits` is faster than `head_logits` with this weight."""
    large = weight_VW.dtype == torch.bfloat16 and len(weight_VW) >= _LARGE
    return large and weight_VW.device.type == "cpu" and _has("amx_bf16", "avx512_bf16")


def rounded_head_logits(hidden_NW: Tensor, weight_VW: Tensor) -> Tensor:
    """`head_logits` to sample from: those of unlikely words are rounded to bfloat16.

    The logits of words within 8 nats of the most likely one, of 2,048 words at most, are sums in float32. An unlikely word that is
    drawn needs its own logit again (`word_logits`). Then log-probabilities change by at most 0.00012 with Gemma 3 270M on
    running text, 0.00003 on average; by 0.0005 and 0.00006 at temperature 1.5.
    """
    coarse_NV = functional.linear(hidden_NW, weight_VW)
    logits_NV = torch.empty(coarse_NV.shape)
    again: list[int] = []  # rows of logits that are large, or not finite
    for row, (hidden_W, coarse_V, logits_V) in enumerate(
        zip(hidden_NW.float(), coarse_NV, logits_NV, strict=True)
    ):
        logits_V.copy_(coarse_V)  # row by row: a row fits a cache
        greatest = logits_V.max()
        likely_L = (logits_V > greatest - _LIKELY).nonzero().squeeze(-1)
        if not bool(greatest.abs() <= _GREATEST):
            again.append(row)
            continue
        if len(likely_L) > _MOST_LIKELY:
            likely_L = likely_L[logits_V[likely_L].topk(_MOST_LIKELY).indices]
        logits_V[likely_L] = weight_VW.index_select(0, likely_L).float() @ hidden_W
    if again:
        logits_NV[again] = head_logits(hidden_NW[again], weight_VW)
    return logits_NV


def word_logits(hidden_NW: Tensor, weight_VW: Tensor, words_N: Tensor) -> Tensor:
    """The logit of one word per row, a sum in float32, [N]."""
    return (hidden_NW.float() * weight_VW.index_select(0, words_N).float()).sum(-1)
