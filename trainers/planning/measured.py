"""The shape of models of other families: weights counted in a model without memory, the rest assumed to be Llama's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from searchgym.agents.hf.targets import is_expert

from .architecture import Architecture, NoEstimateError

__all__ = ["measure_architecture"]

_FUSED = {"gate_up_proj": ("gate_proj", "up_proj")}  # peft takes these names, and gives each the rank
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


def measure_architecture(config: Any) -> Architecture:
    """The architecture of any causal language model: exact weights and adapters, everything else as in a Llama.

    Args:
        config: transformers' configuration.

    Raises:
        NoEstimateError: the model cannot be built, or its configuration lacks a size.
    """
    family = config.model_type
    text = config.get_text_config()
    missing = [name for name in _SIZES if not isinstance(getattr(text, name, None), int)]
    if missing:
        raise NoEstimateError(
            f"no estimate for models of type {family!r}: the configuration has no {missing[0]}"
        )
    try:
        with torch.device("meta"):
            loader: Any = AutoModelForCausalLM  # partly untyped
            model = loader.from_config(config)
    except Exception as error:  # any architecture may raise anything
        raise NoEstimateError(
            f"no estimate for models of type {family!r}: {type(error).__name__}: {error}"
        ) from error
    head = model.get_output_embeddings()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    experts = sum(size for name, size in sizes.items() if is_expert(name))
    chosen, of = getattr(text, "num_experts_per_tok", 1), _experts(text)
    heads, hidden = text.num_attention_heads, text.hidden_size
    return Architecture(
        layers=text.num_hidden_layers,
        hidden=hidden,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or hidden // heads,
        intermediate=_intermediate(text),
        vocab=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", None) or 2**20,
        tied=head is None or head.weight is model.get_input_embeddings().weight,
        modules=tuple(_matrices(model, head)),
        counted=sum(sizes.values()),
        idle=experts - experts * chosen // of if experts else 0,
    )


def _matrices(model: Any, head: Any) -> Iterator[tuple[str, int, int]]:
    """Name, inputs and outputs of what LoRA can adapt: linear layers, and experts that are one tensor for all of them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield name, module.weight.shape[1], module.weight.shape[0]
    for name, parameter in model.named_parameters():
        if is_expert(name) and parameter.ndim == 3:
            container, _, leaf = name.rpartition(".")
            count, rows, columns = parameter.shape
            for old in _FUSED.get(leaf, (leaf,)):
                yield f"{container}.{old}", count * rows, count * columns


def _experts(text: Any) -> int:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((n for name in names if (n := getattr(text, name, None))), 1)


def _intermediate(text: Any) -> int:
    """Width of the feed-forward part that a token goes through."""
    expert = getattr(text, "moe_intermediate_size", None)
    if expert:
        return int(expert * getattr(text, "num_experts_per_tok", 1))
    return int(
        getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
    )
