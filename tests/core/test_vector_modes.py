"""Gymnasium's conventions for vector environments: one layout of infos in every mode, autoreset, stock wrappers."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from toys import RIGHT, SEARCH, WRONG

from searchgym.env.infos import VectorInfos
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError, ResetNeededError

RESETTING = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
ARGUMENTS: dict[str, Any] = {
    "max_rounds": 3,
    "top_k": 2,
    "judge": "oracle",
    "reward": {"em": 1.0, "new_recall": 0.5},
    "feedback": {"level": "hop", "calls": 1},
    "reveal_gold": True,
}
MESSAGES = [SEARCH, RIGHT, "no act", "<feedback>Velm</feedback>", WRONG, "<search>zzz</search>"]


def message(slot: int, step: int) -> str:
    """Slots act differently, so that their episodes end in different steps."""
    return MESSAGES[(slot * 2 + step * (slot + 1)) % len(MESSAGES)]


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Equal keys, dtypes, shapes and values, however deep."""
    if isinstance(one, dict):
        assert isinstance(other, dict), path
        assert set(one) == set(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray), path
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        assert repr(one.tolist()) == repr(other.tolist()), path  # NaN is not equal to itself
    else:
        assert type(one) is type(other), path
        assert one == other, path


def opened(mode: str, autoreset: AutoresetMode, toy: str) -> Any:
    if mode == "vector_entry_point":
        given: dict[str, Any] = {"autoreset_mode": autoreset}
    else:
        given = {"vector_kwargs": {"autoreset_mode": autoreset}}
    return gym.make_vec("SearchQA-v0", 3, vectorization_mode=mode, corpus=toy, **ARGUMENTS, **given)


def course(mode: str, autoreset: AutoresetMode, toy: str) -> list[Any]:
    envs = opened(mode, autoreset, toy)
    try:
        results = [envs.reset(seed=3)]
        results += [envs.step([message(slot, step) for slot in range(3)]) for step in range(14)]
        assert envs.metadata["autoreset_mode"] is autoreset
    finally:
        envs.close()
    return results


@pytest.mark.parametrize("autoreset", RESETTING, ids=lambda mode: mode.value)
def test_every_vectorization_mode_gives_the_same_layout(autoreset: AutoresetMode, toy: str) -> None:
    ours, synchronous, asynchronous = (
        course(mode, autoreset, toy) for mode in ("vector_entry_point", "sync", "async")
    )
    ends = sum(int((result[2] | result[3]).sum()) for result in ours[1:])
    assert ends >= 8  # whole episodes, several per slot
    for step, (one, other, third) in enumerate(zip(ours, synchronous, asynchronous, strict=True)):
        for theirs in (other, third):
            assert list(one[0]) == list(theirs[0])
            for mine, given in zip(one[1:-1], theirs[1:-1], strict=True):
                assert_same(mine, given, f"step {step}")
            assert_same(one[-1], theirs[-1], f"step {step}")


@pytest.mark.parametrize("autoreset", RESETTING, ids=lambda mode: mode.value)
def test_an_ordinary_loop_never_falls_silent(autoreset: AutoresetMode, toy: str) -> None:
    envs = gym.make_vec("SearchQA-v0", 4, corpus=toy, autoreset_mode=autoreset.value)
    assert gym.make_vec("SearchQA-v0", 1, corpus=toy).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.action_space.seed(1)
    observations, _ = envs.reset(seed=0)
    ends = 0
    for step in range(300):
        observations, _, terminations, truncations, _ = envs.step(envs.action_space.sample())
        ends += int((terminations | truncations).sum())
        silent = [not text for text in observations]
        if autoreset is AutoresetMode.SAME_STEP:
            assert not any(silent), step
        else:
            assert silent == (terminations | truncations).tolist(), step
    assert ends > 150
    assert envs.unwrapped.stats["episodes"] >= ends


def test_next_step_ignores_the_action_after_the_end(toy: str) -> None:
    envs = SearchVectorEnv(2, corpus=toy)
    envs.reset(options={"task_ids": ["employer-town", "river-length"]})
    *_, infos = envs.step([RIGHT, SEARCH])
    assert infos["_outcome"].tolist() == [True, False]
    texts, rewards, terminations, truncations, infos = envs.step([RIGHT, SEARCH])
    assert (rewards.tolist(), (terminations | truncations).tolist()) == ([0.0, 0.0], [False, False])
    assert (infos["_task_id"].tolist(), infos["_round"].tolist()) == ([True, False], [False, True])
    assert texts[0] == infos["question"][0]
    assert envs.running.all()


def test_same_step_returns_the_end_and_the_new_question(toy: str) -> None:
    envs = SearchVectorEnv(2, corpus=toy, autoreset_mode="SameStep")
    envs.reset(options={"task_ids": ["employer-town", "river-length"]})
    texts, rewards, terminations, _, infos = envs.step([RIGHT, SEARCH])
    assert (rewards.tolist(), terminations.tolist()) == ([1.0, 0.0], [True, False])
    assert infos["final_info"]["outcome"]["em"].tolist() == [1.0, 0.0]
    assert infos["_final_obs"].tolist() == [True, False]
    assert infos["final_obs"][0] == ""
    assert texts[0] == infos["question"][0]
    assert envs.running.all()


def test_disabled_names_the_two_ways_out(toy: str) -> None:
    envs = make_vec("SearchQA-v0", 1, corpus=toy)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    envs.reset(options={"task_ids": ["employer-town"]})
    envs.step([RIGHT])
    with pytest.raises(ResetNeededError, match="reset_mask") as caught:
        envs.step([""])
    assert "autoreset_mode" in str(caught.value)


def test_truncated_slots_are_reset_by_the_next_step(toy: str) -> None:
    envs = SearchVectorEnv(2, corpus=toy)
    envs.reset(seed=0)
    envs.truncate({0: "token_budget"})  # type: ignore[dict-item]  # its value is accepted too
    assert envs.running.tolist() == [False, True]
    *_, infos = envs.step([SEARCH, SEARCH])
    assert infos["_task_id"].tolist() == [True, False]


@pytest.mark.parametrize("wrong", ["next", 3, None])
def test_an_unknown_autoreset_mode(wrong: Any, toy: str) -> None:
    with pytest.raises(ConfigError, match="NextStep"):
        SearchVectorEnv(1, corpus=toy, autoreset_mode=wrong)


@pytest.mark.parametrize("autoreset", [*RESETTING, AutoresetMode.DISABLED], ids=lambda mode: mode.value)
def test_the_stock_statistics_wrapper(autoreset: AutoresetMode, toy: str) -> None:
    base = SearchVectorEnv(2, corpus=toy, autoreset_mode=autoreset)
    envs: Any = gym.wrappers.vector.RecordEpisodeStatistics(base)
    envs.reset(options={"task_ids": ["employer-town", "river-length"]})
    envs.step([SEARCH, SEARCH])
    *_, infos = envs.step([RIGHT, SEARCH])
    assert infos["episode"]["r"][0] == 1.0
    assert infos["episode"]["l"][0] == 2
    assert infos["_episode"].tolist() == [True, False]


# -- lazy infos ----------------------------------------------------------------------------------------------


class Counting:
    """An info source that counts how often it is read."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info, self.reads = info, 0

    def to_info(self) -> dict[str, Any]:
        self.reads += 1
        return self.info


def lazy() -> tuple[VectorInfos, Counting, Counting]:
    first, second = Counting({"a": 1, "b": {"c": "x"}}), Counting({"a": 2, "d": None})
    return VectorInfos(3, {0: first, 2: second}), first, second


READERS: dict[str, Any] = {
    "[]": lambda infos: infos["a"],
    "in": lambda infos: "a" in infos,
    "get": lambda infos: infos.get("a"),
    "len": len,
    "list": list,
    "items": lambda infos: infos.items(),
    "dict": dict,
    "**": lambda infos: {**infos},
    "|": lambda infos: infos | {},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda infos: pickle.loads(pickle.dumps(infos)),
    "repr": repr,
    "bool": bool,
    "==": lambda infos: infos == {},
    "pop": lambda infos: infos.pop("a"),
    "[]=": lambda infos: infos.__setitem__("new", 1),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_access_fills_the_infos_once(reader: str) -> None:
    infos, first, second = lazy()
    assert (first.reads, second.reads) == (0, 0)
    read = READERS[reader](infos)
    assert (first.reads, second.reads) == (1, 1)
    if reader in ("dict", "**", "|", "copy", "deepcopy", "pickle"):
        assert type(read) is dict
        assert read["_a"].tolist() == [True, False, True]
    READERS["items"](infos)
    assert (first.reads, second.reads) == (1, 1)


def test_rows_and_active_need_no_columns(toy: str) -> None:
    infos, *_ = lazy()
    assert infos.active.tolist() == [True, False, True]
    assert infos.rows() == [{"a": 1, "b": {"c": "x"}}, {}, {"a": 2, "d": None}]
    envs = SearchVectorEnv(2, corpus=toy)
    _, infos = envs.reset(seed=0)
    rows = infos.rows()
    rows[0].clear()
    assert json.dumps(infos.rows()[0]) != "{}"  # fresh at each call
