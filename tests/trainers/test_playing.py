"""Groups with seeds, and an iteration collected while the one before is learned from."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from helpers import candidate_run

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, SearchGymError, TrainingError
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.core import rollouts
from searchgym.trainers.core.rollouts import (
    PrefetchCollector,
    RolloutRequest,
    SeededRollouts,
    check_same,
    copy_weights,
    run_requests,
)
from searchgym.trainers.training.api import resume, train

pytestmark = pytest.mark.usefixtures("no_curve")
CONFIG = candidate_run(checkpoint_every=1, keep_checkpoints=9)


@pytest.fixture(scope="module")
def envs():
    return make_vec("SearchQA-Terse-v0", 4, types=["chain"], hops=[2])


def written(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weight(result):
    return result.policy.module.state_dict()["weight"].tolist()


def test_a_group_is_its_order(envs):
    tasks = envs.task_ids()
    requests = [RolloutRequest(tasks[i], 2, i) for i in range(3)]
    policy = CandidateAgent(init_std=0.5)
    together = run_requests(policy, envs, requests)
    for request, group in zip(requests, together, strict=True):
        (alone,) = run_requests(policy, envs, [request])
        assert [e.episode_id for e in alone] == [e.episode_id for e in group]
        assert [e.rounds[0].text for e in alone] == [e.rounds[0].text for e in group]
        assert {e.group_id for e in alone} == {e.group_id for e in group}
    assert len({e.group_id for group in together for e in group}) == 3
    assert len({e.episode_id for group in together for e in group}) == 6
    assert run_requests(policy, envs, []) == []


def test_orders_come_from_a_generator_of_their_own(envs):
    seen = []

    def play(policy, envs, requests):
        seen.append(requests)
        return [[] for _ in requests]

    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    for _ in range(2):
        SeededRollouts(np.random.default_rng(5), play)(None, envs, ["a", "b"], 3, rng)
    assert rng.bit_generator.state == before
    assert seen[0] == seen[1]
    assert [(o.task_id, o.size) for o in seen[0]] == [("a", 3), ("b", 3)]
    assert seen[0][0].seed != seen[0][1].seed


def test_playing_ahead_uses_the_weights_of_its_start(envs):
    policy, rollout_policy = CandidateAgent(init_std=0.5), CandidateAgent()
    going = threading.Event()

    def collect(player):
        going.wait(30)
        return [[float(player.module.weight.detach().sum())]]

    ahead = PrefetchCollector(rollout_policy, collect)
    policy.version = 7
    expected = float(policy.module.weight.detach().sum())
    ahead.start(policy)
    policy.module.weight.data.zero_()  # an update meanwhile
    going.set()
    assert ahead.running
    assert ahead.wait() == [[expected]]
    assert not ahead.running
    assert rollout_policy.version == 7
    copy_weights(policy, rollout_policy)
    assert float(rollout_policy.module.weight.detach().abs().sum()) == 0.0


def test_what_goes_wrong_ahead_is_raised_where_it_is_waited_for():
    def collect(player):
        raise TrainingError("the index is gone")

    ahead = PrefetchCollector(CandidateAgent(), collect)
    ahead.start(CandidateAgent())
    with pytest.raises(TrainingError, match="the index is gone"):
        ahead.wait()


def test_a_lag_of_one_is_what_it_says(tmp_path):
    result = train({**CONFIG, "rollout_lag": 1}, tmp_path / "run")
    rows = result.metrics[1:]
    assert [row["tasks_drawn"] for row in rows] == [4, 8, 12, 16]
    assert rows[0]["staleness"] == 0.0
    for row, before in zip(rows[1:], rows, strict=False):
        assert row["staleness"] == before["updates"] > 0
    assert "sampling_kl" in rows[-1], "older weights sampled: the ratio is not 1"
    assert result.policy.version == sum(row["updates"] for row in rows)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["streams"] == "episode"
    # The first two iterations are collected with the same weights as without a lag; learning differs from then on.
    plain = train({**CONFIG, "streams": "episode"}, tmp_path / "plain").metrics[1:]
    assert [row["reward"] for row in plain[:1]] == [row["reward"] for row in rows[:1]]
    assert "staleness" not in plain[0]
    assert plain[-1]["surprisal"] != rows[-1]["surprisal"]


def test_a_lagging_run_is_deterministic_and_resumes(tmp_path, monkeypatch):
    straight = train({**CONFIG, "rollout_lag": 1}, tmp_path / "straight")
    again = train({**CONFIG, "rollout_lag": 1}, tmp_path / "again")
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == (
        tmp_path / "straight" / "metrics.jsonl"
    ).read_bytes()
    assert weight(again) == weight(straight)

    credit, calls = GRPO.credit, []

    def failing(self, groups):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return credit(self, groups)

    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "credit", failing)
        with pytest.raises(KeyboardInterrupt):
            train({**CONFIG, "rollout_lag": 1}, tmp_path / "broken")
    assert (tmp_path / "broken" / "checkpoints" / "step-000002" / "ahead.jsonl").exists()
    resumed = resume(tmp_path / "broken")
    assert weight(resumed) == weight(straight)
    assert written(tmp_path / "broken") == written(tmp_path / "straight")


def test_nothing_is_collected_after_the_last_iteration(tmp_path, monkeypatch):
    collected = []

    def counting(policy, envs, requests):
        collected.append(len(requests))
        return run_requests(policy, envs, requests)

    monkeypatch.setattr("searchgym.trainers.training.loop.run_requests", counting)
    train({**CONFIG, "iterations": 2, "rollout_lag": 1}, tmp_path / "run")
    assert collected == [4, 4]
    assert not (tmp_path / "run" / "checkpoints" / "step-000002" / "ahead.jsonl").exists()


def test_processes_with_other_episodes_are_found_out(envs, monkeypatch):
    groups = run_requests(CandidateAgent(), envs, [RolloutRequest(envs.task_ids()[0], 2, 1)])

    class Two:
        count = 2

        def __init__(self, others):
            self.others = others

        def gather(self, value):
            return [value, self.others or value]

    monkeypatch.setattr(rollouts, "world", lambda: Two(None))
    check_same(groups)
    monkeypatch.setattr(rollouts, "world", lambda: Two("something else"))
    with pytest.raises(TrainingError, match=r"self\.context\.play"):
        check_same(groups)


def test_a_lag_of_two_is_refused():
    with pytest.raises(ConfigError, match="rollout_lag"):
        train({**CONFIG, "rollout_lag": 2})
    assert issubclass(ConfigError, SearchGymError)
