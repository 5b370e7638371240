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
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SHARED = {**_EXPERTS, "shared_expert_intermediate_size": 16}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "head_dim": 4,
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}
_DEEPSEEK = {
    **_LATENT,
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_FOUR = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 70,
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": {**_LINEAR, **_SHARED},
    "qwen3_next": {**_LINEAR, **_SHARED},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], **_EXPERTS, "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {
        **_MAMBA,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
    },
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.7},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "olmo_hybrid": _LINEAR,
    "kimi_linear": {
        **_LATENT,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe"],
        "num_hidden_layers": 3,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 4,
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    },
}
"""Families with recurrent or convolution states."""
UNEQUAL: dict[str, dict[str, Any]] = {
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "llama4_text": {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 6,
        "intermediate_size_mlp": 48,
    },
    "gemma3n_text": {
        **_FOUR,
        "num_kv_shared_layers": 2,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {**_FOUR, "num_kv_shared_layers": 0, "global_head_dim": 16},
    "gemma4_text shared": {**_FOUR, "num_kv_shared_layers": 2, "global_head_dim": 16},
}
"""Families whose keys and values are not of one size, or whose masks are neither causal nor a window."""
OWN_PASS = ("qwen3", "qwen2", "llama", "mistral")


def build_config(family: str, vocab_size: int = 70, **changes: Any) -> Any:
    kind = family.split()[0]
    own = {**FAMILIES, **HYBRIDS, **UNEQUAL}[family]
    return CONFIG_MAPPING[kind](**{**SHAPE, **own, "vocab_size": vocab_size, **changes})


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
