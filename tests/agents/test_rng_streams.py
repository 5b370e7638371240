"""An episode with a random stream of its own does not notice its neighbours."""

from __future__ import annotations

import random

import pytest
import torch

from searchgym.agent import FunctionAgent
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.policy import Policy
from searchgym.agents.rng_streams import RngStreams
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import collect

SEEDS = [11, 12, 13, 14, 15, 16]


@pytest.fixture(scope="module")
def envs() -> SearchVectorEnv:
    return make_vec("SearchQA-Terse-v0", 6, types=["chain"], hops=[2])


def play(policy: Policy, envs: SearchVectorEnv, chosen: list[int], slots: int = 6) -> list[Episode]:
    tasks = envs.task_ids()
    some = SearchVectorEnv.from_config(envs.config, slots)
    torch.manual_seed(0)
    return collect(
        some,
        policy,
        [tasks[i // 2] for i in chosen],
        ids=random.Random(0),
        seeds=[SEEDS[i] for i in chosen],
    )


def acts(episode: Episode) -> list[list[int]]:
    return [segment.tokens for segment in episode.segments]


@pytest.mark.parametrize("make", [lambda: TinyAgent(max_new_tokens=24), lambda: CandidateAgent(init_std=0.5)])
def test_an_episode_is_the_same_beside_others_and_alone(make, envs: SearchVectorEnv) -> None:
    together = play(make(), envs, list(range(6)))
    assert len({str(acts(episode)) for episode in together[:2]}) == 2, "equal questions, different seeds"
    for chosen, slots in (([3], 1), ([5, 3, 1], 2), ([4, 3], 6)):
        for i, episode in zip(chosen, play(make(), envs, chosen, slots), strict=True):
            assert acts(episode) == acts(together[i])
            for one, other in zip(episode.segments, together[i].segments, strict=True):
                torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=1e-4)


def test_other_seeds_give_other_episodes_and_the_generator_is_left_alone(envs: SearchVectorEnv) -> None:
    policy = TinyAgent(max_new_tokens=24)
    before = policy.generator.get_state()
    first = play(policy, envs, [0, 1, 2])
    assert [acts(e) for e in play(policy, envs, [0, 1, 2])] == [acts(e) for e in first]
    assert torch.equal(policy.generator.get_state(), before)
    collect(envs, policy, envs.task_ids()[:2])  # without seeds: as ever
    assert policy.rng_streams is None
    assert not torch.equal(policy.generator.get_state(), before)


def test_fewer_numbers_used_change_no_later_draw() -> None:
    streams = RngStreams()
    streams.start([0, 1], [7, 8])
    first = streams.uniform([0, 1], 5)
    assert first.shape == (2, 5)
    assert ((first >= 0) & (first < 1)).all()
    again = RngStreams()
    again.start([4], [8])
    assert (again.uniform([4], 5) == first[1]).all()
    assert again.seeds([4]) == streams.seeds([1])


def test_a_fork_draws_numbers_of_its_own() -> None:
    drawn = []
    for _ in range(2):
        streams = RngStreams()
        streams.start([0], [7])
        streams.fork(0, [1, 2])
        drawn.append(streams.uniform([0, 1, 2], 4).tolist())
    assert drawn[0] == drawn[1]
    assert len({tuple(row) for row in drawn[0]}) == 3


def test_seeds_that_cannot_be_used(envs: SearchVectorEnv) -> None:
    with pytest.raises(ConfigError, match="1 seeds for 2 tasks"):
        collect(envs, CandidateAgent(), envs.task_ids()[:2], seeds=[1])
    with pytest.raises(NotImplementedError, match=r"implement Agent\.seed"):
        collect(envs, FunctionAgent(lambda observation, info: ""), envs.task_ids()[:1], seeds=[1])
