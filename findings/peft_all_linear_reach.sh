#!/usr/bin/env bash
# What peft's target_modules="all-linear" reaches is neither all linear layers of the language model nor only those: it adapts the
# vision tower of a multimodal model, which text training never uses, and it fails for hybrids whose relatives it accepts.
#
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11; small random models.
# Behaviour: "all-linear" is documented as the way to adapt every linear layer as QLoRA does.
#   Gemma 3 (AutoModelForCausalLM opens the multimodal class): the adapter covers the vision tower too. After a backward pass on
#   text those matrices have no gradient at all; they cost memory, are saved, and a check "all trainable weights have a gradient"
#   fails.
#   Falcon-H1 and Nemotron-H: ValueError, "Module 'out_proj' is incompatible with Mamba-based models", because their type is in a list; so
#   the shortcut cannot be used with them at all. Granite 4 hybrid and Bamba have the same Mamba-2 layers with the same out_proj, and peft
#   adapts it there without a word, although their fused training kernel is called with out_proj.weight, past the adapter.
#   So give the names of the layers yourself: those inside model.get_decoder(), without out_proj of Mamba layers.
# Seen 2026-11-29:
#   gemma3            23 layers adapted, 9 of them in the vision tower and its projector; 0 have a gradient after a loss on text
#   granitemoehybrid  out_proj adapted: True
#   bamba             out_proj adapted: True
#   falcon_h1         ValueError: [PEFT:PeftType.LORA] Module 'out_proj' is incompatible with Mamba-based models
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 peft==0.21.2
cat > "$work/probe.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config

SHAPE = {
    "vocab_size": 70, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}
HYBRIDS = {
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"], "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 16,
    },
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
}


def adapted(config):
    model = AutoModelForCausalLM.from_config(config).float()
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))


vision = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}
gemma = Gemma3Config(text_config={**SHAPE, "query_pre_attn_scalar": 8}, vision_config=vision, mm_tokens_per_image=4)
model = adapted(gemma)
model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
names = model.base_model.targeted_module_names
tower = [name for name in names if "vision" in name]
moved = [n for n, p in model.named_parameters() if "vision" in n and "lora" in n and p.grad is not None]
print(f"gemma3            {len(names)} layers adapted, {len(tower)} of them in the vision tower; {len(moved)} have a gradient")
assert len(tower) == 9 and not moved, (names, moved)

for kind, own in HYBRIDS.items():
    config = AutoConfig.for_model(kind, **{**SHAPE, **MAMBA, **own})
    try:
        names = adapted(config).base_model.targeted_module_names
        print(kind, "out_proj adapted:", any(name.endswith("out_proj") for name in names))
        assert kind != "falcon_h1" and any(name.endswith("out_proj") for name in names), names
    except ValueError as error:
        print(kind, "ValueError:", str(error)[:85])
        assert kind == "falcon_h1" and "incompatible with Mamba" in str(error), error
PY
"$work/venv/bin/python" "$work/probe.py" 2>/dev/null
