#!/usr/bin/env bash
# TRL's DPOTrainer learns from the tool results inside a trajectory: of a preferred and a rejected completion that contain
# searches, the retrieved passages are in the loss like the agent's own words.
#
# Versions: trl 1.16.0, transformers 5.24.0, torch 2.13.0, datasets 5.2.0, Python 3.11.
# Behaviour: `chosen` and `rejected` may be lists of messages with tool calls and tool results. Everything after the prompt is the
#   completion, and completion_mask is 1 on all of it, headers of the user's turns and tool responses included. So log π(chosen)
#   and log π(rejected) hold the probabilities of passages that the environment wrote, and the policy is trained to predict the
#   passages of successful episodes. They are most of a search episode's tokens. SFTConfig has assistant_only_loss;
#   DPOConfig has no such setting, and nothing is logged. For trajectory DPO sum over the agent's tokens only, e.g. give each
#   round as a pair of its own whose prompt ends with the last tool result.
# Seen 2026-11-29: the trained text of the chosen side is
#   '<tool_call>…</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nPASSAGE-ONE Velm was founded by
#   Ada.\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nAda<|im_end|>\n'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 trl==1.16.0 transformers==5.24.0 datasets==5.2.0
cat > "$work/probe.py" <<'PY'
import copy
from pathlib import Path

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, **shape))


def episode(query, passage, answer):
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": query}}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "search", "content": passage},
        {"role": "assistant", "content": answer},
    ]


row = {
    "prompt": [{"role": "user", "content": "Who founded Velm?"}],
    "chosen": episode("Velm", "PASSAGE-ONE Velm was founded by Ada.", "Ada"),
    "rejected": episode("Tarn", "PASSAGE-TWO Tarn is a town.", "Bo"),
}
seen = []


class Trainer(trl.DPOTrainer):
    def compute_loss(self, model, inputs, *more, **others):
        for ids, mask in zip(inputs["input_ids"], inputs["completion_mask"], strict=True):
            seen.append(tokenizer.decode(ids[mask.bool()]))
        return super().compute_loss(model, inputs, *more, **others)


config = trl.DPOConfig(
    output_dir="out", per_device_train_batch_size=2, max_steps=1, report_to=[], use_cpu=True, bf16=False,
    save_strategy="no", disable_tqdm=True, max_length=None,
)
Trainer(model=model, ref_model=copy.deepcopy(model), processing_class=tokenizer, args=config, train_dataset=Dataset.from_list([row, row])).train()
for text in dict.fromkeys(seen):
    print(repr(text))
assert any("PASSAGE-ONE" in text for text in seen) and any("PASSAGE-TWO" in text for text in seen), seen
assert not any("assistant" in name for name in vars(config)), "DPOConfig has a setting for it now"
assert hasattr(trl.SFTConfig(output_dir="out", use_cpu=True, bf16=False), "assistant_only_loss")
PY
cd "$work" && "$work/venv/bin/python" "$work/probe.py" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
