"""`SearchVectorEnv`: ragged episodes, refills, one retriever call per step, forks between slots."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toys import RIGHT, SEARCH, WRONG, Probe

import searchgym
from searchgym.env.env import SearchEnv
from searchgym.env.infos import VectorInfos
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError, ResetNeededError, UnknownIdError
from searchgym.records.episode import StopReason

TASKS = ["employer-town", "river-length", "bare"]


@pytest.fixture
def probe(toy: str) -> Probe:
    return Probe(searchgym.open_retriever("bm25", searchgym.open_corpus(toy)))


@pytest.fixture
def envs(toy: str, probe: Probe) -> SearchVectorEnv:
    """Three slots on the three train questions, searching through a counting retriever."""
    vector = make_vec("SearchQA-v0", 3, corpus=searchgym.open_corpus(toy), retriever=probe, top_k=2)
    vector.reset(options={"task_ids": TASKS})
    return vector


def mask(*slots: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.isin(np.arange(3), slots)


def test_ends_are_ragged_and_flagged_once(envs: SearchVectorEnv) -> None:
    flags = []
    rewards_seen = np.zeros(3)
    for actions in (
        [RIGHT, SEARCH, SEARCH],
        ["ignored", WRONG, SEARCH],
        ["", "", "<answer>Anna Reed</answer>"],
    ):
        active_before = envs.running
        texts, rewards, terminations, truncations, infos = envs.step(actions)
        flags.append(terminations | truncations)
        rewards_seen += rewards
        assert infos.active.tolist() == active_before.tolist()
        for i in range(3):
            assert (texts[i] == "") == (not envs.running[i])
            assert infos["_outcome"][i] == terminations[i] if "_outcome" in infos else not terminations[i]
    assert np.array(flags).sum(axis=0).tolist() == [1, 1, 1]
    assert rewards_seen.tolist() == [1.0, 0.0, 1.0]
    assert envs.all_done
    with pytest.raises(ResetNeededError, match=r"reset_mask.*autoreset_mode"):
        envs.step(["", "", ""])


def test_one_retriever_call_per_step(envs: SearchVectorEnv, probe: Probe) -> None:
    envs.step([SEARCH, "<search>Velm town</search>", "<search>Corvin Mills</search>"])
    assert probe.calls == [["Anna Reed born", "Velm town", "Corvin Mills"]]
    envs.step([RIGHT, SEARCH, "no act"])
    assert probe.calls[1:] == [["Anna Reed born"]]
    envs.step(["", WRONG, "no act"])
    assert len(probe.calls) == 2  # no searches: the retriever was not called
    assert envs.stats["batches"] == 2
    assert envs.stats["queries"] == 4
    assert envs.stats["episodes"] == 3
    assert envs.stats["steps"] == 3 + 3 + 2


def test_several_queries_go_to_their_own_slots(toy: str, probe: Probe) -> None:
    vector = SearchVectorEnv(2, corpus=searchgym.open_corpus(toy), retriever=probe, top_k=1, max_queries=3)
    vector.reset(options={"task_ids": TASKS[:2]})
    *_, infos = vector.step(["<search>Velm town\nCorvin Mills</search>", "<search>River Sool</search>"])
    assert [[h["id"] for h in hits] for hits in infos["hits"]] == [["p3", "p2"], ["p5"]]
    assert [[h["query_index"] for h in hits] for hits in infos["hits"]] == [[0, 1], [0]]
    assert len(probe.calls) == 1


def test_one_failed_query_ends_one_episode(envs: SearchVectorEnv, probe: Probe) -> None:
    probe.fails = lambda query: "Velm" in query
    texts, _, terminations, truncations, infos = envs.step([SEARCH, "<search>Velm town</search>", SEARCH])
    assert not terminations.any()
    assert truncations.tolist() == [False, True, False]
    assert not infos["valid_for_training"][1]
    assert infos["retrieval"]["status"].tolist() == ["ok", "error", "ok"]
    assert not any("SECRET" in text for text in texts)
    probe.down = True
    _, _, _, truncations, infos = envs.step([SEARCH, "", RIGHT])
    assert truncations.tolist() == [True, False, False]  # the answer needs no retriever
    assert infos["outcome"]["stop_reason"][2] == "answered"


def test_freed_slots_are_refilled_by_mask(envs: SearchVectorEnv) -> None:
    texts, *_ = envs.step([RIGHT, SEARCH, RIGHT])
    before = envs.snapshot(1)
    again, infos = envs.reset(options={"reset_mask": mask(0, 2), "task_ids": ["dev-1", "dev-2"]})
    assert infos.active.tolist() == [True, False, True]
    assert infos["task_id"].tolist() == ["dev-1", None, "dev-2"]
    assert infos["_task_id"].tolist() == [True, False, True]
    assert again[1] == texts[1]
    assert envs.snapshot(1) == before
    assert envs.running.all()
    # One id per slot is as good; None draws; the others are ignored.
    _, infos = envs.reset(
        seed=3, options={"reset_mask": mask(2), "task_ids": ["bare", None, None], "split": "dev"}
    )
    assert infos["split"][2] == "dev"
    assert envs.episodes[0].question.id == "dev-1"


def test_seeds_draw_what_single_environments_draw(toy: str) -> None:
    vector = SearchVectorEnv(3, corpus=toy)
    drawn = [vector.reset(seed=np.int64(4))[1]["task_id"].tolist() for _ in range(2)]
    assert drawn[0] == drawn[1]
    single = searchgym.SearchEnv(corpus=toy)
    assert drawn[0] == [single.reset(seed=4 + i)[1]["task_id"] for i in range(3)]
    follow = [vector.reset()[1]["task_id"].tolist() for _ in range(6)]
    vector.reset(seed=[4, None, 6])
    assert [vector.reset()[1]["task_id"].tolist()[i] for i in (0, 2)] == [follow[0][i] for i in (0, 2)]
    assert len({tuple(ids) for ids in follow}) > 1


def test_forks_between_slots(envs: SearchVectorEnv) -> None:
    envs.step([SEARCH, "<search>zzz</search>", RIGHT])
    state = json.loads(json.dumps(envs.snapshot(0)))
    envs.restore(2, state)  # a finished slot continues
    envs.restore(1, state)
    assert envs.running.all()
    assert [envs.snapshot(i) for i in (1, 2)] == [state, state]
    texts, rewards, _, _, infos = envs.step(["<search>Corvin Mills</search>"] * 3)
    assert len(set(texts)) == 1
    assert len({json.dumps(i) for i in infos["hits"]}) == 1
    _, rewards, _, _, infos = envs.step([RIGHT, WRONG, RIGHT])
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert infos["outcome"]["recall"].tolist() == [1.0, 1.0, 1.0]
    assert infos["outcome"]["rounds"].tolist() == [3, 3, 3]


def test_truncate_from_outside(envs: SearchVectorEnv) -> None:
    texts, rewards, terminations, truncations, infos = envs.truncate({1: StopReason.TOKEN_BUDGET})
    assert truncations.tolist() == infos.active.tolist() == [False, True, False]
    assert not terminations.any()
    assert texts[1] == ""
    assert texts[0]
    assert rewards.sum() == 0
    assert infos["outcome"]["stop_reason"][1] == "token_budget"
    for stops, error in (
        ({0: StopReason.ABORTED, 1: StopReason.ABORTED}, ResetNeededError),
        ({0: StopReason.ABORTED, 2: StopReason.ANSWERED}, ConfigError),
        ({0: StopReason.ABORTED, 7: StopReason.ABORTED}, ConfigError),
        ({0: StopReason.ABORTED, -1: StopReason.ABORTED}, ConfigError),
    ):
        with pytest.raises(error):
            envs.truncate(stops)
        assert envs.running.tolist() == [True, False, True]  # no slot was ended


@pytest.mark.parametrize(
    "actions", ["abc", [SEARCH], [SEARCH] * 4, None, 3, (a for a in "abc"), [SEARCH, None, SEARCH]]
)
def test_bad_actions_leave_every_slot_as_it_was(actions: Any, envs: SearchVectorEnv) -> None:
    before = [envs.snapshot(i) for i in range(3)]
    with pytest.raises(ConfigError):
        envs.step(actions)
    assert [envs.snapshot(i) for i in range(3)] == before
    envs.step([SEARCH] * 3)
    assert envs.episodes[0].budget() == envs.episodes[2].budget()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"options": {"reset_mask": [True, False]}}, "give 3 booleans"),
        ({"options": {"reset_mask": [1, 0, 1]}}, "give 3 booleans"),
        ({"options": {"task_ids": ["bare"]}}, "one id or None per slot"),
        ({"options": {"task_ids": "bare"}}, "give a list"),
        ({"options": {"task_ids": 3}}, "give a list"),
        ({"options": {"task_ids": ["bare", "bear", "bare"]}}, "Did you mean 'bare'"),
        ({"options": {"task_ids": ["bare", 3, "bare"]}}, "task_id is 3"),
        ({"options": {"task_id": "bare"}}, "Did you mean 'task_ids'"),
        ({"options": {"split": "nope"}}, "unknown split"),
        ({"options": ["dev"]}, "options is"),
        ({"seed": [1, 2]}, "2 seeds for 3 slots"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": "abc"}, "seed is 'abc'"),
    ],
)
def test_bad_resets_leave_every_slot_as_it_was(
    call: dict[str, Any], message: str, envs: SearchVectorEnv
) -> None:
    twin = SearchVectorEnv.from_config(envs.config, 3)
    for vector in (envs, twin):
        vector.reset(seed=1)
    before = [envs.snapshot(i) for i in range(3)]
    with pytest.raises(ConfigError) as caught:
        envs.reset(**call)
    assert message in str(caught.value)
    assert [envs.snapshot(i) for i in range(3)] == before
    assert envs.reset()[0] == twin.reset()[0]  # not even a generator moved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"num_envs": "4"}, "num_envs is '4'"),
        ({"num_envs": 10**9}, "at most 65536"),
        ({"max_episode_steps": 3}, "max_rounds"),
        ({"render_mode": "ansi"}, "does not render"),
        ({"topk": 3}, "Did you mean 'top_k'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, toy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchVectorEnv(**{"corpus": toy, **arguments})
    assert message in str(caught.value)


def test_slots_are_numbered_from_zero(envs: SearchVectorEnv) -> None:
    for slot in (3, -1, "0", True, None):
        with pytest.raises(ConfigError, match="from 0 to 2"):
            envs.snapshot(slot)  # type: ignore[arg-type]
    fresh = SearchVectorEnv.from_config(envs.config, 2)
    for call in (lambda: fresh.step(["", ""]), lambda: fresh.snapshot(0)):
        with pytest.raises(ResetNeededError):
            call()


def test_spaces_and_make_vec(toy: str) -> None:
    vector = make_vec("SearchQA-v0", 2, corpus=toy, max_rounds=3)
    assert isinstance(vector.action_space, gym.spaces.Tuple)
    vector.action_space.seed(1)
    actions = vector.action_space.sample()
    assert actions in vector.action_space
    texts, _ = vector.reset(seed=1)
    assert texts in vector.observation_space
    assert vector.step(actions)[0] in vector.observation_space
    assert vector.system_prompt == searchgym.SearchEnv(corpus=toy).system_prompt
    assert vector.task_ids("test") == ["test-0"]
    for wrong, message in (
        ("SearchQA-v1", "Did you mean 'SearchQA-v0'"),
        ("CartPole-v1", "unknown environment"),
        ("no_such_module:SearchQA-v0", "cannot be imported"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_vec(wrong, 2)
        assert message in str(caught.value)
    with pytest.raises(UnknownIdError, match="Did you mean 'max_rounds'"):
        make_vec("SearchQA-v0", 2, max_round=3)


def test_the_stock_statistics_wrapper(toy: str) -> None:
    vector: Any = gym.wrappers.vector.RecordEpisodeStatistics(SearchVectorEnv(2, corpus=toy))
    vector.reset(options={"task_ids": TASKS[:2]})
    vector.step([SEARCH, WRONG])
    *_, infos = vector.step([RIGHT, ""])
    assert infos["episode"]["r"][0] == 1.0


def test_infos_whose_filling_was_interrupted_are_filled_at_the_next_access(envs: SearchVectorEnv) -> None:
    class Interrupted:
        calls = 0

        def to_info(self) -> dict[str, Any]:
            self.calls += 1
            if self.calls == 1:
                raise KeyboardInterrupt
            return {"round": 1}

    infos = VectorInfos(1, {0: Interrupted()})
    with pytest.raises(KeyboardInterrupt):
        infos["round"]
    assert infos["round"].tolist() == [1]


def test_same_step_does_not_fall_silent_after_truncate(toy: str) -> None:
    vector = SearchVectorEnv(2, autoreset_mode="SameStep", corpus=toy)
    vector.reset(seed=1)
    vector.truncate({0: StopReason.ABORTED, 1: StopReason.ABORTED})
    with pytest.raises(ResetNeededError, match="all episodes have ended"):
        vector.step(["", ""])


def test_seeds_may_be_a_numpy_array(toy: str) -> None:
    vector = SearchVectorEnv(2, corpus=toy)
    assert vector.reset(seed=np.array([4, 9]))[0] == vector.reset(seed=[4, 9])[0]


def test_infos_that_nobody_has_read_are_written_as_json(envs: SearchVectorEnv) -> None:
    def plain(value: Any) -> Any:
        return value.tolist()

    infos = envs.step([SEARCH] * 3)[4]
    assert json.loads(json.dumps(infos, default=plain))["round"] == [1, 1, 1]
    assert list(VectorInfos(3, {})) == []


@pytest.mark.parametrize(
    "seed",
    [-1, -5, True, 1.0, "7", b"abc", {1: 2}, [1, "x"], [1, -1], [1, 2.0], [None, False], [1], [1, 2, 3], [[1], [2]], [[1], 2],
     np.array([0.5, 1.0]), np.array([[1, 2]]), np.float64(3.0), float("nan")],
)  # fmt: skip
def test_seeds_that_cannot_be_used(toy: str, seed: Any) -> None:
    envs = SearchVectorEnv(2, corpus=toy)
    before = envs.reset(seed=3)
    with pytest.raises(ConfigError, match="seed"):
        envs.reset(seed=seed)
    assert envs.reset(seed=3)[0] == before[0]
    if not isinstance(seed, list | np.ndarray):
        with pytest.raises(ConfigError, match="seed"):
            SearchEnv(corpus=toy).reset(seed=seed)


@pytest.mark.parametrize("seed", [0, 2**70, np.int64(4), [1, None], (1, 2), np.array([1, 2]), None])
def test_seeds_that_can_be_used(toy: str, seed: Any) -> None:
    SearchVectorEnv(2, corpus=toy).reset(seed=seed)
