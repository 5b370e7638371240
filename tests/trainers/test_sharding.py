"""FSDP with two processes on a CPU: the Hugging Face agent learns what it learns in one process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[1] / "agents"))
from hf_models import WORLD, save_taught
from test_distributed import close, launch, rows

from searchgym.trainers.training.api import resume, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed"),
    pytest.mark.usefixtures("no_curve"),
]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
AGENTS: dict[str, dict[str, Any]] = {
    "all": {"attention": "sdpa", "dtype": "float32"},
    "adapter": {"attention": "sdpa", "dtype": "float32", "lora": {"rank": 2}},
}


def configuration(model: str, name: str, iterations: int = 2) -> dict[str, Any]:
    return {
        "agent": "hf",
        "agent_options": {"model": model, "max_new_tokens": 12, **AGENTS[name]},
        "env_options": {"corpus": WORLD, "max_rounds": 2, "reward": {"invalid": -0.5, "new_recall": 1.0}},
        "settings": {"group_size": 3, "kl_coef": 0.05, "skip_equal": False},  # an update in every iteration
        "questions": 3,
        "iterations": iterations,
        "lr": 1e-2,
        "optimizer_options": {"eps": 1e-3},
        "token_budget": 300,  # several passes, not equally many in both processes
        "eval_episodes": 3,
        "checkpoint_every": 1,
        "process_timeout": 300.0,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, str]:
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    model = save_taught(tmp_path_factory.mktemp("model"))
    jobs: list[list[object]] = [[str(two / name), configuration(model, name)] for name in AGENTS]
    for name in AGENTS:
        jobs.append([str(two / f"resumed-{name}"), configuration(model, name, 1)])
        jobs.append([str(two / f"resumed-{name}"), {"iterations": 2, "resume": True}])
    jobs.append([str(two / "refused"), {"agent": "candidate", "iterations": 1, "questions": 1}])
    for rank, (status, output) in enumerate(launch(jobs, **FSDP)):
        assert status == 2, f"process {rank}:\n{output}"
        assert "ConfigError: agent 'candidate' cannot be sharded" in output, output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("searchgym.trainers.training.recorder.draw_curve", lambda *_: None)
        for name in AGENTS:
            train({**configuration(model, name), "streams": "episode"}, one / name)
    return one, two, model


def weights(run: Path, step: int = 2) -> dict[str, torch.Tensor]:
    policy = run / "checkpoints" / f"step-{step:06d}" / "policy"
    (file,) = policy.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", AGENTS)
def test_shards_learn_what_the_whole_learns(runs, name):
    one, two = runs[0] / name, runs[1] / name
    assert sum(row.get("updates", 0) for row in rows(one)) >= 2
    for iteration, (a, b) in enumerate(zip(rows(one), rows(two), strict=True)):
        close(a, b, f"iteration {iteration}")
    torch.testing.assert_close(weights(one), weights(two), atol=1e-4, rtol=1e-3)
    before = weights(two, 0)
    assert any(not torch.equal(before[n], tensor) for n, tensor in weights(two).items())
    assert {n: t.shape for n, t in weights(one).items()} == {n: t.shape for n, t in weights(two).items()}


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_in_shards_goes_on_in_shards_or_whole(runs, tmp_path, name):
    straight, resumed = runs[1] / name, runs[1] / f"resumed-{name}"
    assert [row["iteration"] for row in rows(resumed)] == [0, 1, 2]
    torch.testing.assert_close(weights(resumed), weights(straight), atol=1e-6, rtol=1e-5)
    shutil.copytree(resumed, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "step-000002")
    assert resume(tmp_path / "whole").metrics[-1]["updates"] > 0
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(straight), atol=1e-4, rtol=1e-3)
