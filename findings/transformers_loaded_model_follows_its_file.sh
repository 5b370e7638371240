#!/usr/bin/env bash
# A model that transformers has loaded on a CPU follows its file: `cp other.safetensors model.safetensors` gives the running process
# the other weights, even in place of weights that an optimizer has changed since. `mv` does not.
#
# Versions: transformers 5.24.0, safetensors 0.8.0, torch 2.13.0, Python 3.11, Linux; a small random model.
# Behaviour: from_pretrained, and safetensors.torch.load_file, map the file and make tensors of the mapping; nothing is copied unless
#   the dtype is converted or the device is not the CPU. Whoever copies another checkpoint over the file (cp, shutil.copyfile) first
#   cuts it to length 0, which takes the pages of the mapping away, those that were written to as well. Once the copy is complete,
#   every read shows the new file. A server that plays with "current/" while a trainer publishes checkpoints there changes its policy
#   in the middle of an episode; in a training process, an update that was made is gone. There is no error and no warning, and the
#   log-probabilities recorded so far belong to other weights. Files that are renamed into place (mv, os.replace) leave the loaded
#   model alone, and save_pretrained into the directory that the model came from is safe. Otherwise clone the parameters
#   after loading, or load with another dtype.
# Seen 2026-11-30:
#   cp, loaded as float32: the model is now that of the other file
#   cp, loaded as float32 and trained for a step: the model is now that of the other file
#   cp, loaded as bfloat16: the model is unchanged
#   mv, loaded as float32: the model is unchanged
#   save_pretrained into its own directory: the model is unchanged
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 safetensors==0.8.0
cat > "$work/probe.py" <<'PY'
import os
import shutil

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
IDS = torch.tensor([[5, 6, 7, 8, 9]])
FILE = "current/model.safetensors"


def save(folder, seed):
    torch.manual_seed(seed)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=256, num_key_value_heads=2, initializer_range=0.1, **SHAPE)).save_pretrained(folder)


def train(model):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def rename(new, old):
    shutil.copyfile(new, "finished")
    os.replace("finished", old)


save("one", 1)
save("other", 2)
others = logits(AutoModelForCausalLM.from_pretrained("other"))


def observe(what, expected, publish, dtype="float32", trained=False):
    shutil.rmtree("current", ignore_errors=True)
    shutil.copytree("one", "current")
    model = AutoModelForCausalLM.from_pretrained("current", dtype=dtype)
    if trained:
        train(model)
    before = logits(model)
    publish(model)
    after = logits(model)
    found = "unchanged" if after.equal(before) else "that of the other file" if after.equal(others) else "neither"
    print(f"{what}: the model is {'now ' * (found != 'unchanged')}{found}")
    assert found == expected, what


def cp(model):
    shutil.copyfile("other/model.safetensors", FILE)


observe("cp, loaded as float32", "that of the other file", cp)
observe("cp, loaded as float32 and trained for a step", "that of the other file", cp, trained=True)
observe("cp, loaded as bfloat16", "unchanged", cp, dtype="bfloat16")
observe("mv, loaded as float32", "unchanged", lambda model: rename("other/model.safetensors", FILE))
observe("save_pretrained into its own directory", "unchanged", lambda model: model.save_pretrained("current"), trained=True)
PY
cd "$work" && "$work/venv/bin/python" "$work/probe.py" 2> "$work/log" | grep "the model is" || { tail -20 "$work/log"; exit 1; }
