"""What both implementations of `interface.Network` share: the way from hidden states to log-probabilities.

Axis suffixes as in `interface`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .half_precision import head_logits, rounded_head_logits, rounds_well, word_logits
from .interface import KVShape
from .token_logprobs import token_logprobs

__all__ = ["BaseNetwork"]

_NO_LIMIT = 2**31


class BaseNetwork:
    """Shape of the model, and the way from hidden states to log-probabilities.

    Args:
        model: transformers' model.
        whole_logits: compute all logits of a training pass at once (for a small vocabulary) instead of in blocks
            (`token_logprobs`).
        checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(self, model: Any, *, whole_logits: bool = False, checkpointing: bool = False) -> None:
        config = model.config.get_text_config()
        self.model = model
        self.kv_shapes: dict[int, KVShape] = {}
        self.windowed: frozenset[int] = frozenset()
        self.window = 0
        self.pads = True
        self.width: int = config.hidden_size
        self.positions: int = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
        self.pass_tokens = 4096
        self.checkpointing = checkpointing
        self._whole = whole_logits
        self._head = model.get_output_embeddings()
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        factors = [getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier")]
        divisor = getattr(config, "logits_scaling", None)
        self._scale = math.prod(1.0 if f is None else f for f in factors) / (
            1.0 if divisor is None else divisor
        )

    @property
    def device(self) -> torch.device:
        """See `Network`."""
        weight: Tensor = self._head.weight
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        """See `Network`."""
        weight: Tensor = self._head.weight
        return weight.dtype

    @property
    def _plain(self) -> bool:
        """Whether the logits are a linear map of the hidden states only."""
        return type(self._head) is nn.Linear and self._cap is None and self._scale == 1.0

    def logits(self, hidden_NW: Tensor) -> Tensor:
        """See `Network`. Half-precision products are summed in float32."""
        weight: Tensor = self._head.weight
        if type(self._head) is not nn.Linear or weight.dtype == torch.float32:
            logits_NV: Tensor = self._head(hidden_NW).float()
        else:
            if weight.is_cuda:
                logits_NV = torch.mm(hidden_NW, weight.T, out_dtype=torch.float32)
            elif weight.dtype == torch.bfloat16 and not torch.is_grad_enabled():
                logits_NV = head_logits(hidden_NW, weight)
            else:
                logits_NV = functional.linear(hidden_NW.float(), weight.float())
            if self._head.bias is not None:
                logits_NV = logits_NV + self._head.bias
        return self._shaped(logits_NV)

    def _shaped(self, logits: Tensor) -> Tensor:
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    @property
    def _rounds(self) -> bool:
        return (
            type(self._head) is nn.Linear
            and getattr(self._head, "bias", None) is None
            and rounds_well(self._head.weight)
        )

    def logits_to_sample(self, hidden_NW: Tensor) -> Tensor:
        """See `Network`."""
        if not self._rounds:
            return self.logits(hidden_NW)
        return self._shaped(rounded_head_logits(hidden_NW, self._head.weight))

    def drawn_logits(self, hidden_NW: Tensor, words_N: Tensor) -> Tensor | None:
        """See `Network`."""
        return self._shaped(word_logits(hidden_NW, self._head.weight, words_N)) if self._rounds else None

    def token_logprobs(
        self, hidden_UW: Tensor, target_N: Tensor, rows_N: Tensor, temperature_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Network`."""
        if self._whole:
            logprobs_UV = torch.log_softmax(self.logits(hidden_UW) / temperature_U.unsqueeze(1), dim=-1)
            entropy_U = -(logprobs_UV.exp() * logprobs_UV).sum(-1)
            return logprobs_UV[rows_N, target_N], entropy_U[rows_N]
        if self._plain:
            return token_logprobs(
                hidden_UW, self._head.weight, target_N, temperature_U, self._head.bias, rows_N=rows_N
            )
        return self._in_parts(hidden_UW[rows_N], target_N, temperature_U[rows_N])

    def _in_parts(
        self, hidden_NW: Tensor, target_N: Tensor, temperature_N: Tensor, rows: int = 64
    ) -> tuple[Tensor, Tensor]:
        """For logits with a soft cap, a scale or an adapter: some rows at a time, recomputed for the gradients."""
        parts = []
        for start in range(0, len(hidden_NW), rows):
            part = (x[start : start + rows] for x in (hidden_NW, target_N, temperature_N))
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._some, *part, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._some(*part))
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _some(self, hidden_NW: Tensor, target_N: Tensor, temperature_N: Tensor) -> tuple[Tensor, Tensor]:
        logprobs_NV = torch.log_softmax(self.logits(hidden_NW) / temperature_N.unsqueeze(1), dim=-1)
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
        return logprobs_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1), entropy_N
