"""Snapshots: restored anywhere they belong, refused anywhere else, small."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from typing import Any

import preloaded
import pytest
from helpers import small_world
from hypothesis import given
from hypothesis import strategies as st
from toys import (
    MESSAGES,
    QUICK,
    RIGHT,
    SEARCH,
    FixedRetriever,
    play,
)

from searchgym.env.env import SearchEnv
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, SnapshotError
from searchgym.records.retriever import Hit


@QUICK
@given(before=st.lists(MESSAGES, max_size=3), after=st.lists(MESSAGES, min_size=1, max_size=4))
def test_a_restored_episode_continues_as_the_original(toy: str, before: list[str], after: list[str]) -> None:
    arguments: dict[str, Any] = {
        "corpus": toy,
        "feedback": {"level": "revealing", "calls": 2},
        "max_chars": 4_000,
    }
    env, other = SearchEnv(**arguments), SearchEnv(**arguments)
    env.reset(seed=8)
    for message in before:
        if env.episode.running:
            env.step(message)
    if not env.episode.running:
        return
    state = json.loads(json.dumps(env.snapshot()))
    other.reset(seed=99)
    other.restore(state)
    assert other.snapshot() == env.snapshot()
    for message in after:
        if env.episode.running:
            assert other.step(message) == env.step(message)
    assert other.reset() == env.reset()


def test_a_snapshot_is_small_however_long_the_episode(toy: str) -> None:
    hits = [Hit(f"passage-{i:08d}", "t", "x" * 100, 1.0) for i in range(1_000)]
    env = SearchEnv(corpus=toy, retriever=FixedRetriever(*hits), top_k=1_000, max_rounds=200, max_chars=None)
    play(env, *[SEARCH] * 150)
    assert len(json.dumps(env.snapshot())) < 2_000


@pytest.mark.parametrize("judge", ["oracle", "rules"])
def test_a_snapshot_with_a_judge_holds_no_passage_of_the_corpus(judge: str) -> None:
    env = SearchEnv(corpus=small_world(), judge=judge, top_k=20, max_rounds=20)
    env.reset(seed=1)
    for i in range(15):
        env.step(f"<search>the river of town {i}</search>")
    state = env.snapshot()
    assert state["trace"]["passages"] == {}
    assert len(json.dumps(state)) < 64_000
    other = SearchEnv(corpus=small_world(), judge=judge, top_k=20, max_rounds=20)
    other.reset()
    other.restore(json.loads(json.dumps(state)))
    assert [r.to_json() for r in other.episode.rounds] == [
        r.to_json()
        | {
            "uid": "",
            "reward": 0.0,
            "judge": a["judge"],
            "reward_terms": a["reward_terms"],
            "anchor": a["anchor"],
        }
        for r, a in ((r, o.to_json()) for r, o in zip(env.episode.rounds, other.episode.rounds, strict=True))
    ]
    assert other.step("<search>mayor</search>") == env.step("<search>mayor</search>")


def test_passages_that_the_corpus_does_not_have_are_kept(toy: str) -> None:
    hits = [Hit("p1", "another title", "another text", 1.0), Hit("unknown", "t", "text", 0.5)]
    env = SearchEnv(corpus=toy, judge="rules", retriever=FixedRetriever(*hits), top_k=2)
    play(env, SEARCH)
    state = env.snapshot()
    assert list(state["trace"]["passages"].values()) == [["another title", "another text"], ["t", "text"]]
    env.restore(state)
    assert env.episode.rounds[0].hits == hits


def test_of_a_message_that_is_too_long_only_the_beginning_is_remembered(toy: str) -> None:
    env = SearchEnv(corpus=toy, judge="rules", max_rounds=20, max_chars=None)
    env.reset(seed=1)
    for _ in range(10):
        info = env.step("x" * 200_000)[4]
        assert info["action"]["error"] == "too_long"
    assert len(json.dumps(env.snapshot())) < 8_000
    assert env.episode.chars > 2_000_000, "its characters count"
    before = env.snapshot()
    env.restore(before)
    assert env.snapshot() == before


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_a_snapshot_is_found(toy: str, seed: int) -> None:
    env, rng = SearchEnv(corpus=toy, judge="rules"), random.Random(seed)
    env.reset(seed=3)
    env.step(SEARCH)
    state = env.snapshot()
    data = bytearray(json.dumps(state).encode())
    while True:
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[place] ^= bit
        try:
            damaged = json.loads(data)
        except ValueError:
            data[place] ^= bit  # found by the reader; look for one that is JSON
            continue
        break
    if damaged == state:
        return
    with pytest.raises(SnapshotError):
        env.restore(damaged)
    assert env.snapshot() == state


def test_a_snapshot_of_an_earlier_version_has_no_checksum(env: SearchEnv) -> None:
    env.reset(seed=3)
    env.step(SEARCH)
    state = env.snapshot()
    old = {**state, "trace": {k: v for k, v in state["trace"].items() if k != "check"}}
    env.restore(old)
    assert env.snapshot() == state
    with pytest.raises(SnapshotError, match="corpus does not have"):
        env.restore({**old, "task_id": "nobody"})


RESTORE = """
import json, sys
from searchgym.env.env import SearchEnv
env = SearchEnv(corpus=sys.argv[1], top_k=2)
env.reset()
env.restore(json.loads(sys.stdin.read()))
print(json.dumps([env.step(m) for m in sys.argv[2:]] + [env.reset()]))
"""


def test_a_snapshot_is_restored_in_another_process(env: SearchEnv, toy: str) -> None:
    env.reset(seed=2, options={"task_id": "employer-town"})
    env.step(SEARCH)
    state = json.dumps(env.snapshot())
    done = preloaded.run(
        [sys.executable, "-c", RESTORE, toy, SEARCH, RIGHT],
        input=state,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [env.step(SEARCH), env.step(RIGHT), env.reset()]
    assert json.loads(done.stdout) == json.loads(json.dumps(ours))


def test_a_snapshot_of_another_index_is_refused(env: SearchEnv, toy: str) -> None:
    play(env, SEARCH)
    state = env.snapshot()
    other = SearchEnv(corpus=toy, retriever={"name": "bm25", "k1": 1.2})
    other.reset()
    with pytest.raises(ConfigError, match="same corpus and retriever"):
        other.restore(state)


def damages(state: dict[str, Any]) -> Iterator[Any]:
    yield from ([], None, "x", {})
    for key in state:
        if key != "generator":  # a vector's snapshot has none
            yield {k: v for k, v in state.items() if k != key}
        for value in (None, -1, "7", [1], {"a": 1}, True, 2**80, ["p8"]):
            if (
                value != state[key]
                and not (key in ("assisted", "unjudged") and value is True)
                and not (key in ("round", "searches", "chars", "feedback_left", "invalid") and value == 2**80)
                and not (key == "anchor" and isinstance(value, str))
            ):
                yield {**state, key: value}
    for key in state["generator"]:
        yield {**state, "generator": {k: v for k, v in state["generator"].items() if k != key}}
        yield {**state, "generator": {**state["generator"], key: "x"}}


def test_a_damaged_snapshot_changes_nothing(env: SearchEnv) -> None:
    env.reset(seed=1, options={"task_id": "employer-town"})
    env.step(SEARCH)
    state = env.snapshot()
    for bad in damages(state):
        with pytest.raises(ConfigError):
            env.restore(bad)
        assert env.snapshot() == state, bad
    env.restore(state)


def test_snapshots_go_between_single_and_vector(env: SearchEnv, toy: str) -> None:
    envs = SearchVectorEnv(2, corpus=toy, top_k=2)
    envs.reset(options={"task_ids": ["bare", "employer-town"]})
    envs.step([SEARCH, SEARCH])
    env.reset(seed=5)
    generator = env.snapshot()["generator"]
    env.restore(envs.snapshot(1))
    assert env.snapshot()["generator"] == generator  # its own continues
    envs.restore(0, env.snapshot())
    after = envs.step([RIGHT, RIGHT])
    assert env.step(RIGHT)[4] == after[4].rows()[0] == after[4].rows()[1]
