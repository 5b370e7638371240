"""Reward terms of one's own, by every door, and reward wrappers where a batched rollout pays exactly what they pay."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import ClipReward, NormalizeReward, TransformReward

import searchgym
from searchgym import RewardContext, RewardTerm, SearchEnv
from searchgym.env.reward_weights import portable_reward
from searchgym.errors import ConfigError, PluginError, UnknownIdError

MINE = '''
"""Rewards of one file."""

from searchgym import RewardContext, RewardTerm


def brevity(context: RewardContext) -> float:
    """1 for an answer of one word."""
    return len(context.outcome.answer.split()) == 1


def read(context):
    return len(context.record.hits) / 10


reading = RewardTerm(read, "passages read", last=False)
number = 3
'''
SCRIPT = ["<search> Ada </search>", "<search> river </search>", "<answer> Bern </answer>"]


def rounds_used(context: RewardContext) -> float:
    return -len(context.rounds)


def play(env: Any, task_id: str) -> tuple[list[float], list[dict[str, float]]]:
    env.reset(options={"task_id": task_id})
    steps = [env.step(text) for text in SCRIPT]
    return [float(step[1]) for step in steps], [step[4]["reward_terms"] for step in steps]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


@pytest.fixture
def task_id(toy: str) -> str:
    return SearchEnv(corpus=toy).task_ids()[0]


def test_functions_and_files_are_terms_like_others(toy: str, task_id: str, mine: Path) -> None:
    reward = {"em": 1.0, "mine.py:brevity": 0.5, "mine.py:reading": 1.0, rounds_used: 0.1}
    env = SearchEnv(corpus=toy, reward=reward)
    rewards, terms = play(env, task_id)
    own = "test_own_rewards.py:rounds_used"
    assert list(terms[0]) == ["em", "mine.py:brevity", "mine.py:reading", own]
    assert [t["mine.py:reading"] for t in terms] == [0.0, 0.2, 0.0]  # a term of rounds
    assert [t["mine.py:brevity"] for t in terms] == [0.0, 0.0, 0.5]  # a function is a term of the outcome
    assert terms[2][own] == pytest.approx(-0.3)  # it sees all rounds
    assert rewards == pytest.approx([sum(t.values()) for t in terms])

    def agent(observation: str, info: dict[str, Any]) -> str:
        return SCRIPT[info.get("round", 0)]

    (episode,) = searchgym.rollout(env, agent, task_ids=[task_id])
    assert [r.reward_terms for r in episode.rounds] == terms
    assert episode.env["reward"] == {"em": 1.0, "mine.py:brevity": 0.5, "mine.py:reading": 1.0, own: 0.1}
    assert json.loads(json.dumps(episode.to_json()))["rounds"][2]["reward_terms"] == terms[2]


def test_one_function_is_the_whole_reward(toy: str, task_id: str) -> None:
    assert play(SearchEnv(corpus=toy, reward=rounds_used), task_id)[0] == [0.0, 0.0, -3.0]
    rewards, terms = play(gym.make("SearchQA-v0", corpus=toy, reward=lambda context: 2), task_id)
    assert rewards == [0.0, 0.0, 2.0]
    assert terms[2] == {"<lambda>": 2.0}
    vector = searchgym.make_vec("SearchQA-v0", 2, corpus=toy, reward=rounds_used)
    vector.reset(options={"task_ids": [task_id, task_id]})
    paid = [vector.step([text, text])[1].tolist() for text in SCRIPT]
    assert paid == [[0.0, 0.0], [0.0, 0.0], [-3.0, -3.0]]


def test_a_term_may_need_a_judge(toy: str) -> None:
    term = RewardTerm(lambda context: context.verdict.utility or 0.0, needs_verdict=True)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="needs a judge"):
        SearchEnv(corpus=toy, reward=term)
    assert SearchEnv(corpus=toy, reward=term, judge="oracle").config.verdict_pays


def test_a_lost_episode_asks_no_term(toy: str, task_id: str) -> None:
    def explode(context: RewardContext) -> float:
        raise AssertionError("never called")

    env = SearchEnv(corpus=toy, reward=explode)
    env.reset(options={"task_id": task_id})
    _, reward, _, truncated, info = env.truncate(searchgym.StopReason.AGENT_FAILED)
    assert (reward, truncated, info["valid_for_training"]) == (0.0, True, False)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda context: 1 / 0, r"reward term '<lambda>', question .*, round 3: ZeroDivisionError"),
        (lambda context: float("nan"), "gave nan: return a finite number"),
        (lambda context: np.float32("inf"), "return a finite number"),
        (lambda context: "1", "gave '1': return a finite number"),
        (lambda context: None, "gave None: return a finite number"),
    ],
)
def test_what_a_term_must_not_give(
    toy: str, task_id: str, function: Callable[[RewardContext], Any], message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        play(SearchEnv(corpus=toy, reward=function), task_id)


@pytest.mark.parametrize(
    ("reward", "kind", "message"),
    [
        ("brevity", UnknownIdError, 'FILE.py:NAME", or the function itself'),
        ("nobody.py:brevity", ConfigError, r"nobody\.py cannot be read"),
        ("mine.py:brevty", ConfigError, r"no function 'brevty'\. Did you mean 'brevity'"),
        ("mine.py:number", PluginError, "give a function of a RewardContext"),
        ({"mine.py:brevity": float("inf")}, ConfigError, "give a finite number"),
        ({"mine.py:brevity": 1.0, "./mine.py:brevity": 1.0}, ConfigError, "two terms that are named"),
        ({}, ConfigError, "give a term like"),
        (3, ConfigError, "give a term like"),
        (RewardTerm(None), PluginError, "has no function"),
    ],
)
def test_terms_that_are_refused(
    toy: str, mine: Path, reward: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        SearchEnv(corpus=toy, reward=reward)


def test_what_can_be_saved_is_saved_by_name(mine: Path) -> None:
    saved = portable_reward({"em": 1, "mine.py:brevity": 0.5, rounds_used: 1.0})
    assert saved == {"em": 1, f"{mine}:brevity": 0.5, f"{__file__}:rounds_used": 1.0}
    assert portable_reward("em") == "em"
    with pytest.raises(ConfigError, match="move it into a file and give"):
        portable_reward(lambda context: 1.0)
    with pytest.raises(ConfigError, match="move it into a file"):
        portable_reward({RewardTerm(rounds_used): 1.0})


def test_environments_with_own_terms_are_pickled(toy: str, task_id: str, mine: Path) -> None:
    env = SearchEnv(corpus=toy, reward={"mine.py:brevity": 1.0})
    assert play(pickle.loads(pickle.dumps(env)), task_id) == play(env, task_id)


def agent(observation: str, info: dict[str, Any]) -> str:
    return SCRIPT[info.get("round", 0)]


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda env: TransformReward(env, lambda r: 2 * r + 1), ["TransformReward(<lambda>)"]),
        (
            lambda env: TransformReward(ClipReward(env, -0.5, 0.05), lambda r: 10 * r),
            ["ClipReward(-0.5, 0.05)", "TransformReward(<lambda>)"],
        ),
    ],
)
def test_wrapped_rewards_are_paid_as_by_steps(
    toy: str, task_id: str, mine: Path, wrap: Callable[[Any], Any], named: list[str]
) -> None:
    env = wrap(gym.make("SearchQA-v0", corpus=toy, reward={"em": 1.0, "mine.py:reading": 1.0}))
    rewards, terms = play(env, task_id)
    (episode,) = searchgym.rollout(env, agent, task_ids=[task_id])
    assert [r.reward for r in episode.rounds] == rewards
    assert [r.reward_terms for r in episode.rounds] == terms
    assert episode.env["reward_wrappers"] == named


def test_a_wrapper_that_remembers_is_refused(toy: str) -> None:
    with pytest.raises(ConfigError, match="NormalizeReward, which a batched rollout would skip"):
        searchgym.rollout(NormalizeReward(gym.make("SearchQA-v0", corpus=toy)), agent)


@pytest.fixture
def registered(toy: str) -> Iterator[Callable[[Any], str]]:
    def register(wrapper: Any) -> str:
        gym.register(
            "Wrapped-v0",
            entry_point="searchgym.env:SearchEnv",
            kwargs={"corpus": toy},
            additional_wrappers=(wrapper,),
        )
        return "Wrapped-v0"

    yield register
    gym.registry.pop("Wrapped-v0", None)


def test_wrappers_of_a_registered_id(registered: Callable[[Any], str], task_id: str) -> None:
    env_id = registered(TransformReward.wrapper_spec(func=lambda r: r - 1))
    rewards, _ = play(gym.make(env_id), task_id)
    (episode,) = searchgym.rollout(env_id, agent, task_ids=[task_id])
    assert [r.reward for r in episode.rounds] == rewards == [-1.0, -1.0, -1.0]
    gym.registry.pop(env_id)
    with pytest.raises(ConfigError, match="wrapper NormalizeReward, which batched episodes would skip"):
        searchgym.rollout(registered(NormalizeReward.wrapper_spec()), agent)
