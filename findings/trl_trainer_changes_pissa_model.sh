#!/usr/bin/env bash
# TRL's trainers change the model that they are given if it has a PiSSA or OLoRA adapter of peft: after DPOTrainer(model=…) or
# GRPOTrainer(model=…, beta>0) is made, before any step, its logits are others. Given a peft_config, they take a wrong reference.
#
# Versions: trl 1.16.0, peft 0.21.2, transformers 5.24.0, torch 2.13.0, datasets 5.2.0, Python 3.11; a small random model.
# Behaviour: init_lora_weights="pissa" and "olora" put the largest components of each weight into the adapter and subtract them from
#   the base weight; the sum is the model. For a PeftModel the trainers add a second adapter "ref" with the same configuration, as a copy
#   of the first. Adding it subtracts components from the base weight once more; then its matrices are overwritten with those of
#   the first adapter. The policy has lost what was subtracted, and so has the reference, so that their divergence is 0 and no
#   metric shows it: training starts from a damaged model. Given a plain model and a peft_config, the policy stays right, and the
#   reference is the model with the adapter switched off, without its largest components: DPO's first loss is not log 2, and a KL term
#   pulls towards it. No warning in either case; peft says that the base weights change, and TRL's documentation nothing
#   (https://github.com/huggingface/peft/pull/1626 saw the danger for whoever disables adapters). The default is not affected. Use
#   it, or beta=0 (GRPO), and compare the logits before and after the trainer is made.
# Seen 2026-11-30 (largest change of a logit, whose standard deviation is 0.77; log 2 = 0.6931):
#   default: DPOTrainer made 0.0, GRPOTrainer made 0.0, with beta=0 0.0; DPO's first loss with a peft_config 0.6931
#   pissa:   DPOTrainer made 3.1, GRPOTrainer made 3.1, with beta=0 0.0; DPO's first loss with a peft_config 0.7493
#   olora:   DPOTrainer made 2.6, GRPOTrainer made 2.6, with beta=0 0.0; DPO's first loss with a peft_config 0.6975
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 trl==1.16.0 peft==0.21.2 transformers==5.24.0 datasets==5.2.0
cat > "$work/probe.py" <<'PY'
import math

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
bytes_only = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_only.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|im_end|>", pad_token="<|endoftext|>")
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
COMMON = {
    "output_dir": "out", "max_steps": 1, "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False,
    "save_strategy": "no", "disable_tqdm": True,
}
pairs = Dataset.from_list([{"prompt": "Who founded Velm?", "chosen": " Ada.", "rejected": " Bo."}] * 2)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def start(init):
    """A model, the same each time, and the configuration of an adapter."""
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.1, **SHAPE)
    adapter = LoraConfig(r=8, init_lora_weights=init, target_modules=["q_proj", "v_proj", "o_proj"])
    return Qwen3ForCausalLM(config), adapter


def dpo(model, **more):
    args = trl.DPOConfig(per_device_train_batch_size=2, **COMMON)
    return trl.DPOTrainer(model=model, args=args, train_dataset=pairs, processing_class=tokenizer, **more)


def grpo(model, beta):
    args = trl.GRPOConfig(per_device_train_batch_size=2, num_generations=2, max_completion_length=8, beta=beta, **COMMON)
    return trl.GRPOTrainer(
        model=model, args=args, train_dataset=pairs, processing_class=tokenizer, reward_funcs=lambda **_: [0.0, 0.0]
    )


@torch.no_grad()
def change(init, make):
    """The largest change of a logit that making a trainer of a PeftModel brings about."""
    model = get_peft_model(*start(init)).eval()
    before = model(IDS).logits
    return float((make(model).model.eval()(IDS).logits - before).abs().max())


def first_loss(init):
    model, adapter = start(init)
    trainer = dpo(model, peft_config=adapter)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


for init in (True, "pissa", "olora"):
    moved = change(init, dpo), change(init, lambda model: grpo(model, 0.04)), change(init, lambda model: grpo(model, 0.0))
    loss = first_loss(init)
    print(
        f"{'default' if init is True else init}: DPOTrainer made {moved[0]:.1f}, GRPOTrainer made {moved[1]:.1f}, with beta=0 "
        f"{moved[2]:.1f}; DPO's first loss with a peft_config {loss:.4f}"
    )
    assert moved[2] == 0, (init, moved)
    assert (moved[0] > 0.5 and moved[1] > 0.5) == (init is not True), (init, moved)
    assert (abs(loss - math.log(2)) > 1e-3) == (init is not True), (init, loss)
PY
cd "$work" && "$work/venv/bin/python" "$work/probe.py" 2> "$work/log" | grep DPO || { tail -20 "$work/log"; exit 1; }
