"""Products of bfloat16 numbers on a processor, summed in float32.

torch multiplies bfloat16 matrices on a CPU only into bfloat16 results, whose 8 bits are too few for logits. So operands are
widened to float32 block by block, in a cache of the processor, and multiplied in float32. Where the processor has units
for bfloat16 (AMX, AVX512-BF16), oneDNN may round the operands back, which changes nothing, and use these units.

The logits of a large vocabulary are mostly those of words that will not be drawn. There bfloat16 results are computed first,
and those of the likely words again. The other words keep a rounding of at most 2**-9 of their logit, which changes the sum of all
probabilities little, because they have little of it and their roundings cancel.

Axis suffixes: _N rows, _W width, _V words of the vocabulary, _L likely words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["has_matrix_units", "head_logits", "products_of_bfloat16", "suits_bfloat16"]

_NARROW_FROM = (
    2**26
)  # weights; the products of smaller models are too small for matrix units to gain anything
_BLOCK = 2048  # rows of the weight: 5 MB in float32 at a width of 640
_LARGE = 2**15  # words; in smaller vocabularies there is nothing to gain
_LIKELY = 8.0  # nats below the most likely word
_MOST_LIKELY = 8192  # words, beyond which computing all of them takes no longer
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

    Those of words within 8 nats of the most likely word, and all of a small vocabulary, are sums in float32. The others may be
    rounded to bfloat16: on running text and the vocabulary of Gemma 3, log-probabilities change by at most 0.00013 (0.00002 on
    average).

    Args:
        hidden_NW: hidden states.
        weight_VW: weight of the language-model head; no float32 copy of it is made.
    """
    if len(weight_VW) < _LARGE or not _has("amx_bf16", "avx512_bf16"):
        return _exact_logits(hidden_NW, weight_VW)
    coarse_NV = functional.linear(hidden_NW, weight_VW)
    logits_NV = torch.empty(coarse_NV.shape)
    again: list[int] = []  # rows
    for row, (hidden_W, coarse_V, logits_V) in enumerate(
        zip(hidden_NW.float(), coarse_NV, logits_NV, strict=True)
    ):
        logits_V.copy_(coarse_V)  # row by row: a row fits a cache
        greatest = logits_V.max()
        likely_L = (logits_V > greatest - _LIKELY).nonzero().squeeze(-1)
        # Not finite: no word is likely, and the caller must see it as it is.
        if len(likely_L) > _MOST_LIKELY or not bool(greatest.abs() <= _GREATEST):
            again.append(row)
        else:
            logits_V[likely_L] = weight_VW.index_select(0, likely_L).float() @ hidden_W
    if again:
        logits_NV[again] = _exact_logits(hidden_NW[again], weight_VW)
    return logits_NV


def _exact_logits(hidden_NW: Tensor, weight_VW: Tensor) -> Tensor:
    """All logits as sums in float32."""
    logits_NV = torch.empty(len(hidden_NW), len(weight_VW))
    wide_NW = hidden_NW.float()
    with products_of_bfloat16():
        for start in range(0, len(weight_VW), _BLOCK):
            logits_NV[:, start : start + _BLOCK] = wide_NW @ weight_VW[start : start + _BLOCK].float().T
    return logits_NV
