"""Workers on a Ray of this test's own: the same episodes as without them, also when one dies."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest
from helpers import candidate_run

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.errors import ConfigError
from searchgym.records.episode import load_episodes
from searchgym.trainers.config import make_config
from searchgym.trainers.core.rollouts import RolloutRequest, run_requests
from searchgym.trainers.training.api import train
from searchgym.trainers.training.parts import open_parts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.usefixtures("no_curve"),
]
CONFIG = candidate_run(settings={"group_size": 3}, iterations=2, process_timeout=240.0)


@pytest.fixture(scope="module")
def ray():
    """One Ray for all tests here: starting it takes longer than they do."""
    import ray

    from searchgym.trainers.distributed.ray_workers import start_ray

    start_ray(ray, num_cpus=2, object_store_memory=100_000_000)
    yield ray
    ray.shutdown()


def tokens(groups):
    return [[[segment.tokens for segment in episode.segments] for episode in group] for group in groups]


def ids(groups):
    return [[episode.episode_id for episode in group] for group in groups]


def test_two_workers_one_or_none_give_the_same_run(ray, tmp_path):
    files = []
    for workers in (0, 1, 2):
        run = tmp_path / str(workers)
        result = train({**CONFIG, "rollout_workers": workers, "streams": "episode"}, run)
        assert all(row.pop("lost_workers", 0) == 0 for row in result.metrics)
        files.append((result.metrics, result.policy.module.state_dict()["weight"].tolist()))
    assert files[0] == files[1] == files[2]
    assert sum(row.get("updates", 0) for row in files[0][0]) > 0


def test_branches_are_shared_out_over_workers(ray, tmp_path):
    tree = {**CONFIG, "trainer": "tree-grpo", "settings": {"group_size": 6}, "streams": "episode"}
    runs = []
    for workers in (0, 2):
        run = tmp_path / str(workers)
        result = train({**tree, "rollout_workers": workers}, run)
        rows = [{k: v for k, v in row.items() if k != "lost_workers"} for row in result.metrics]
        played = list(load_episodes(next((run / "episodes").glob("train-*.jsonl"))))
        runs.append((rows, result.policy.module.state_dict()["weight"].tolist(), played))
    assert runs[0] == runs[1]
    assert sum(episode.parent_id is not None for episode in runs[0][2]) == 4 * 4


def test_what_a_dead_worker_was_to_play_others_play(ray):
    from searchgym.trainers.distributed.ray_workers import RayWorkers, WorkersLostError

    config = make_config({**CONFIG, "rollout_workers": 2})
    parts = open_parts(config)
    policy = CandidateAgent(init_std=0.3)
    requests = [RolloutRequest(task, 2, seed) for seed, task in enumerate(parts.envs.task_ids()[:5])]
    expected = run_requests(policy, parts.envs, requests)
    with RayWorkers(config, open_parts) as workers:
        first = workers(policy, parts.envs, requests)
        victims = workers.processes()
        os.kill(victims[0], signal.SIGKILL)
        second = workers(policy, parts.envs, requests)
        assert workers.lost == 1
        assert len(workers.processes()) == 1
        third = workers(policy, parts.envs, requests[:1])  # the dead one is replaced
        assert len(workers.processes()) == 2
        for groups in (first, second):
            assert ids(groups) == ids(expected)
            assert tokens(groups) == tokens(expected)
        assert tokens(third) == tokens(expected)[:1]
        for process in workers.processes():
            os.kill(process, signal.SIGKILL)
        with pytest.raises(WorkersLostError, match="all 2 rollout workers have died"):
            workers(policy, parts.envs, requests)


def test_an_only_worker_that_dies_is_replaced_once_per_collection(ray):
    from searchgym.trainers.distributed.ray_workers import RayWorkers

    config = make_config({**CONFIG, "rollout_workers": 1})
    parts = open_parts(config)
    policy = CandidateAgent(init_std=0.3)
    requests = [RolloutRequest(task, 2, seed) for seed, task in enumerate(parts.envs.task_ids()[:3])]
    with RayWorkers(config, open_parts) as workers:
        first = workers(policy, parts.envs, requests)
        os.kill(workers.processes()[0], signal.SIGKILL)
        second = workers(policy, parts.envs, requests)
        assert workers.lost == 1
    assert tokens(second) == tokens(first) == tokens(run_requests(policy, parts.envs, requests))


def test_what_a_worker_cannot_open_is_said(ray):
    from searchgym.trainers.distributed.ray_workers import RayWorkers, WorkersLostError

    config = make_config({**CONFIG, "rollout_workers": 1, "agent_options": {"init_std": -1.0}})
    with (
        RayWorkers(config, open_parts) as workers,
        pytest.raises(WorkersLostError, match=r"init_std is -1\.0"),
    ):
        workers(CandidateAgent(), None, [RolloutRequest("x", 1, 1)])


def test_an_unknown_task_is_the_users_error(ray):
    from searchgym.trainers.distributed.ray_workers import RayWorkers

    config = make_config({**CONFIG, "rollout_workers": 1})
    with RayWorkers(config, open_parts) as workers, pytest.raises(ConfigError, match="no-such-task"):
        workers(CandidateAgent(), None, [RolloutRequest("no-such-task", 1, 1)])
