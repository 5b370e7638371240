"""Digests of a model's weights, shapes and tokenizer: what a saved adapter or checkpoint fits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["base_weights", "shape_digest", "tokenizer_digest", "weight_digest"]

_SAMPLED_WEIGHTS = 256  # of each tensor


def base_weights(model: Any) -> list[tuple[str, Tensor]]:
    """The model's own weights by name, without those of an adapter."""
    found = model.named_parameters()
    return [(n.replace("base_layer.", ""), p) for n, p in found if "lora_" not in n]


def shape_digest(model: Any) -> str:
    """Digest of the names and shapes of the model's own weights."""
    return _digest(f"{name} {list(tensor.shape)}" for name, tensor in base_weights(model))


def weight_digest(model: Any) -> str:
    """Digest of a sample of the model's own weights: an adapter fits only the weights it was trained on."""
    parts = []
    for name, tensor in base_weights(model):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLED_WEIGHTS)].float().cpu()
        parts.append(f"{name} {some.numpy().tobytes().hex()}")
    return _digest(parts)


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of a tokenizer's vocabulary and chat template."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return _digest([repr(words), repr(tokenizer.chat_template)])


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
