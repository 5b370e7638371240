"""The seconds tier learns: the demonstration of docs/agents/candidate.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchgym.trainers.training.api import train

DEMONSTRATION = {
    "agent": "candidate",
    "env": "SearchQA-Terse-v0",
    "env_options": {"types": ["chain"], "hops": [1, 2, 3]},
    "questions": 32,
    "lr": 0.15,
    "settings": {"group_size": 16, "entropy_coef": 0.01, "skip_equal": False},
    "checkpoint_every": 100,
    "eval_episodes": 100,
    "threads": 1,
}


@pytest.mark.slow
def test_grpo_teaches_the_candidate_policy(tmp_path: Path) -> None:
    result = train({**DEMONSTRATION, "questions": 16, "iterations": 45, "seed": 0}, tmp_path / "run")
    assert result.before is not None
    assert result.after is not None
    assert result.before["em"].value <= 0.3
    assert result.after["em"].value >= 0.9


def test_permuted_rewards_teach_it_nothing(tmp_path: Path) -> None:
    settings = {**DEMONSTRATION["settings"], "permute_rewards": True}  # type: ignore[dict-item]
    result = train(
        {**DEMONSTRATION, "settings": settings, "questions": 16, "iterations": 16, "seed": 1},
        tmp_path / "run",
    )
    assert result.after is not None
    assert result.after["em"].value <= 0.3
