"""The planner agent in the training loop: a searcher learns in front of a frozen answerer; one policy learns both roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_world

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.planner.opening import open_planner
from searchgym.agents.planner.policy import PlannerPolicy
from searchgym.errors import ConfigError
from searchgym.trainers.training.api import train

WORLD = small_world("country-terse")


def run(directory: Path, agent_options: dict[str, Any]) -> Any:
    values = {
        "agent": "planner",
        "agent_options": agent_options,
        "trainer": "reinforce",
        "iterations": 1,
        "questions": 4,
        "settings": {"group_size": 4},
        "eval_episodes": 0,
        "env": "SearchQA-Terse-v0",
        "env_options": {"corpus": WORLD, "hops": [1], "max_rounds": 4, "reward": {"em": 1.0, "recall": 0.5}},
    }
    return train(values, directory)


@pytest.mark.parametrize(
    ("options", "contexts"), [({"planner": "candidate", "answerer": "copy"}, 1), ({"planner": "tiny"}, 2)]
)
def test_it_learns_from_what_it_sampled(options: dict[str, Any], contexts: int, tmp_path: Path) -> None:
    result = run(tmp_path / "run", options)
    assert isinstance(result.policy, PlannerPolicy)
    row = result.metrics[-1]
    assert row["updates"] > 0
    assert row["sampling_gap"] < 1e-4
    start = open_planner(**options)
    assert isinstance(start, PlannerPolicy)
    before, after = ([p.detach() for p in policy.module.parameters()] for policy in (start, result.policy))
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    start.load_weights(tmp_path / "run" / "checkpoints" / "step-000001" / "policy")
    loaded = [p.detach() for p in start.module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(loaded, after, strict=True))
    if contexts == 1:
        CandidateAgent().load_weights(tmp_path / "run" / "checkpoints" / "step-000001" / "policy")


def test_two_policies_are_not_trained_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'planner' cannot be trained"):
        run(tmp_path / "run", {"planner": "tiny", "answerer": "candidate"})
