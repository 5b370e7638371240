"""The two implementations of `interface.Network`.

`DecoderNetwork` applies the sub-modules of decoders of Llama's shape itself (`forward`). It computes only the positions
that are needed, and attention in a tree of sequences goes path by path.

`ModelNetwork` calls the model's own forward (`model_network`), with our cache, four-dimensional masks and explicit
positions. It computes every layer at every position, and its masks grow with the square of the pass. A trial on a few
tokens refuses architectures whose numbers would differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base_network import BaseNetwork
from .forward import Branches, causal_mask, hidden_states
from .interface import CacheView, Network
from .model_network import ModelNetwork
from .prefix_tree import PrefixTree

__all__ = ["DecoderNetwork", "ModelNetwork", "open_network"]

_LLAMA_SHAPE = ("llama", "mistral", "qwen2", "qwen3")


class DecoderNetwork(BaseNetwork):
    """A decoder of Llama's shape, through its sub-modules; see the module docstring."""

    def __init__(self, model: Any, *, whole_logits: bool = False, checkpointing: bool = False) -> None:
        super().__init__(model, whole_logits=whole_logits, checkpointing=checkpointing)
        config = model.config
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        shape = getattr(config, "num_key_value_heads", None) or heads, size
        self.kv_shapes = dict.fromkeys(range(config.num_hidden_layers), (shape, shape))
        if self.device.type != "cpu":  # on a CPU, the activations of 4,096 tokens still fit its cache
            self.pass_tokens = 32_768

    def step(
        self, ids_BT: Tensor, positions_BT: Tensor, cache: CacheView, keep_BQ: Tensor | None = None
    ) -> Tensor:
        """See `Network`."""
        mask_BTK = causal_mask(positions_BT, cache.columns, self.dtype)
        return hidden_states(
            self.model, ids_BT, positions_BT, keep_BQ=keep_BQ, mask_BTK=mask_BTK, cache=cache
        )

    def paths(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> Tensor:
        """See `Network`."""
        row = (torch.from_numpy(x).to(self.device).unsqueeze(0) for x in (tree.ids_T, tree.depths_T, keep_Q))
        ids_1T, positions_1T, keep_1Q = row
        return hidden_states(
            self.model,
            ids_1T,
            positions_1T,
            keep_BQ=keep_1Q,
            branches=Branches(tree, keep_Q, self.device, self.dtype),
            checkpointing=self.checkpointing and torch.is_grad_enabled(),
        ).squeeze(0)


def open_network(model: Any, *, own_forward: bool = False, checkpointing: bool = False) -> Network:
    """The network of a model: a `DecoderNetwork` where it has Llama's shape, else a `ModelNetwork`.

    Args:
        model: transformers' model, without peft's wrapper.
        own_forward: use a `ModelNetwork` for any shape.
        checkpointing: recompute the layers in the backward pass instead of keeping their activations.

    Raises:
        ConfigError: an architecture that cannot be used.
    """
    if _has_llama_shape(model) and not own_forward:
        return DecoderNetwork(model, checkpointing=checkpointing)
    return ModelNetwork(model, checkpointing=checkpointing)


def _has_llama_shape(model: Any) -> bool:
    config = model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return (
        config.model_type in _LLAMA_SHAPE
        and "sliding_attention" not in (getattr(config, "layer_types", None) or [])
        and (config.model_type != "mistral" or config.sliding_window is None)
        and rope.get("rope_type", "default") not in ("dynamic", "longrope")  # these depend on the whole row
    )
