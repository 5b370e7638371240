"""The `info` contract, equal in single and vector environments, in both dialects and in every process."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from toys import (
    EMPLOYER,
    MESSAGES,
    QUICK,
    RESET_KEYS,
    RIGHT,
    SEARCH,
    budgets,
    check_info,
    play,
)

from searchgym.dialects import Act, get_dialect
from searchgym.env.env import SearchEnv
from searchgym.env.vector import SearchVectorEnv
from searchgym.records.episode import StopReason


def test_reset_info_and_gold_only_on_demand(env: SearchEnv, toy: str) -> None:
    observation, info = env.reset(options={"task_id": "employer-town"})
    assert set(info) == RESET_KEYS
    assert json.loads(json.dumps(info)) == info
    assert observation == info["question"] == EMPLOYER["question"]
    assert info["budget"] == {"rounds": 8, "searches": -1, "chars": 200_000}
    revealing = SearchEnv(corpus=toy, reveal_gold=True)
    _, info = revealing.reset(options={"task_id": "employer-town"})
    assert set(info) == RESET_KEYS | {"gold"}
    assert info["gold"] == {k: EMPLOYER[k] for k in ("answers", "supporting_ids", "chain")}


def test_infos_are_built_afresh_each_time(env: SearchEnv) -> None:
    def spoil(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                spoil(inner)
            value.clear()
        elif isinstance(value, list):
            for inner in value:
                spoil(inner)
            value.clear()

    before = play(env, SEARCH, SEARCH, RIGHT)
    kept = copy.deepcopy(before)
    for result in before:
        spoil(result[-1])
    assert play(env, SEARCH, SEARCH, RIGHT) == kept


@QUICK
@given(
    arguments=budgets(), scripts=st.lists(st.lists(MESSAGES, min_size=5, max_size=5), min_size=3, max_size=3)
)
def test_a_vector_is_exactly_its_single_environments(
    toy: str, arguments: dict[str, Any], scripts: list[list[str]]
) -> None:
    """And on the way: the info contract, flags never both, and rewards only at the end."""
    tasks = ["employer-town", "river-length", "bare"]
    singles = [SearchEnv(corpus=toy, reveal_gold=True, **arguments) for _ in tasks]
    envs = SearchVectorEnv(3, corpus=toy, reveal_gold=True, autoreset_mode="Disabled", **arguments)
    texts, infos = envs.reset(options={"task_ids": tasks})
    for i, single in enumerate(singles):
        assert (texts[i], infos.rows()[i]) == single.reset(options={"task_id": tasks[i]})
    running = [True] * 3
    for turn in range(5):
        if envs.all_done:
            break
        texts, rewards, terminations, truncations, infos = envs.step([script[turn] for script in scripts])
        assert infos.active.tolist() == running
        for i, single in enumerate(singles):
            if not running[i]:
                assert (texts[i], rewards[i], terminations[i], truncations[i]) == ("", 0.0, False, False)
                assert infos.rows()[i] == {}
                continue
            expected = single.step(scripts[i][turn])
            observation, reward, terminated, truncated, info = expected
            assert (texts[i], rewards[i], terminations[i], truncations[i]) == expected[:4]
            assert json.dumps(infos.rows()[i]) == json.dumps(info)
            done = terminated or truncated
            assert not (terminated and truncated)
            check_info(info, last=done, gold=True)
            assert observation in single.observation_space
            if done:
                reason = StopReason(info["outcome"]["stop_reason"])
                assert terminated == (reason is StopReason.ANSWERED)
                assert info["valid_for_training"]
                assert reward == info["outcome"]["em"]
                assert observation == ""
            else:
                assert reward == 0.0
            running[i] = not done
    assert envs.all_done == (not any(running))


@QUICK
@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["search", "answer", "feedback", "invalid"]),
            st.sampled_from(["Anna Reed born", "Corvin Mills", "Tarn", 'a < b "quoted"', "Velm town"]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_two_dialects_give_equal_outcomes(toy: str, kinds: list[tuple[str, str]]) -> None:
    runs = []
    for name in ("tags", "tools"):
        dialect = get_dialect(name)
        env = SearchEnv(corpus=toy, dialect=name, feedback={"level": "hop"}, max_rounds=5)
        env.reset(options={"task_id": "employer-town"})
        run = []
        for kind, words in kinds:
            act = {
                "search": Act("search", queries=(words,)),
                "answer": Act("answer", answer=words),
                "feedback": Act("feedback", draft=words),
            }.get(kind)
            _, reward, terminated, truncated, info = env.step(dialect.write(act, "hm") if act else "hm")
            info.pop("anchor")  # names the observation, which each dialect wraps in its own way
            run.append((reward, terminated, truncated, info))
            if terminated or truncated:
                break
        runs.append(run)
    assert runs[0] == runs[1]


SCRIPT = """
import hashlib, json, sys
from searchgym.env.env import SearchEnv
world = {"name": "country", "size": 1000, "train": 50, "dev": 20, "test": 20}
said = []
for corpus in (sys.argv[1], world):
    env = SearchEnv(corpus=corpus, feedback={"level": "revealing", "calls": 2}, reveal_gold=True, render_mode="ansi")
    env.action_space.seed(7)
    for seed in (3, None, None, None):
        result = env.reset(seed=seed)
        said.append(result)
        while env.episode.running:
            result = env.step(env.action_space.sample())
            said.append(result)
        said.append(env.render())
print(hashlib.sha256(json.dumps(said).encode()).hexdigest(), len(said))
"""


def test_twin_runs_are_equal_byte_for_byte_in_other_processes(toy: str) -> None:
    printed = []
    for seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, toy],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert int(printed[0].split()[1]) > 20


def test_nothing_global_is_seeded(env: SearchEnv) -> None:
    import random

    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), str(np.random.get_state())
    env.reset(seed=123)
    env.step(SEARCH)
    assert states == (random.getstate(), str(np.random.get_state()))
