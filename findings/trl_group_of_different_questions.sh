#!/usr/bin/env bash
# TRL's GRPOTrainer without a train_dataset lets each member of a group play another question when the environment draws its
# questions in reset(), and normalises their rewards as one group all the same.
#
# Versions: trl 1.16.0, transformers 5.24.0, torch 2.13.0, datasets 5.2.0, Python 3.11.
# Behaviour: the documentation of `environment_factory` says that train_dataset may be omitted when the environment owns the data and
#   returns the prompt from reset(). Without one, TRL repeats empty prompts num_generations times and calls reset() of one
#   environment per rollout, with nothing that says which group the rollout is in. An environment that draws a question there, as
#   Gymnasium environments do, gives the num_generations members of a "group" different prompts. Advantages are still the
#   rewards minus the mean of these rollouts: an easy question's answer is credited against a hard one's. Nothing is logged. With the
#   same draws in a data set (one row per question), all members share the prompt. Draw per group yourself, e.g. with
#   a generator seeded by (number of resets, position // num_generations), or give a data set.
# Seen 2026-11-29 (num_generations=4, batch of 4):
#   questions of the one group: ['question 0', 'question 1', 'question 2', 'question 3']
#   rewards [0.0, 1.0, 2.0, 3.0] -> advantages [-1.5, -0.5, 0.5, 1.5] (scale_rewards="none")
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 trl==1.16.0 transformers==5.24.0 datasets==5.2.0
cat > "$work/probe.py" <<'PY'
import itertools
from pathlib import Path

import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.chat_template = template
shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, **shape))
questions, asked = itertools.count(), []


class Environment:
    def reset(self, **row):
        self.number = next(questions)
        asked.append(f"question {self.number}")
        return asked[-1]

    def answer(self, text: str) -> str:
        """Answer.

        Args:
            text: the answer
        """
        return ""

    def get_reward(self) -> float:
        return float(self.number)


seen = []


class Trainer(trl.GRPOTrainer):
    def _generate_and_score_completions(self, inputs):
        outputs = super()._generate_and_score_completions(inputs)
        seen.append(outputs["advantages"].tolist())
        return outputs


config = trl.GRPOConfig(
    output_dir="out", per_device_train_batch_size=4, num_generations=4, max_completion_length=4, max_steps=1,
    scale_rewards="none", report_to=[], use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
)
Trainer(model=model, processing_class=tokenizer, args=config, environment_factory=Environment).train()
print("questions of the one group:", asked)
print("advantages:", seen)
assert len(set(asked)) == len(asked) == 4, asked
assert torch.allclose(torch.tensor(seen[0]), torch.tensor([-1.5, -0.5, 0.5, 1.5])), seen
PY
cd "$work" && "$work/venv/bin/python" "$work/probe.py" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
