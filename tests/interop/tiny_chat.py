"""A tiny chat model that answers a few questions of a small world by search, for the end-to-end tests of adapters.

    python tests/interop/tiny_chat.py FOLDER [tools|tags [TEMPLATE]]

Random Qwen3 weights (0.8 M) under a chat template (default: TRL's for Qwen3), overfitted on the oracle's episodes in the tokens in which `HFAgent`
would have played them. It takes about a minute on one core. FOLDER/task_ids.json holds the questions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from scripts import WORLD
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import searchgym
from searchgym.agents.hf import HFAgent
from searchgym.agents.policy import Sample
from searchgym.rollouts.collection import agent_context_of

ARGUMENTS: dict[str, Any] = {"corpus": WORLD, "top_k": 1, "max_rounds": 5}
# The loss is per token: greedy, all is right; of sampled episodes some are not, so that there is something to learn.
QUESTIONS, LOSS = 3, 0.01


def make_model(folder: Path, template: str) -> None:
    """Write random weights and a tokenizer of the small world's words."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    env = searchgym.SearchEnv(**ARGUMENTS, dialect="tools")
    texts = [f"{passage.title}\n{passage.text}" for passage in env.corpus.passages]
    texts += [question.text for question in env.corpus.questions("train")] + [
        env.system_prompt,
        template,
    ] * 20
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=3000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    bpe.add_tokens(
        ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **heads, **ends)
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def teach(folder: Path, dialect: str) -> float:
    """Overfit the model on the oracle's episodes; returns the last loss."""
    agent = HFAgent(str(folder), thinking=True)
    envs = searchgym.SearchVectorEnv(8, **ARGUMENTS, dialect=dialect)
    oracle = searchgym.rollout("SearchQA-v0", "oracle", 60, split="train", **ARGUMENTS)
    right = [one.task_id for one in oracle if one.outcome.em == 1 and len(one.rounds) <= 3][:QUESTIONS]
    episodes = searchgym.rollout("SearchQA-v0", "oracle", task_ids=right, **ARGUMENTS, dialect=dialect)
    agent.bind(agent_context_of(envs.config))
    samples = []
    for episode in episodes:
        (segment,) = agent.encode(episode)
        # Also the end of each message, which `HFAgent` does not need and servers and TRL do.
        segment.tokens.append(agent.tokenizer.eos_token_id)
        segment.mask = [
            now or before for now, before in zip([*segment.mask, 0], [0, *segment.mask], strict=True)
        ]
        segment.rounds = [*segment.rounds, segment.rounds[-1]]
        samples.append(Sample(episode, segment))
    optimizer = torch.optim.AdamW(agent.module.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(400):
        loss = -agent.evaluate_tokens(samples).logprobs_N.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.module.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}, loss {loss.item():.3f}", flush=True)
        if loss.item() < LOSS:
            break
    agent.save(folder)
    (folder / "task_ids.json").write_text(json.dumps(right), "utf-8")
    return float(loss.item())


def trl_template() -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text("utf-8")


if __name__ == "__main__":
    target, dialect, *template = [*sys.argv[1:2], *(sys.argv[2:] or ["tools"])]
    make_model(Path(target), Path(template[0]).read_text("utf-8") if template else trl_template())
    print(f"final loss {teach(Path(target), dialect):.4f}")
