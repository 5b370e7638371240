"""`SearchQA-v0` as Gymnasium sees it: checker, specs, wrappers, stock vector environments, rules of an episode."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import EMPLOYER, MESSAGES, RIGHT, SEARCH, WRONG, FixedRetriever, Probe, budgets

import searchgym
from searchgym.dialects import Act, get_dialect
from searchgym.env import SearchEnv
from searchgym.episode import StopReason
from searchgym.errors import ConfigError, ResetNeededError, UnknownIdError
from searchgym.retriever import Hit
from searchgym.rollouts import slot_info
from searchgym.vector import SearchVectorEnv

IDS = ["SearchQA-v0", "SearchQA-Terse-v0", "SearchQA-Hard-v0"]
QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
RESET_KEYS = {"schema", "task_id", "split", "question", "anchor", "budget"}
STEP_KEYS = {
    "schema",
    "round",
    "action",
    "hits",
    "retrieval",
    "judge",
    "feedback",
    "reward_terms",
    "anchor",
}
LAST_KEYS = STEP_KEYS | {"outcome", "valid_for_training"}
NESTED_KEYS = {
    "action": {"kind", "queries", "draft", "answer", "error"},
    "retrieval": {"status", "backend", "index_hash"},
    "judge": {"status", "utility", "reasoning", "reason"},
    "feedback": {"level", "text", "calls_left"},
    "outcome": {"answer", "em", "f1", "sub_em", "recall", "rounds", "searches", "assisted", "stop_reason"},
}
HIT_KEYS = {"id", "title", "text", "score", "rank", "query_index"}


def play(env: SearchEnv, *messages: str, task_id: str = "employer-town") -> list[Any]:
    """Reset to a question and send messages; returns [(observation, info), step, step, ...]."""
    results: list[Any] = [env.reset(options={"task_id": task_id})]
    results += [env.step(message) for message in messages]
    return results


# -- Gymnasium's own expectations ---------------------------------------------------------------------------


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
    assert again.unwrapped.rules == env.unwrapped.rules
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
        assert env.unwrapped.game.round == 1  # a copy, not an alias
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
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.DISABLED
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
    from searchgym.spaces import MessageSpace

    for dialect in ("tags", "tools", None):
        space = MessageSpace(10, dialect=dialect, words=("a long title that does not fit", "x"))
        assert all(space.sample() in space for _ in range(20))
        assert space != MessageSpace(11, dialect=dialect)
        assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(["a", "ü"])))) == ["a", "ü"]


# -- the info contract -----------------------------------------------------------------------------------------


def check_info(info: dict[str, Any], last: bool, gold: bool) -> None:
    extra = {"gold"} if gold else set()
    assert set(info) == (LAST_KEYS if last else STEP_KEYS) | extra
    for name, keys in NESTED_KEYS.items():
        if name in info:
            assert set(info[name]) == keys
    assert all(set(hit) == HIT_KEYS for hit in info["hits"])
    assert json.loads(json.dumps(info)) == info
    assert (info["anchor"] == "") == last


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
    envs = SearchVectorEnv(3, corpus=toy, reveal_gold=True, **arguments)
    texts, infos = envs.reset(options={"task_ids": tasks})
    for i, single in enumerate(singles):
        assert (texts[i], slot_info(infos, i)) == single.reset(options={"task_id": tasks[i]})
    running = [True] * 3
    for turn in range(5):
        texts, rewards, terminations, truncations, infos = envs.step([script[turn] for script in scripts])
        assert infos["active"].tolist() == running
        for i, single in enumerate(singles):
            if not running[i]:
                assert (texts[i], rewards[i], terminations[i], truncations[i]) == ("", 0.0, False, False)
                assert slot_info(infos, i) == {}
                continue
            expected = single.step(scripts[i][turn])
            observation, reward, terminated, truncated, info = expected
            assert (texts[i], rewards[i], terminations[i], truncations[i]) == expected[:4]
            assert json.dumps(slot_info(infos, i)) == json.dumps(info)
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
from searchgym.env import SearchEnv
world = {"name": "country", "size": 1000, "train": 50, "dev": 20, "test": 20}
said = []
for corpus in (sys.argv[1], world):
    env = SearchEnv(corpus=corpus, feedback={"level": "revealing", "calls": 2}, reveal_gold=True, render_mode="ansi")
    env.action_space.seed(7)
    for seed in (3, None, None, None):
        result = env.reset(seed=seed)
        said.append(result)
        while env.game.running:
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


# -- how episodes end ------------------------------------------------------------------------------------------


def ending(env: SearchEnv, *messages: str) -> tuple[StopReason, dict[str, Any], tuple[Any, ...]]:
    last = play(env, *messages)[-1]
    return StopReason(last[4]["outcome"]["stop_reason"]), last[4], last


def test_every_stop_reason_is_reached(toy: str) -> None:
    corpus = searchgym.open_corpus(toy)
    inner = searchgym.open_retriever("bm25", corpus)
    runs: dict[StopReason, tuple[dict[str, Any], list[str]]] = {
        StopReason.ANSWERED: ({}, [SEARCH, RIGHT]),
        StopReason.ROUND_BUDGET: ({"max_rounds": 2}, [SEARCH, SEARCH]),
        StopReason.SEARCH_BUDGET: ({"max_searches": 1}, [SEARCH, SEARCH]),
        StopReason.CHARACTER_BUDGET: ({"max_chars": 60}, [SEARCH]),
        StopReason.RETRIEVAL_FAILED: ({"retriever": Probe(inner, down=True)}, [SEARCH]),
    }
    for reason, (arguments, messages) in runs.items():
        found, info, last = ending(SearchEnv(corpus=corpus, **arguments), *messages)
        assert found is reason
        assert last[2:4] == (reason is StopReason.ANSWERED, reason is not StopReason.ANSWERED)
        assert info["valid_for_training"] == (reason is not StopReason.RETRIEVAL_FAILED)
        assert last[0] == ""
    for reason in set(StopReason) - {*runs, StopReason.ANSWERED}:
        env = SearchEnv(corpus=corpus)
        play(env, SEARCH)
        observation, reward, terminated, truncated, info = env.truncate(reason)
        assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
        assert info["outcome"]["stop_reason"] == reason.value
        assert info["action"]["kind"] == "none"
        assert info["round"] == info["outcome"]["rounds"] == 1
        assert info["valid_for_training"] == (reason is StopReason.TOKEN_BUDGET)
        check_info(info, last=True, gold=False)
        with pytest.raises(ResetNeededError):
            env.truncate(reason)


def test_truncate_refuses_what_it_cannot_mean(env: SearchEnv) -> None:
    with pytest.raises(ResetNeededError):
        env.truncate(StopReason.ABORTED)
    env.reset()
    with pytest.raises(ConfigError, match="only an answer act can answer"):
        env.truncate(StopReason.ANSWERED)
    with pytest.raises(UnknownIdError, match="Did you mean 'token_budget'"):
        env.truncate("token_budgt")  # type: ignore[arg-type]
    assert env.truncate("token_budget")[4]["outcome"]["stop_reason"] == "token_budget"  # type: ignore[arg-type]


def test_budgets_are_exact(toy: str) -> None:
    message = "<search>Velm town</search>"
    env = SearchEnv(corpus=toy)
    observation = play(env, message)[1][0]
    used = len(message) + len(observation)
    assert env.game.budget() == {"rounds": 7, "searches": -1, "chars": 200_000 - used}
    assert not play(SearchEnv(corpus=toy, max_chars=used), message)[1][3]
    assert ending(SearchEnv(corpus=toy, max_chars=used - 1), message)[0] is StopReason.CHARACTER_BUDGET
    last = ending(SearchEnv(corpus=toy, max_searches=0), message)
    assert last[0] is StopReason.SEARCH_BUDGET
    assert (last[1]["hits"], last[1]["outcome"]["searches"]) == ([], 0)
    # The last round may still answer, and an answer wins over a character budget it exceeds.
    assert ending(SearchEnv(corpus=toy, max_rounds=1), RIGHT)[0] is StopReason.ANSWERED
    assert ending(SearchEnv(corpus=toy, max_chars=1), RIGHT)[0] is StopReason.ANSWERED
    several = SearchEnv(corpus=toy, max_queries=3, max_searches=2)
    assert ending(several, "<search>a\nb\nc</search>")[0] is StopReason.SEARCH_BUDGET
    two = play(several, "<search>Velm town\nCorvin Mills</search>")[1]
    assert [h["query_index"] for h in two[4]["hits"]] == sorted(h["query_index"] for h in two[4]["hits"])
    assert several.game.budget()["searches"] == 0


def test_outcome_and_reward_terms(toy: str) -> None:
    env = SearchEnv(corpus=toy, reward={"f1": 2.0, "recall": 0.5}, top_k=1)
    last = play(env, SEARCH, "<answer>town of Tarn</answer>")[-1]
    outcome = last[4]["outcome"]
    assert outcome == {
        "answer": "town of Tarn",
        "em": 1.0,  # the alias "the town of Tarn", without its article
        "f1": 1.0,
        "sub_em": 1.0,
        "recall": 0.5,
        "rounds": 2,
        "searches": 1,
        "assisted": False,
        "stop_reason": "answered",
    }
    assert last[4]["reward_terms"] == {"f1": 2.0, "recall": 0.25}
    assert last[1] == 2.25


# -- retrieval failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["raises", "in place", "too few results"])
def test_a_failed_retrieval_is_never_a_wrong_answer(
    way: str, toy: str, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = searchgym.open_corpus(toy)
    probe: Any = Probe(searchgym.open_retriever("bm25", corpus), fails=lambda q: "Corvin" in q)
    env = SearchEnv(corpus=corpus, retriever=probe, render_mode="ansi", reward={"recall": 1.0})
    play(env, SEARCH)
    if way == "raises":
        probe.down = True
    elif way == "too few results":
        probe.search = lambda queries, k: []
    observation, reward, terminated, truncated, info = env.step("<search>Corvin Mills</search>")
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert info["retrieval"]["status"] == "error"
    assert info["outcome"]["stop_reason"] == "retrieval_failed"
    assert info["valid_for_training"] is False
    assert info["reward_terms"] == {"recall": 0.0}
    assert "retrieval failed" in caplog.text  # the reason is told to the user ...
    for said in (observation, env.render(), json.dumps(info)):
        assert "SECRET" not in str(said)  # ... and to nobody else


def test_an_interrupted_step_can_be_played_again(toy: str) -> None:
    corpus = searchgym.open_corpus(toy)
    probe = Probe(searchgym.open_retriever("bm25", corpus))
    env, twin = SearchEnv(corpus=corpus, retriever=probe), SearchEnv(corpus=corpus)
    play(env)
    play(twin)
    search = probe.search

    def interrupt(queries: Any, k: int) -> Any:
        raise KeyboardInterrupt

    probe.search = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        env.step(SEARCH)
    probe.search = search  # type: ignore[method-assign]
    assert env.step(SEARCH) == twin.step(SEARCH)
    assert env.game.budget() == twin.game.budget()


# -- the feedback act --------------------------------------------------------------------------------------------


def test_with_the_switch_off_feedback_leaves_no_trace(toy: str) -> None:
    off, on = SearchEnv(corpus=toy), SearchEnv(corpus=toy, feedback={"level": "kind"})
    assert off.system_prompt == get_dialect("tags").system_prompt(feedback=False, max_queries=1)
    assert "feedback" in on.system_prompt
    for dialect in ("tags", "tools"):
        env = SearchEnv(corpus=toy, dialect=dialect)
        retry = play(env, "nothing")[1][0]
        texts = [env.system_prompt, retry, play(env, SEARCH)[1][0]]
        assert not any("feedback" in text or "draft" in text for text in texts)
        asks = get_dialect(dialect).write(Act("feedback", draft="Tarn"))
        result = play(env, asks)[1]
        assert result[4]["action"]["error"] == "feedback_off"
        assert "feedback" not in result[0]
        assert "draft" not in result[0]
        assert result[4]["feedback"] == {"level": "off", "text": "", "calls_left": 0}
    # Byte for byte what an environment without the act says.
    for message in ("", "<search></search>", "<search>a</search><answer>b</answer>", SEARCH):
        plain = play(off, message)[1][0]
        if message != SEARCH:
            assert plain == get_dialect("tags").render_invalid(
                off.game.rules.dialect.parse(message, feedback=False, max_queries=1).error, feedback=False
            )
        else:
            assert plain == play(on, message)[1][0]


def test_feedback_is_spent_marks_the_episode_and_is_never_scored(toy: str) -> None:
    env = SearchEnv(corpus=toy, feedback={"level": "kind", "calls": 1})
    ask = "<feedback>Tarn</feedback>"
    _, first, second, last = play(env, ask, ask, "<answer>nothing</answer>")
    assert "The draft is right." in first[0]
    assert first[4]["feedback"] == {"level": "kind", "text": "The draft is right.", "calls_left": 0}
    assert first[1] == 0.0
    assert (second[4]["action"]["kind"], second[4]["action"]["error"]) == ("invalid", "feedback_spent")
    outcome = last[4]["outcome"]
    assert (outcome["em"], outcome["f1"], outcome["assisted"]) == (0.0, 0.0, True)
    assert (
        ending(SearchEnv(corpus=toy, feedback={"level": "kind"}, max_rounds=1), ask)[1]["outcome"]["em"]
        == 0.0
    )
    assert not ending(env, RIGHT)[1]["outcome"]["assisted"]  # a new episode starts clean


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("kind", "The draft is an earlier step, not the answer."),
        ("hop", "The draft is an earlier step, not the answer. Step 2 of 2 has not been found."),
        (
            "revealing",
            "The draft is an earlier step, not the answer. Step 2 of 2 has not been found. Read Corvin Mills.",
        ),
        ("gold", "The draft is an earlier step, not the answer. The answer is Tarn."),
    ],
)
def test_feedback_levels(level: str, said: str, toy: str) -> None:
    env = SearchEnv(corpus=toy, feedback={"level": level, "calls": 2}, top_k=1)
    result = play(env, SEARCH, "<feedback>Corvin Mills</feedback>")[2]
    assert result[4]["feedback"]["text"] == said
    assert result[0] == f"<information>\n{said}\n</information>"


def test_feedback_without_a_known_derivation_says_only_right_or_wrong(toy: str) -> None:
    env = SearchEnv(corpus=toy, feedback={"level": "revealing", "calls": 2})
    result = play(env, "<feedback>Velm</feedback>", task_id="bare")[1]
    assert result[4]["feedback"]["text"] == "The draft is wrong."


# -- only the agent's own final act is scored --------------------------------------------------------------------


def test_an_answer_inside_a_retrieved_passage_scores_nothing(toy: str) -> None:
    env = SearchEnv(corpus=toy, top_k=1)
    _, found, last = play(env, "<search>trap page quotes</search>", "I saw < answer>Tarn, so I stop here.")
    assert "Tarn" in found[0]
    assert "<answer>" not in found[0]  # quoted: a model that copies it writes no act
    assert found[0].count("</information>") == 1
    assert found[4]["hits"][0]["text"].count("<answer>") == 1  # the record keeps the passage as it is
    assert last[4]["action"]["kind"] == "invalid"
    last = env.truncate(StopReason.TOKEN_BUDGET)
    assert (last[4]["outcome"]["em"], last[4]["outcome"]["sub_em"]) == (0.0, 0.0)
    wrong = play(env, "<search>trap page quotes</search>", "<think><answer>Tarn</answer></think>" + WRONG)[-1]
    assert wrong[4]["outcome"]["answer"] == "Velm"
    assert wrong[1] == 0.0


# -- bad actions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("", "no_act"),
        ("just thinking", "no_act"),
        (SEARCH + RIGHT, "several_acts"),
        ("<search>  </search>", "empty_act"),
        ("x" * 1_000_000, "too_long"),
        ("<search>" * 100_000, "too_long"),
    ],
)
def test_bad_messages_are_invalid_rounds(message: str, error: str, env: SearchEnv) -> None:
    observation, reward, terminated, truncated, info = play(env, message)[1]
    assert info["action"] == {"kind": "invalid", "queries": [], "draft": "", "answer": "", "error": error}
    expected_end = len(message) > 200_000
    assert (reward, terminated, truncated) == (0.0, False, expected_end)
    assert expected_end or observation.startswith("Your last message was not used")
    assert info["round"] == 1


def test_lone_surrogates_go_in_and_come_out(env: SearchEnv) -> None:
    result = play(env, "<search>\ud800 Velm \udfff</search>", "<answer>\ud800</answer>")
    assert result[1][4]["action"]["queries"] == ["\ud800 Velm \udfff"]
    assert json.loads(json.dumps(result[1][4])) == result[1][4]
    assert result[2][2] is True


@pytest.mark.parametrize(
    "action", [None, 3, b"<answer>Tarn</answer>", ["<answer>Tarn</answer>"], np.int64(2)]
)
def test_an_action_that_is_no_string_is_a_typed_error_and_costs_nothing(action: Any, env: SearchEnv) -> None:
    play(env)
    with pytest.raises(ConfigError, match="not a string"):
        env.step(action)
    assert env.game.budget()["rounds"] == 8
    assert env.step(RIGHT)[1] == 1.0


def test_a_step_needs_an_episode(env: SearchEnv) -> None:
    with pytest.raises(ResetNeededError):
        env.step(SEARCH)
    play(env, RIGHT)
    for call in (lambda: env.step(SEARCH), env.snapshot):
        with pytest.raises(ResetNeededError, match="reset"):
            call()


# -- reset ---------------------------------------------------------------------------------------------------------


def test_reset_by_seed_task_and_split(env: SearchEnv) -> None:
    first = [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(12))]
    again = [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(12))]
    assert first == again
    assert set(first) == {"employer-town", "river-length", "bare"}
    assert env.reset(options={"task_id": "test-0"})[1]["split"] == "test"
    assert {env.reset(options={"split": "dev"})[1]["split"] for _ in range(5)} == {"dev"}
    assert env.reset(options={})[1]["split"] == "train"
    assert env.task_ids("dev") == [f"dev-{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "bare"}, "Did you mean 'task_id'"),
        ({"task_id": "bear"}, "Did you mean 'bare'"),
        ({"task_id": ["bare"]}, "a string"),
        ({"split": "tests"}, "Did you mean 'test'"),
        ({"split": ["dev"]}, "split is"),
        ({"split": ""}, "unknown split ''"),
        ("dev", "options is 'dev'"),
    ],
)
def test_bad_reset_options(options: Any, message: str, env: SearchEnv) -> None:
    play(env)
    with pytest.raises(ConfigError, match=message):
        env.reset(options=options)
    assert env.step(RIGHT)[1] == 1.0  # the running episode is untouched


def test_reset_in_the_middle_forgets_the_old_episode(toy: str) -> None:
    env = SearchEnv(corpus=toy, feedback={"level": "gold"}, render_mode="ansi")
    clean = play(env, SEARCH, RIGHT)
    play(env, "<feedback>x</feedback>", SEARCH)
    assert play(env, SEARCH, RIGHT) == clean
    assert env.render().count("question>") == 1


# -- arguments -------------------------------------------------------------------------------------------------------


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


# -- snapshots --------------------------------------------------------------------------------------------------------


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
        if env.game.running:
            env.step(message)
    if not env.game.running:
        return
    state = json.loads(json.dumps(env.snapshot()))
    other.reset(seed=99)
    other.restore(state)
    assert other.snapshot() == env.snapshot()
    for message in after:
        if env.game.running:
            assert other.step(message) == env.step(message)
    assert other.reset() == env.reset()


def test_a_snapshot_is_small_however_long_the_episode(toy: str) -> None:
    hits = [Hit(f"passage-{i:08d}", "t", "x" * 100, 1.0) for i in range(1_000)]
    env = SearchEnv(corpus=toy, retriever=FixedRetriever(*hits), top_k=1_000, max_rounds=200, max_chars=None)
    play(env, *[SEARCH] * 150)
    assert len(json.dumps(env.snapshot())) < 2_000


RESTORE = """
import json, sys
from searchgym.env import SearchEnv
env = SearchEnv(corpus=sys.argv[1], top_k=2)
env.reset()
env.restore(json.loads(sys.stdin.read()))
print(json.dumps([env.step(m) for m in sys.argv[2:]] + [env.reset()]))
"""


def test_a_snapshot_is_restored_in_another_process(env: SearchEnv, toy: str) -> None:
    env.reset(seed=2, options={"task_id": "employer-town"})
    env.step(SEARCH)
    state = json.dumps(env.snapshot())
    done = subprocess.run(
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
                and not (key == "assisted" and value is True)
                and not (key in ("round", "searches", "chars", "feedback_left") and value == 2**80)
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
    assert env.snapshot()["generator"] == generator  # its own goes on
    envs.restore(0, env.snapshot())
    after = envs.step([RIGHT, RIGHT])
    assert env.step(RIGHT)[4] == slot_info(after[4], 0) == slot_info(after[4], 1)


# -- rendering -----------------------------------------------------------------------------------------------------


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
