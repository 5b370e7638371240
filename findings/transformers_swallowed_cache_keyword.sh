#!/usr/bin/env bash
# A causal language model of transformers accepts any keyword: a cache under a name that its forward does not have is dropped
# in silence, and the next token is predicted without the context.
#
# Versions: transformers 5.24.0, torch 2.13.0, Python 3.11; Qwen3, Llama and GPT-2 with small random weights.
# Behaviour: four tokens are computed into a DynamicCache, then the fifth with that cache. Its logits must be those of one pass
#   over all five. Under `cache` (the name since 5.24) and `past_key_values` (deprecated there, announced to go in 5.40) they
#   are. Under `past_key_value`, the name that the attention layers used for years, or any other name, there is no TypeError and
#   no warning: `**kwargs` takes it, and the logits are those of the fifth token alone. So code that passes a removed
#   name does not break on an upgrade: it samples and scores with other numbers. Look the name up in the signature of the forward,
#   and check that the cache that comes back is the one that was passed.
# Seen 2026-11-29:
#   Qwen3 {'cache': 'equal', 'past_key_values': 'equal', 'past_key_value': 'other numbers', 'kv_cache': 'other numbers'}
#   Llama and GPT-2: the same
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cat > "$work/probe.py" <<'PY'
import warnings

import torch
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

torch.manual_seed(0)
IDS = torch.tensor([[5, 6, 7, 8, 9]])
SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}


@torch.no_grad()
def last_logits(model, name):
    cache = DynamicCache(config=model.config)
    model(IDS[:, :4], use_cache=True, **{name: cache})
    return model(IDS[:, 4:], position_ids=torch.tensor([[4]]), use_cache=True, **{name: cache}).logits[0, -1]


def check(model):
    model.eval()
    with torch.no_grad():
        whole = model(IDS).logits[0, -1]
    seen = {}
    for name in ("cache", "past_key_values", "past_key_value", "kv_cache"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if name == "past_key_values" else "error")
            equal = torch.allclose(whole, last_logits(model, name), atol=1e-4)
        seen[name] = "equal" if equal else "other numbers"
    return seen


models = {
    "Qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "Llama": LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "GPT-2": GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)),
}
for name, model in models.items():
    seen = check(model)
    print(name, seen)
    assert seen == {
        "cache": "equal",
        "past_key_values": "equal",
        "past_key_value": "other numbers",
        "kv_cache": "other numbers",
    }
PY
"$work/venv/bin/python" "$work/probe.py"
