"""Small random models of the architectures that are held to transformers' own outputs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "qwen2": {},
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": None},
    "mistral windowed": {"sliding_window": 8},
    "qwen3 windowed": {**WINDOWED, "use_sliding_window": True},
    "gemma2": {
        **WINDOWED,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {**WINDOWED, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.5},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
OWN_PASS = ("qwen3", "qwen2", "llama", "mistral")


def build_config(family: str, vocab_size: int = 70, **changes: Any) -> Any:
    kind = family.split()[0]
    return CONFIG_MAPPING[kind](**{**SHAPE, **FAMILIES[family], "vocab_size": vocab_size, **changes})


def build_family(family: str, vocab_size: int = 70, seed: int = 7, **changes: Any) -> Any:
    """A model with random weights, norms and biases included, in evaluation mode."""
    config = build_config(family, vocab_size, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager" if family == "gemma2" else "sdpa"
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # transformers starts them at a constant
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.float().eval()
