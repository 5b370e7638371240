"""`SearchQA-v0` as Gymnasium sees it: checker, specs, pickling, wrappers, stock vector environments, arguments."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from toys import (
    EMPLOYER,
    RIGHT,
    SEARCH,
    play,
)

import searchgym
from searchgym.dialects import Act
from searchgym.env.env import SearchEnv
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.records.episode import StopReason

IDS = ["SearchQA-v0", "SearchQA-Terse-v0", "SearchQA-Hard-v0"]


# -- Gymnasium's own expectations ------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_on_every_id(env_id: str) -> None:
    size = {"size": 1000, "train": 50, "dev": 20, "test": 20}
    spec = gym.spec(env_id)
    assert spec.max_episode_steps is None
    assert isinstance(spec.entry_point, str)
    assert isinstance(spec.vector_entry_point, str)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id, corpus={"name": spec.kwargs["corpus"], **size}, render_mode="ansi")
        env.action_space.seed(1)
        check_env(env.unwrapped)
    assert env.unwrapped.stats["queries"] > 0  # sampled actions really search


def test_check_env_with_every_kind_of_argument(toy: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"dialect": "tools"}, {"feedback": {"level": "gold"}}, {"reveal_gold": True}):
            check_env(gym.make("SearchQA-v0", corpus=toy, **options).unwrapped)


def test_check_env_on_real_passages(hotpotqa: str) -> None:
    split = searchgym.open_corpus(hotpotqa).splits[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("SearchQA-v0", corpus=hotpotqa, split=split).unwrapped)


def test_make_by_module_and_spec_round_trip(small_world: dict[str, Any]) -> None:
    env = gym.make(
        "searchgym:SearchQA-v0", corpus=small_world, top_k=2, hops=[2], reward={"em": 1, "f1": 0.5}
    )
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert again.unwrapped.config == env.unwrapped.config
    assert again.unwrapped.retriever is env.unwrapped.retriever  # one index, however many environments
    pickled = gym.make(pickle.loads(pickle.dumps(env.spec)))
    for other in (again, pickled):
        assert other.reset(seed=3) == env.reset(seed=3)
        assert other.step(SEARCH) == env.step(SEARCH)


def test_make_passes_typed_errors_through() -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'top_k'"):
        gym.make("SearchQA-v0", topk=3)
    with pytest.raises(UnknownIdError, match="Did you mean 'country'"):
        gym.make("SearchQA-v0", corpus="contry")


@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
def test_a_pickled_environment_goes_on_where_it_was(dump: Any, toy: str) -> None:
    env = gym.make("SearchQA-v0", corpus=toy, top_k=2, render_mode="ansi")
    env.reset(seed=4, options={"task_id": "river-length"})
    env.step(SEARCH)
    data = dump(env)
    assert len(data) < 30_000  # the arguments and the state, not the index
    for other in (pickle.loads(data), copy.deepcopy(env)):
        assert other.spec == env.spec
        assert other.unwrapped.retriever is env.unwrapped.retriever
        assert other.render() == env.render()
        assert other.unwrapped.snapshot() == env.unwrapped.snapshot()
        other.step("<search>Velm town</search>")
        assert env.unwrapped.episode.round == 1  # a copy, not an alias
    ours, theirs = pickle.loads(data), pickle.loads(data)
    assert ours.step("<answer>88</answer>") == theirs.step("<answer>88</answer>")
    assert ours.reset() == theirs.reset()  # the generators too


def test_rules_and_vector_environments_pickle(toy: str) -> None:
    envs = SearchVectorEnv(2, corpus=toy)
    envs.reset(seed=1)
    other = pickle.loads(pickle.dumps(envs))
    for mine, theirs in zip(envs.step([SEARCH, RIGHT]), other.step([SEARCH, RIGHT]), strict=True):
        assert str(mine) == str(theirs)


def test_stock_wrappers(toy: str) -> None:
    env: Any = gym.make("SearchQA-v0", corpus=toy)
    with pytest.raises(gym.error.ResetNeeded):  # OrderEnforcing is on by default
        env.step(SEARCH)
    env = gym.wrappers.TransformReward(gym.wrappers.RecordEpisodeStatistics(env), lambda r: 10 * r)
    env.reset(options={"task_id": "employer-town"})
    env.step(SEARCH)
    *_, reward, terminated, truncated, info = env.step(RIGHT)
    assert (reward, terminated, truncated) == (10.0, True, False)
    assert (info["episode"]["r"], info["episode"]["l"]) == (1.0, 2)


def test_a_time_limit_outside_can_set_both_flags_which_is_why_none_is_registered(toy: str) -> None:
    env = gym.make("SearchQA-v0", corpus=toy, max_episode_steps=1)
    env.reset(options={"task_id": "employer-town"})
    assert env.step(RIGHT)[2:4] == (True, True)
    env = gym.make("SearchQA-v0", corpus=toy, max_rounds=1)
    env.reset(options={"task_id": "employer-town"})
    assert env.step(RIGHT)[2:4] == (True, False)
    env.reset(options={"task_id": "employer-town"})
    assert env.step(SEARCH)[2:4] == (False, True)


VECTORS = [
    ("sync", {}),
    ("async", {"shared_memory": True, "context": "fork"}),
    ("async", {"shared_memory": False, "context": "fork"}),
    ("async", {"shared_memory": True, "context": "spawn"}),
    ("async", {"shared_memory": False, "context": "spawn"}),
]


@pytest.fixture(scope="module")
def single_runs(toy: str) -> list[list[tuple[Any, ...]]]:
    """What two single environments do with seeds 5 and 6."""
    runs = []
    for seed in (5, 6):
        env = SearchEnv(corpus=toy, top_k=2)
        runs.append([env.reset(seed=seed), *(env.step(m) for m in (SEARCH, "\ud800 naïve", RIGHT))])
    return runs


@pytest.mark.parametrize(
    ("mode", "vector_kwargs"),
    VECTORS,
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else v,
)
def test_stock_vector_environments(
    mode: str, vector_kwargs: dict[str, Any], toy: str, single_runs: list[list[tuple[Any, ...]]]
) -> None:
    if vector_kwargs.get("context") == "fork" and "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this platform cannot fork")
    envs = gym.make_vec(
        "searchgym:SearchQA-v0",
        num_envs=2,
        vectorization_mode=mode,
        vector_kwargs=vector_kwargs,
        corpus=toy,
        top_k=2,
    )
    try:
        texts, infos = envs.reset(seed=5)
        assert tuple(texts) == tuple(run[0][0] for run in single_runs)
        assert list(infos["task_id"]) == [run[0][1]["task_id"] for run in single_runs]
        for step, message in enumerate((SEARCH, "\ud800 naïve", RIGHT), 1):
            texts, rewards, terminations, truncations, infos = envs.step([message, message])
            for i, run in enumerate(single_runs):
                expected = run[step]
                assert (texts[i], rewards[i], terminations[i], truncations[i]) == expected[:4]
                assert infos["anchor"][i] == expected[4]["anchor"]
    finally:
        envs.close()


def test_vector_entry_point_is_the_default_of_make_vec(toy: str) -> None:
    envs = gym.make_vec("SearchQA-v0", num_envs=3, corpus=toy)
    assert isinstance(envs, SearchVectorEnv)
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    assert envs.spec is not None
    assert EnvSpec.from_json(envs.spec.to_json()).kwargs["num_envs"] == 3
    with pytest.raises(ConfigError, match="max_rounds"):
        gym.make_vec("SearchQA-v0", num_envs=2, corpus=toy, max_episode_steps=5)


def test_random_play_really_searches(toy: str) -> None:
    env = SearchEnv(corpus=toy)
    env.action_space.seed(0)
    kinds, found = [], 0
    for _ in range(40):
        env.reset(seed=len(kinds))
        terminated = truncated = False
        while not (terminated or truncated):
            action = env.action_space.sample()
            assert action in env.action_space
            observation, _, terminated, truncated, info = env.step(action)
            assert observation in env.observation_space
            kinds.append(info["action"]["kind"])
            found += bool(info["hits"])
    assert set(kinds) == {"search", "answer"}
    assert found > 40


def test_samples_stay_in_a_small_space_and_survive_odd_titles() -> None:
    from searchgym.env.spaces import MessageSpace

    for dialect in ("tags", "tools", None):
        space = MessageSpace(10, dialect=dialect, words=("a long title that does not fit", "x"))
        assert all(space.sample() in space for _ in range(20))
        assert space != MessageSpace(11, dialect=dialect)
        assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(["a", "ü"])))) == ["a", "ü"]


# -- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topk": 3}, "Did you mean 'top_k'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": True}, "top_k is True"),
        ({"top_k": "3"}, "top_k is '3'"),
        ({"max_rounds": 2.0}, "max_rounds is 2.0"),
        ({"max_searches": -1}, "max_searches is -1"),
        ({"max_chars": 0}, "max_chars is 0"),
        ({"dialect": "tag"}, "Did you mean 'tags'"),
        ({"dialect": ["tags"]}, "unknown dialect"),
        ({"split": "training"}, "unknown split"),
        ({"split": None}, "split is None"),
        ({"hops": 2}, "hops is 2"),
        ({"hops": [True]}, "hops is"),
        ({"hops": [9]}, "no question of split 'train'"),
        ({"types": "chain"}, "types is 'chain'"),
        ({"reward": "f2"}, "Did you mean 'f1'"),
        ({"reward": {}}, "reward is {}"),
        ({"reward": None}, "reward is None"),
        ({"reward": {"em": "1"}}, "weight of reward term 'em'"),
        ({"reward": {"em": float("nan")}}, "finite"),
        ({"feedback": "kind"}, "feedback is 'kind'"),
        ({"feedback": {"level": "kinds"}}, "Did you mean 'kind'"),
        ({"feedback": {"level": "kind", "calls": 0}}, "feedback calls is 0"),
        ({"feedback": {"level": "kind", "call": 1}}, "feedback is"),
        ({"reveal_gold": "no"}, "reveal_gold is 'no'"),
        ({"retriever": "bm52"}, "Did you mean 'bm25'"),
        ({"retriever": {"name": "bm25", "k2": 1}}, "unknown option of retriever 'bm25'"),
        ({"retriever": {"name": "bm25", "k1": {1}}}, "not a JSON value"),
        ({"retriever": 7}, "retriever is 7"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], message: str, toy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchEnv(**{"corpus": toy, **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- rendering -------------------------------------------------------------------------------------------


def test_render_ansi_reads_like_a_transcript(toy: str) -> None:
    env = SearchEnv(corpus=toy, top_k=1, render_mode="ansi")
    play(env, SEARCH, RIGHT)
    assert env.render() == (
        f"question> {EMPLOYER['question']}\n\n"
        f"agent> {SEARCH}\n\n"
        "<information>\n[1] Anna Reed\nAnna Reed was born in Velm. She works for Corvin Mills.\n</information>\n\n"
        f"agent> {RIGHT}\n\n"
        "end> answered, reward 1\n"
    )
    silent = SearchEnv(corpus=toy)
    play(silent, SEARCH)
    assert silent.render() is None


def test_identical_passages_never_swap(toy: str) -> None:
    for top_k, expected in ((1, ["p7"]), (2, ["p7", "p8"])):
        env = SearchEnv(corpus=toy, top_k=top_k)
        assert [h["id"] for h in play(env, "<search>twins share</search>")[1][4]["hits"]] == expected


@pytest.mark.parametrize("top_k", [100, 10**9, 10**30])
def test_a_giant_top_k_returns_what_there_is(top_k: int, toy: str) -> None:
    hits = play(SearchEnv(corpus=toy, top_k=top_k), "<search>Anna Reed Tarn Velm twins</search>")[1][4][
        "hits"
    ]
    assert 6 <= len(hits) <= 9


@pytest.mark.parametrize("arguments", [{}, {"retriever": {"name": "bm25", "shuffle": 3}}, {"top_k": 50}])
def test_a_corpus_of_one_passage(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "passages.jsonl").write_text('{"id": "a", "title": "", "text": "word"}\n')
    (tmp_path / "questions.jsonl").write_text(
        '{"id": "q", "question": "?", "answers": ["x"], "split": "train"}\n'
    )
    env = SearchEnv(corpus=str(tmp_path), **arguments)
    check_env(gym.make("SearchQA-v0", corpus=str(tmp_path), **arguments).unwrapped)
    result = play(env, "<search>word</search>", task_id="q")[1]
    assert [h["id"] for h in result[4]["hits"]] == ["a"]
    assert env.truncate(StopReason.ABORTED)[4]["outcome"]["recall"] == 0.0  # nothing is known to be gold


def test_observations_stay_in_their_space_whatever_the_corpus_holds(tmp_path: Path) -> None:
    passage = {"id": "a", "title": "<think>" * 5_000, "text": "</information>" * 5_000 + " word"}
    question = {"id": "q", "question": "y" * 50_000, "answers": ["<answer>" * 9_000], "split": "train"}
    (tmp_path / "passages.jsonl").write_text(json.dumps(passage) + "\n")
    (tmp_path / "questions.jsonl").write_text(json.dumps({**question, "supporting_ids": ["a"]}) + "\n")
    for level in ("revealing", "gold"):
        for most in (1, 100, 16_384):
            for dialect in ("tags", "tools"):
                env = SearchEnv(
                    corpus=str(tmp_path),
                    feedback={"level": level, "calls": 9},
                    max_observation_chars=most,
                    dialect=dialect,
                )
                observation, _ = env.reset()
                assert observation in env.observation_space
                assert env.action_space.sample() in env.action_space
                writer = env.dialect
                for act in (Act("search", queries=("word",)), Act("feedback", draft="no")):
                    assert env.step(writer.write(act))[0] in env.observation_space
                assert env.step("no act")[0] in env.observation_space


def test_the_folder_of_a_corpus_may_be_relative(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(toy).parent)
    assert SearchEnv(corpus=Path(toy).name).corpus.hash == SearchEnv(corpus=toy).corpus.hash
