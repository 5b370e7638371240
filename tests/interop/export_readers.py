"""What `searchgym export` writes, read by the real packages. Not part of the test suite: each needs an environment of its own.

    python tests/interop/export_readers.py write DIR        # in the environment of searchgym
    python tests/interop/export_readers.py trl DIR          # where trl 1.16 and torch are installed
    python tests/interop/export_readers.py verifiers DIR    # where verifiers 0.4 is installed

`write` plays the tiny agent and exports its episodes in every format. `trl` trains one step on every type of row and compares
the tokens that are learned with the acts. `verifiers` compares tokens, masks, log-probabilities and rewards. Last run:
2026-11-29, trl 1.16.0, transformers 5.24.0, verifiers 0.4.0, datasets 5.2.0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TYPES = ("language-modeling", "prompt-completion", "unpaired-preference", "prompt-only")


def write(place: Path) -> None:
    """Play episodes and export them."""
    import searchgym
    from searchgym.tables import Episodes, export_episodes
    from searchgym.tables.exporting import ExportOptions

    world = {"name": "country-terse", "size": 1000, "train": 40, "dev": 20, "test": 20}
    result = searchgym.evaluate("SearchQA-Terse-v0", "tiny", episodes=8, samples=2, corpus=world)
    searchgym.save_episodes(place / "episodes.jsonl", result.episodes)
    table = Episodes(place / "episodes.jsonl")
    for kind in TYPES:
        export_episodes(table, place / f"{kind}.jsonl", "trl", ExportOptions(trl_type=kind, force=True))
    export_episodes(table, place / "verifiers", "verifiers", ExportOptions(force=True))


def _reward(completions: list[Any], task_id: list[str], answers: list[list[str]], **_: object) -> list[float]:
    """A reward function of GRPO, which gets the columns of the rows."""
    assert all(isinstance(one, str) for one in task_id)
    assert all(isinstance(one, list) for one in answers)
    return [0.0] * len(completions)


def check_trl(place: Path) -> None:
    """Train one step on each type of row."""
    import torch
    from datasets import load_dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
    from trl.experimental.kto import KTOConfig, KTOTrainer

    marks = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    letters = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
    tokenizer.add_special_tokens(
        {"eos_token": marks[1], "pad_token": marks[2], "additional_special_tokens": marks[:1]}
    )
    tokenizer.chat_template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}{%- else %}{{ m.content + '<|im_end|>\n' }}"
        "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    common = {
        "output_dir": str(place / "out"), "max_steps": 1, "per_device_train_batch_size": 4, "report_to": [],
        "use_cpu": True, "bf16": False,
    }  # fmt: skip
    for kind in TYPES:
        rows = load_dataset("json", data_files=str(place / f"{kind}.jsonl"), split="train")
        both = {
            "model": str(place / "model"),
            "train_dataset": rows,
            "processing_class": tokenizer,
        }
        if kind == "unpaired-preference":
            KTOTrainer(**both, args=KTOConfig(**common, max_length=2048)).train()
        elif kind == "prompt-only":
            args = GRPOConfig(**common, num_generations=2, max_completion_length=4)
            GRPOTrainer(**both, reward_funcs=_reward, args=args).train()
        else:
            whole = kind == "language-modeling"
            args = SFTConfig(**common, max_length=8192, assistant_only_loss=whole)
            trainer = SFTTrainer(**both, args=args)
            acts = {
                "".join(f"{m['content']}<|im_end|>\n" for m in row["messages"] if m["role"] == "assistant")
                if whole
                else f"{row['completion'][0]['content']}<|im_end|>\n"
                for row in rows
            }
            for batch in trainer.get_train_dataloader():
                for labels in batch["labels"]:
                    assert tokenizer.decode(labels[labels != -100]) in acts
            trainer.train()
        print(f"trl {kind}: {len(rows)} rows, one step", torch.__version__)


def check_verifiers(place: Path) -> None:
    """Compare the traces with the episodes."""
    from verifiers.v1.configs.agent import WireAgentConfig
    from verifiers.v1.state import State
    from verifiers.v1.task import WireTaskData
    from verifiers.v1.trace import Trace
    from verifiers.v1.utils.trace_store import read_episodes

    written = [json.loads(line) for line in (place / "episodes.jsonl").read_text().splitlines()]
    read = read_episodes(place / "verifiers", Trace[WireTaskData, State, WireAgentConfig])
    for one, episode in zip(written, read, strict=True):
        (trace,) = episode.traces
        (branch,) = trace.branches
        (segment,) = one["segments"]
        assert branch.token_ids == segment["tokens"]
        assert [int(sampled) for sampled in branch.sampled_mask] == segment["mask"]
        assert branch.logprobs == segment["logprobs"]
        assert episode.num_output_tokens == sum(segment["mask"])
        assert trace.reward == sum(played["reward"] for played in one["rounds"])
        assert trace.metrics["em"] == one["outcome"]["em"]
        assert [m.content for m in branch.messages if m.role == "assistant"] == [
            r["text"] for r in one["rounds"]
        ]
        assert episode.ok
    print(f"verifiers: {len(read)} episodes equal")


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    {"write": write, "trl": check_trl, "verifiers": check_verifiers}[task](place)
