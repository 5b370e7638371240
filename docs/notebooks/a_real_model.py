# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A real model
#
# A chat model of Hugging Face plays, is looked at token by token, and learns. Every part is what a large model uses: its chat template, its tokenizer, keys and values,
# sampled log-probabilities, gradients through transformers.
#
# **What plays here.** If the environment variable `SEARCHGYM_MODEL` names a directory with a chat model, that one plays (with a few episodes; a model of a billion weights takes
# minutes on a laptop). Otherwise the notebook makes one on the spot: the architecture of Qwen3 with 0.8 million *random* weights, and a tokenizer of the words of a
# small world. It has read nothing, so it cannot answer anything before it is taught, and what it learns are the 24 questions of this notebook. What it shows
# is the machinery, not what language models can do.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import searchgym
from searchgym.agents.hf import HFAgent

WORLD = {"name": "country-terse", "size": 1000, "train": 60, "dev": 8, "test": 8}
ARGUMENTS = {"corpus": WORLD, "types": ["chain"], "hops": [2], "top_k": 1, "max_rounds": 4}


# %%
def make_model(folder: Path) -> str:
    """A chat model with random weights and a tokenizer of the small world's words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    env = searchgym.SearchEnv(**ARGUMENTS)
    texts = [f"{passage.title}\n{passage.text}" for passage in env.corpus.passages]
    texts += [question.text for question in env.corpus.questions("train")] + [env.system_prompt] * 20
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        head_dim=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


given = os.environ.get("SEARCHGYM_MODEL")
model = given or make_model(Path("tiny-qwen3"))
agent = HFAgent(model, max_new_tokens=512 if given else 40)
weights = sum(p.numel() for p in agent.module.parameters())
print(f"{model}: {weights / 1e6:.1f} million weights")

# %% [markdown]
# ## It plays
#
# Random weights write random tokens: every act is invalid, and the episode ends when the rounds are used up. The environment says what was wrong, and nothing is scored but an answer.

# %%
before = searchgym.evaluate("SearchQA-Terse-v0", agent, episodes=4, split="train", **ARGUMENTS)
print(before.episodes[0].render(width=100))

# %% [markdown]
# ## Teach it to act
#
# The `oracle` agent demonstrates, and supervised fine-tuning imitates ([SFT](../trainers/sft.md)). Only the tokens that the agent wrote are learned; the
# prompt and the passages are not.

# %%
demos = searchgym.rollout("SearchQA-Terse-v0", "oracle", episodes=24, split="train", **ARGUMENTS)
searchgym.save_episodes("demos.jsonl", demos)
taught = searchgym.train(
    trainer="sft",
    settings={"episodes": "demos.jsonl"},
    agent="hf",
    agent_options={"model": model, "max_new_tokens": 40},
    env="SearchQA-Terse-v0",
    env_options=ARGUMENTS,
    iterations=2 if given else 50,
    questions=24,
    lr=1e-5 if given else 3e-3,
    eval_episodes=0,
    run_dir="runs/taught",
)

# %% [markdown]
# ## Look inside
#
# The taught questions, sampled, and questions that it has not seen: a model of this size memorizes, so expect nothing there. An episode keeps the token ids as they were sampled, which of them the model wrote (`mask`), and their log-probabilities. Nothing is
# decoded and tokenized again when it is trained.

# %%
policy = searchgym.load_run("runs/taught").policy
policy.greedy = False
after = searchgym.evaluate("SearchQA-Terse-v0", policy, episodes=16, split="train", **ARGUMENTS)
unseen = searchgym.evaluate("SearchQA-Terse-v0", policy, episodes=8, split="dev", **ARGUMENTS)
print(
    "EM before",
    before.metrics["em"],
    "after",
    after.metrics["em"],
    "on unseen questions",
    unseen.metrics["em"],
)
episode = next((e for e in after.episodes if e.outcome.em == 1), after.episodes[0])
print(episode.render(width=100))

# %%
segment = episode.segments[0]
written = [i for i, mask in enumerate(segment.mask) if mask]
tokens = [policy.chat.text([segment.tokens[i]]) for i in written]
chances = np.exp([segment.logprobs[i] for i in written])
figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
axis.bar(range(len(tokens)), chances, color=[f"C{segment.rounds[i]}" for i in written])
axis.set_xticks(range(len(tokens)), [repr(t)[1:-1] for t in tokens], rotation=90, fontsize="x-small")
axis.set(
    ylabel="probability when sampled",
    ylim=(0, 1.05),
    title="The tokens that the model wrote; one colour per round",
)
plt.show()

# %% [markdown]
# ## Steps of GRPO
#
# Reinforcement learning from the taught weights: groups of eight, the advantage of each episode over its group, the clipped objective. Three iterations show that it runs and what to
# watch; they are too few to learn from. `step_kl` says how far an update moved the policy, `clip_fraction` how many tokens it moved too far,
# `sampling_gap` how far the recorded log-probabilities are from those that are computed again for the loss.

# %%
result = searchgym.train(
    trainer="grpo",
    agent="hf",
    agent_options={"model": "runs/taught", "max_new_tokens": 40},
    env="SearchQA-Terse-v0",
    env_options=ARGUMENTS,
    iterations=3,
    questions=8,
    settings={"group_size": 8},
    lr=1e-5 if given else 1e-4,
    eval_episodes=0,
    run_dir="runs/grpo",
)
for row in result.metrics:
    if row.get("em") is not None:
        print({name: round(row[name], 6) for name in ("em", "step_kl", "clip_fraction", "sampling_gap")})

figure, axis = plt.subplots(figsize=(5.5, 3), layout="constrained")
losses = [row["loss"] for row in taught.metrics if row.get("loss") is not None]
axis.plot(range(1, len(losses) + 1), losses, ".-")
axis.set(xlabel="iteration", ylabel="mean −log p of the tokens it should write", title="SFT", ylim=(0, None))
axis.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## Try it
#
# - `SEARCHGYM_MODEL=path/to/Qwen3-0.6B jupyter lab`, or a GGUF file: `HFAgent("folder", gguf_file="model.gguf")` ([base models and GGUF files](../agents/gguf.md)).
# - Train an adapter only: `agent_options={"model": …, "lora": {"rank": 16}}`.
# - [Recipes](../recipes.md) are complete runs for models from 0.6 to 8 billion weights; `--dry-run` estimates memory and time.
