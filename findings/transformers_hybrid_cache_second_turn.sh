#!/usr/bin/env bash
# A second, padded turn on top of a kept cache is wrong for hybrid models (Qwen3.5, LFM2, Granite 4, …), also with the right
# attention mask and the right positions; for models with attention alone it is right.
#
# Versions: transformers 5.24.0, torch 2.13.0, Python 3.11; small random models in float32.
# Behaviour: two rows of a chat, left-padded to one length, with `attention_mask` and `position_ids` as `generate` makes them. The first
#   turn fills a cache, the second one (two tokens in row 0, five in row 1, padded again) continues it. The logits after a turn must
#   be those of one unpadded pass over the row. After turn one they are, in every model: padding is masked out of the states.
#   After turn two Qwen3 is still right, and the row that was padded again is wrong by several standard deviations in every
#   hybrid, while the row without new padding is right: the mask of the whole history is not applied to the new tokens of a layer
#   that has a state, so convolution and recurrence run over the padding. Nothing warns. A batched multi-turn rollout on
#   kept caches therefore samples from another model than the one that is trained: feed rows of equal length together, or feed
#   what a row lacks without padding.
# Seen 2026-11-29 (largest difference of a logit: turn one | row 0, row 1 of turn two; logits have a standard deviation of 1.1):
#   qwen3             1.3e-06 | 8.3e-07 9.5e-07
#   qwen3_5_text      1.3e-06 | 3.4e+00 1.7e-06
#   lfm2              2.5e-06 | 2.8e+00 8.9e-07
#   granitemoehybrid  1.7e-06 | 1.5e+00 1.2e-06
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cat > "$work/probe.py" <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {
    "vocab_size": 70, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}
MAMBA = {
    "layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 16,
}
MODELS = {
    "qwen3": {},
    "qwen3_5_text": LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": MAMBA,
}
TURNS = [[[5, 9, 11, 3, 8, 2], [7, 4]], [[12, 13], [20, 21, 22, 23, 24]]]  # [turn][row]


def padded(rows):
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


@torch.no_grad()
def gaps(model):
    """For each turn and row, the largest difference from the logits of one unpadded pass."""
    result, cache, mask = [], {}, torch.zeros(2, 0, dtype=torch.long)
    history = [[], []]
    for rows in TURNS:
        ids, new = padded(rows)
        mask = torch.cat([mask, new], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1]:]
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **cache)
        cache = {"cache": out.cache}
        history = [before + row for before, row in zip(history, rows)]
        whole = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in history]
        result.append([float((out.logits[i, -1] - whole[i]).abs().max()) for i in range(2)])
    return result


for kind, own in MODELS.items():
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, **own})
    first, second = gaps(AutoModelForCausalLM.from_config(config).float().eval())
    print(f"{kind:18}{max(first):.1e} | {second[0]:.1e} {second[1]:.1e}")
    assert max(first) < 1e-4 and second[1] < 1e-4, (kind, first, second)
    assert (second[0] < 1e-4) == (kind == "qwen3"), (kind, second)
    assert kind == "qwen3" or second[0] > 0.1, (kind, second)
PY
"$work/venv/bin/python" "$work/probe.py" 2>/dev/null
