"""Two processes on this machine give what one gives, and one that is lost ends the other."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import preloaded
import pytest
import torch

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.errors import ConfigError
from searchgym.records.episode import load_episodes
from searchgym.trainers.distributed.data_parallel import Distributed
from searchgym.trainers.training.api import resume, train

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed"),
    pytest.mark.usefixtures("no_curve"),
]
SCRIPT = Path(__file__).with_name("two_processes.py")
BASE = {
    "agent": "candidate",
    "env_options": {"types": ["chain"], "hops": [2], "reward": {"recall": 1.0, "f1": 1.0}},
    "iterations": 3,
    "questions": 5,
    "lr": 0.1,
    "eval_episodes": 6,
    "checkpoint_every": 1,
    "keep_checkpoints": 9,
    "process_timeout": 120.0,
    # Adam would blow up the rounding of gradients that are zero to whole steps.
    "optimizer_options": {"eps": 1e-3},
}
RUNS = {
    "grpo": {"settings": {"group_size": 4, "kl_coef": 0.01}, "token_budget": 8},
    "reinforce++": {"settings": {"group_size": 2, "variant": "reinforce++"}, "epochs": 2},
    "tree-grpo": {"trainer": "tree-grpo", "settings": {"group_size": 6}},
    "lag": {"settings": {"group_size": 3}, "rollout_lag": 1},
    "ppo": {"trainer": "ppo", "questions": 3, "minibatches": 1},  # three samples: shares differ in size
}


def launch(jobs: list[list[object]], **environment: str) -> list[tuple[int, str]]:
    """Exit status and output of two processes that torchrun might have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    both = preloaded.PreloadedPopen(
        [sys.executable, str(SCRIPT), json.dumps(jobs)],
        env={**os.environ, **common},
        stdout=subprocess.PIPE,
        start_new_session=True,  # a group of their own, to be ended together
        text=True,
    )
    try:
        printed, _ = both.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(both.pid, signal.SIGKILL)
    assert both.returncode == 0
    return [(status, output) for status, output in json.loads(printed)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """The directories of runs by one process and by two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    jobs: list[list[object]] = [[str(two / name), {**BASE, **changes}] for name, changes in RUNS.items()]
    jobs.append([str(two / "resumed"), {**BASE, **RUNS["grpo"], "iterations": 2}])
    jobs.append([str(two / "resumed"), {"iterations": 3, "resume": True}])
    for rank, (status, output) in enumerate(launch(jobs)):
        assert status == 0, f"process {rank}:\n{output}"
    for name, changes in RUNS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("searchgym.trainers.training.recorder.draw_curve", lambda *_: None)
            train({**BASE, **changes, "streams": "episode"}, one / name)
    return one, two


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    policy = CandidateAgent()
    policy.load_weights(run / "checkpoints" / "step-000003" / "policy")
    return dict(policy.module.state_dict())


def close(one: object, two: object, where: str) -> None:
    if isinstance(one, dict):
        assert isinstance(two, dict)
        assert one.keys() == two.keys(), where
        for key in one:
            close(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert isinstance(two, list)
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            close(a, b, f"{where}[{i}]")
    elif isinstance(one, float):
        assert math.isclose(one, two, rel_tol=1e-3, abs_tol=2e-5), (where, one, two)  # type: ignore[arg-type]
    else:
        assert one == two, where


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_what_one_gives(runs, name):
    one, two = (directory / name for directory in runs)
    assert sum(row.get("updates", 0) for row in rows(one)) >= 2
    for iteration, (a, b) in enumerate(zip(rows(one), rows(two), strict=True)):
        close(a, b, f"iteration {iteration}")
    torch.testing.assert_close(weights(one), weights(two), atol=1e-5, rtol=1e-4)
    assert any(bool((tensor != 0).any()) for tensor in weights(one).values())
    first, second = (list(load_episodes(run / "episodes" / "train-000003.jsonl")) for run in (one, two))
    assert [e.episode_id for e in first] == [e.episode_id for e in second]
    assert [[s.tokens for s in e.segments] for e in first] == [[s.tokens for s in e.segments] for e in second]


@pytest.mark.slow
def test_a_run_goes_on_with_two_processes_or_with_one(runs, tmp_path):
    straight, resumed = (runs[1] / name for name in ("grpo", "resumed"))
    # Iteration 2 was the end once, and was evaluated then.
    ends = [{k: v for k, v in rows(run)[2].items() if k != "eval"} for run in (resumed, straight)]
    assert ends[0] == ends[1]
    assert rows(resumed)[3] == rows(straight)[3]
    torch.testing.assert_close(weights(resumed), weights(straight), atol=0.0, rtol=0.0)
    shutil.copytree(resumed, tmp_path / "alone")
    shutil.rmtree(tmp_path / "alone" / "checkpoints" / "step-000003")
    resume(tmp_path / "alone")
    torch.testing.assert_close(weights(tmp_path / "alone"), weights(straight), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("raise", 2), ("exit", 3)])
def test_a_lost_process_ends_the_other_with_the_reason(tmp_path, how, status):
    config = {**BASE, **RUNS["grpo"], "eval_episodes": 0, "fail": how}
    (zero, said), (one, _) = launch([[str(tmp_path / "run"), config]])
    assert (zero, one) == (2, status)
    assert "LostProcessError: process 0 of 2 of this run has lost another one" in said
    assert "--resume" in said
    assert [row["iteration"] for row in rows(tmp_path / "run")] == [0, 1]
    assert resume(tmp_path / "run").metrics[-1]["iteration"] == 3  # alone


def test_what_needs_one_process_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="record and replay need one process"):
        train({"record": str(tmp_path / "tape"), "rollout_lag": 1}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def shares(count: int, groups: list[str], costs: list[int]) -> list[list[int]]:
    """What each of `count` processes owns of samples with these groups and costs."""
    samples = [
        SimpleNamespace(episode=SimpleNamespace(group_id=g), cost=c)
        for g, c in zip(groups, costs, strict=True)
    ]
    policy = SimpleNamespace(cost=lambda sample: sample.cost)
    owned = []
    for rank in range(count):
        process = Distributed.__new__(Distributed)
        process.rank, process.count = rank, count
        owned.append(process.assign(policy, samples))
    return owned


def test_groups_stay_whole_and_costs_are_balanced():
    groups = list("aaabbbccdd")
    owned = shares(2, groups, [5, 5, 5, 5, 5, 5, 7, 7, 8, 8])
    assert sorted(owned[0] + owned[1]) == list(range(10))
    assert not {groups[i] for i in owned[0]} & {groups[i] for i in owned[1]}
    assert shares(3, ["a"] * 5, [1] * 5) == [[0, 3], [1, 4], [2]]
    assert shares(4, ["a", "b"], [3, 9]) == [[1], [0], [], []]


def test_shares_are_put_together_in_order():
    class Told(Distributed):
        def _gather(self, value, group):
            return [list(range(10))[rank :: self.count] for rank in range(self.count)]

    process = Told.__new__(Told)
    process.rank, process.count, process._playing = 1, 3, None
    assert list(process.shard(range(10))) == [1, 4, 7]
    assert process.all_gather_ordered([1, 4, 7]) == list(range(10))
