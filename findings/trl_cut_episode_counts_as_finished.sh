#!/usr/bin/env bash
# TRL's GRPOTrainer counts a tool-calling episode that a budget cut off as finished: clipped_ratio is 0, mask_truncated_completions
# keeps it in the loss, and the environment is rewarded for a search whose result the model never saw.
#
# Versions: trl 1.16.0, transformers 5.24.0, torch 2.13.0, datasets 5.2.0, Python 3.11.
# Behaviour: an episode is "truncated" only if its last token is no end of turn. An episode can also end because a tool result would
#   exceed max_completion_length, or because max_tool_calling_iterations is used up. Both leave a complete tool call, which ends with
#   <|im_end|>, as the last thing in the completion: without an answer, and yet finished for completions/clipped_ratio and for
#   mask_truncated_completions. In the first case the tool has run by then: its messages are taken out of the transcript
#   that reward functions receive, but the environment keeps the state, and get_reward() sees the search. tools/failure_frequency
#   stays 0. Detect such episodes yourself: the last message has tool_calls. Let the environment's reward
#   depend on the answer, or compare the calls it has run with the tool messages in the completion.
# Seen 2026-11-30 (mask_truncated_completions=True, max_completion_length=120; two members of a group):
#   iterations used up: messages assistant, tool, assistant; 4 of 4 sampled tokens trained; clipped_ratio 0.0
#   tokens used up: messages assistant; 2 of 2 sampled tokens trained; searches the environment ran 1; clipped_ratio 0.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 trl==1.16.0 transformers==5.24.0 datasets==5.2.0
cat > "$work/probe.py" <<'PY'
from pathlib import Path

import torch
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
call = '<tool_call>\n{"name": "search", "arguments": {"query": "Velm"}}\n</tool_call>'
tokenizer.add_tokens([AddedToken(call, normalized=False)])  # one token, so that a bigram model can write a whole call

# A bigram model: after the call comes <|im_end|>, after anything else the call.
size = len(tokenizer)
shape = {"hidden_size": size, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
model = Qwen3ForCausalLM(Qwen3Config(vocab_size=size, num_key_value_heads=1, head_dim=8, tie_word_embeddings=False, **shape))
wrote, end = tokenizer.convert_tokens_to_ids([call, "<|im_end|>"])
with torch.no_grad():
    model.model.layers[0].self_attn.o_proj.weight.zero_()
    model.model.layers[0].mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(size))
    model.lm_head.weight.zero_()
    model.lm_head.weight[wrote] = 9.0
    model.lm_head.weight[wrote, wrote] = 0.0
    model.lm_head.weight[end, wrote] = 9.0


class Environment:
    def reset(self, **row):
        self.hits = 0
        return "Who founded Velm?"

    def search(self, query: str) -> str:
        """Search.

        Args:
            query: the query
        """
        self.hits += 1
        return "Velm was founded by Ada. " * self.long

    def get_reward(self) -> float:
        return float(self.hits)


def play(long, **settings):
    Environment.long = long
    seen = {}

    class Trainer(trl.GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            outputs = super()._generate_and_score_completions(inputs)
            mask = outputs["completion_mask"] * outputs.get("tool_mask", 1)
            seen["trained tokens"] = mask.sum(1).tolist()
            seen["searches"] = [each.hits for each in self.environments]
            for name in ("completions/clipped_ratio", "tools/failure_frequency"):
                seen[name] = self._metrics["train"][name][-1]
            return outputs

    def watch(completions, **columns):
        seen["messages"] = [message["role"] for message in completions[0]]
        seen["last"] = "tool_calls" in completions[0][-1]
        return [0.0] * len(completions)

    config = trl.GRPOConfig(
        output_dir="out", per_device_train_batch_size=2, num_generations=2, max_completion_length=120, max_steps=1,
        report_to=[], use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
        mask_truncated_completions=True, generation_kwargs={"max_new_tokens": 8}, **settings,
    )
    Trainer(model=model, processing_class=tokenizer, args=config, environment_factory=Environment, reward_funcs=watch).train()
    return seen


iterations = play(1, max_tool_calling_iterations=1)
tokens = play(20)
print("iterations used up:", iterations)
print("tokens used up:", tokens)
for seen, messages, sampled in ((iterations, ["assistant", "tool", "assistant"], 4), (tokens, ["assistant"], 2)):
    assert seen["messages"] == messages, seen
    assert seen["last"] and seen["searches"] == [1, 1], seen
    assert seen["trained tokens"] == [sampled, sampled], seen
    assert seen["completions/clipped_ratio"] == seen["tools/failure_frequency"] == 0, seen
PY
cd "$work" && "$work/venv/bin/python" "$work/probe.py" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
