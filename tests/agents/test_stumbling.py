"""The scripted agent that errs at random: its skills, its mistakes, and that it can be continued."""

from __future__ import annotations

from typing import Any

import pytest

from searchgym.agents.scripted import StumblingAgent
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import Start

SMALL = {"name": "country", "size": 1000, "train": 30, "dev": 5, "test": 5}


@pytest.fixture(scope="module")
def envs() -> SearchVectorEnv:
    return make_vec(
        "SearchQA-v0",
        16,
        corpus=SMALL,
        split="train",
        max_rounds=6,
        reveal_gold=True,
        autoreset_mode="Disabled",
    )


def exact_matches(envs: SearchVectorEnv, **options: Any) -> float:
    episodes = collect(envs, StumblingAgent(**options), envs.task_ids(), seeds=range(30))
    assert all(episode.terminated for episode in episodes)
    return sum(episode.outcome.em for episode in episodes) / len(episodes)


def test_mistakes_cost(envs: SearchVectorEnv) -> None:
    found = [exact_matches(envs, mistakes=mistakes) for mistakes in (0.0, 0.3, 1.0)]
    assert found[0] == 1.0
    assert found[0] > found[1] > found[2]
    assert exact_matches(envs, skill="greedy", mistakes=0.0) < 0.5


def test_greedy_reads_no_gold_data(envs: SearchVectorEnv) -> None:
    agent = StumblingAgent(skill="greedy")
    assert not agent.needs_gold
    hidden = make_vec("SearchQA-v0", 16, corpus=SMALL, split="train", max_rounds=6, autoreset_mode="Disabled")
    acts = [
        [[record.text for record in e.rounds] for e in collect(vec, agent, vec.task_ids(), seeds=range(30))]
        for vec in (envs, hidden)
    ]
    assert acts[0] == acts[1]


def test_a_continued_episode_knows_what_it_was_shown(envs: SearchVectorEnv) -> None:
    """Without mistakes, every continuation searches what is lacking and answers rightly."""
    agent = StumblingAgent(mistakes=0.0)
    long = [e for e in collect(envs, agent, envs.task_ids(), seeds=range(30)) if len(e.rounds) > 2]
    starts = [Start(e.task_id, prefix=e, fork_round=t) for e in long for t in range(1, len(e.rounds))]
    continued = collect(envs, agent, starts=starts, seeds=range(len(starts)))
    for start, episode in zip(starts, continued, strict=True):
        queries = [query for record in episode.rounds for query in record.action.queries]
        assert len(queries) == len(set(queries)) > start.fork_round - 1
        assert episode.outcome.em == 1.0


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="skill is 'wise'"):
        StumblingAgent(skill="wise")
    with pytest.raises(ConfigError, match="mistakes is 2"):
        StumblingAgent(mistakes=2)
