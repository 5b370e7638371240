"""What the families of Forks are made of, by enumeration, and that enumeration agrees with play."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from searchgym.agents.candidate import CandidateAgent
from searchgym.corpora.forks import FAMILIES
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import agent_context_of, collect
from searchgym.trainers.credit_audit.exact import ExactValues
from searchgym.trainers.credit_audit.structure import Structure, measure_structure


def envs(family: str, num_envs: int = 128, **arguments: Any) -> SearchVectorEnv:
    parameters = {name: arguments.pop(name) for name in FAMILIES[family].parameters if name in arguments}
    style = arguments.pop("style", "terse")
    corpus = {
        "name": "forks",
        "family": family,
        "style": style,
        "train": 20,
        "dev": 0,
        "test": 0,
        **parameters,
    }
    return make_vec("SearchQA-Forks-v0", num_envs, corpus=corpus, autoreset_mode="Disabled", **arguments)


def lookup(vec: SearchVectorEnv, **options: Any) -> CandidateAgent:
    agent = CandidateAgent(memory=False, start="lookup", **options)
    agent.bind(agent_context_of(vec.config))
    return agent


@lru_cache
def mean_value(family: str, questions: int = 1, **parameters: Any) -> float:
    """The exact value of the start policy; a structure costs five times as much."""
    vec = envs(family, **parameters)
    values = ExactValues(lookup(vec), vec)
    values.solve(tasks := vec.task_ids()[:questions])
    return float(np.mean([values.value(task) for task in tasks]))


@lru_cache
def structure(family: str, questions: int = 1, **parameters: Any) -> Structure:
    vec = envs(family, **parameters)
    return measure_structure(lookup(vec), vec, vec.task_ids()[:questions])


@pytest.mark.parametrize("style", ["terse", "natural"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_leaves_room(family: str, style: str) -> None:
    # guess and trap mix two kinds of questions, in shares that this many questions hold exactly.
    assert 0.2 <= mean_value(family, {"guess": 10, "trap": 2}.get(family, 1), style=style) <= 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_enumerated_values_are_the_means_of_episodes(family: str) -> None:
    vec = envs(family)
    episodes = collect(vec, lookup(vec, seed=1), vec.task_ids()[:1] * 384)
    rewards = np.array([episode.reward for episode in episodes])
    value = mean_value(family)
    assert abs(rewards.mean() - value) <= 3 * np.sqrt(value * (1 - value) / len(rewards))


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_are_shares(family: str) -> None:
    found = structure(family)
    assert np.isclose(sum(found.round_shares), 1)
    assert found.decisive_round is not None
    assert found.decisive_share == max(found.round_shares) == found.round_shares[found.decisive_round - 1]
    for share in (found.fork_share, found.search_share, found.evidence_share, found.credited_share):
        assert share is not None
        assert 0 < share <= 1
    assert found.to_json()["round_shares"] == list(found.round_shares)


@pytest.mark.parametrize("family", ["decoys", "trap", "routes"])
def test_variances_of_rounds_add_up_to_that_of_the_outcome(family: str) -> None:
    found = structure(family)
    assert np.isclose(found.value, mean_value(family))
    assert np.isclose(found.variance, found.value * (1 - found.value))


def test_one_parameter_moves_the_share_of_contributing_rounds() -> None:
    shares = [structure("idle", idle=idle).evidence_share for idle in (0, 2, 4, 8)]
    assert all(share is not None for share in shares)
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
    assert shares[0] > 0.85  # type: ignore[operator]
    assert shares[-1] < 0.2  # type: ignore[operator]


def test_idle_episodes_are_long_and_need_two_searches() -> None:
    found = structure("idle")
    assert found.right_searches is not None
    assert 6 <= found.right_searches <= 10
    assert found.fork_share < 0.2


def test_one_round_decides_among_decoys() -> None:
    found = structure("decoys")
    assert (found.decisive_round, found.decisive_share > 0.7) == (2, True)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"family": "trap", "recovery": 0.0}, {"family": "trap", "recovery": 1.0}),
        ({"family": "repair", "dead": 8}, {"family": "repair", "dead": 3}),
        ({"family": "decoys"}, {"family": "repair"}),
    ],
)
def test_recoverability(worse: dict[str, Any], better: dict[str, Any]) -> None:
    low, high = structure(**worse).recoverability, structure(**better).recoverability
    assert low is not None
    assert high is not None
    assert low < high - 0.1


@pytest.mark.parametrize(
    ("family", "easy", "hard"),
    [
        ("decoys", {"decoys": 1}, {"decoys": 9}),
        ("idle", {"idle": 0}, {"idle": 8}),
        ("trap", {"traps": 1}, {"traps": 4}),
        ("delayed", {"delay": 2}, {"delay": 5}),
        ("redundant", {"twins": 1}, {"twins": 3}),
        ("routes", {"extra": 1}, {"extra": 4}),
        ("repair", {"dead": 1}, {"dead": 8}),
    ],
)
def test_parameters_set_the_difficulty(family: str, easy: dict[str, Any], hard: dict[str, Any]) -> None:
    assert mean_value(family, **easy) > mean_value(family, **hard) + 0.02


def test_guessing_is_worth_its_share() -> None:
    vec = envs("guess", guess=0.5)
    found = ExactValues(lookup(vec), vec)
    found.solve(tasks := vec.task_ids()[:4])
    values = [found.value(task) for task in tasks]
    assert values[1] > values[0] + 0.2  # the second and the fourth question suggest the answer
    assert values[3] > values[2] + 0.2


def test_tracking_gold_changes_no_value() -> None:
    vec = envs("redundant")
    agent = lookup(vec)
    tasks = vec.task_ids()[:1]
    plain, tracked = ExactValues(agent, vec), ExactValues(agent, vec, track_gold=True)
    plain.solve(tasks)
    tracked.solve(tasks)
    assert np.isclose(plain.value(tasks[0]), tracked.value(tasks[0]))
    assert tracked.states >= plain.states
    assert not any(decision.new_gold_C.any() for decision in plain.decisions())
    assert any(decision.new_gold_C.any() for decision in tracked.decisions())


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ({"reward": "f1"}, {}, "reward is"),
        ({}, {"fork": -1.0}, "fork is -1.0"),
        ({}, {"neutral": float("nan")}, "neutral is nan"),
        ({}, {"max_states": 10}, "max_states is 10"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    vec = envs("trap", **arguments)
    with pytest.raises(ConfigError, match=says):
        measure_structure(lookup(vec), vec, vec.task_ids()[:1], **options)
