"""TRL's own loop with `searchgym.interop.trl_rollouts`: reward 1.0, the log-probabilities of TRL's own pass, dropped failures.

python tests/interop/trl_rollout.py MODEL    (made by tiny_chat.py with `tools`)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from scripts import Down
from tiny_chat import ARGUMENTS
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl_factory import SMALL

from searchgym.interop.trl import Environments
from searchgym.interop.trl_rollouts import Rollouts

MODEL = sys.argv[1]


def train(rollouts: Rollouts, folder: str, **changes: Any) -> tuple[GRPOTrainer, list[dict[str, Any]]]:
    """One training run, and what each call of the rollout function returned."""
    ids = json.loads((Path(MODEL) / "task_ids.json").read_text("utf-8"))
    rows = Environments(**ARGUMENTS).dataset("train")
    seen: list[dict[str, Any]] = []

    def rollout_func(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        seen.append(rollouts(prompts, trainer))
        return dict(seen[-1])  # TRL takes columns out of it

    trainer = GRPOTrainer(
        model=MODEL,
        args=GRPOConfig(output_dir=folder, **{**SMALL, **changes}),
        train_dataset=rows.select([i for i, task in enumerate(rows["task_id"]) if task in ids]),
        reward_funcs=rollouts.reward,
        rollout_func=rollout_func,
    )
    trainer.train()
    return trainer, seen


def main(folder: str) -> None:
    options = {"max_new_tokens": 60, "thinking": True}
    rollouts = Rollouts(**ARGUMENTS, dialect="tools", num_envs=4, agent=options)
    trainer, seen = train(rollouts, folder)
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    print(
        "rewards", rewards, "sampled tokens", sum(seen[0]["env_mask"][0]), "of", len(seen[0]["env_mask"][0])
    )
    assert rewards == [1.0, 1.0]
    assert len(seen) == 2
    assert all(len(out["episode"]) == 4 for out in seen)
    assert trainer.model.training
    assert [row["completions/clipped_ratio"] for row in trainer.state.log_history if "reward" in row] == [
        0,
        0,
    ]

    trainer, seen = train(rollouts, folder, temperature=1.0, max_steps=1)
    first = seen[0]
    reference = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    gaps = []
    for prompt, completion, logprobs, mask in zip(
        *(first[name] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask")), strict=True
    ):
        assert len(completion) == len(logprobs) == len(mask)
        assert mask[0] == 1
        with torch.no_grad():
            logits = reference(torch.tensor([prompt + completion])).logits.float()[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        gaps.append((expected - torch.tensor(logprobs))[torch.tensor(mask).bool()].abs().max().item())
    print(f"largest gap of log-probabilities {max(gaps):.1e}")
    assert 0 < max(gaps) < 1e-4

    down = Rollouts(**ARGUMENTS, retriever=Down(), dialect="tools", num_envs=4, agent=options)
    trainer, seen = train(down, folder, max_steps=1)
    assert down.reward(seen[0]["episode"]) == [None] * 4
    assert trainer.state.log_history[0]["reward"] is None
    print("retriever down: reward", trainer.state.log_history[0]["reward"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
