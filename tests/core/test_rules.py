"""The rules of an episode: endings, budgets, failures, feedback, scoring, bad messages, reset."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from toys import (
    RIGHT,
    SEARCH,
    WRONG,
    Probe,
    check_info,
    play,
)

import searchgym
from searchgym.dialects import Act, get_dialect
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError, ResetNeededError, UnknownIdError
from searchgym.records.episode import StopReason

# -- how episodes end ------------------------------------------------------------------------------------


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
        StopReason.QUERIED: ({"task": "query"}, [SEARCH]),
    }
    for reason, (arguments, messages) in runs.items():
        found, info, last = ending(SearchEnv(corpus=corpus, **arguments), *messages)
        assert found is reason
        assert last[2:4] == (reason.is_terminal, not reason.is_terminal)
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
    with pytest.raises(ConfigError, match="only an act of the agent"):
        env.truncate(StopReason.ANSWERED)
    with pytest.raises(UnknownIdError, match="Did you mean 'token_budget'"):
        env.truncate("token_budgt")  # type: ignore[arg-type]
    assert env.truncate("token_budget")[4]["outcome"]["stop_reason"] == "token_budget"  # type: ignore[arg-type]


def test_budgets_are_exact(toy: str) -> None:
    message = "<search>Velm town</search>"
    env = SearchEnv(corpus=toy)
    observation = play(env, message)[1][0]
    used = len(message) + len(observation)
    assert env.episode.budget() == {"rounds": 7, "searches": -1, "chars": 200_000 - used}
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
    assert several.episode.budget()["searches"] == 0


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


# -- retrieval failures ----------------------------------------------------------------------------------


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
        assert "SECRET" not in str(said)  # ... and not to the agent


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
    assert env.episode.budget() == twin.episode.budget()


# -- the feedback act ------------------------------------------------------------------------------------


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
                off.episode.config.dialect.parse(message, feedback=False, max_queries=1).error, feedback=False
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


# -- only the agent's own final act is scored ------------------------------------------------------------


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


# -- bad actions -----------------------------------------------------------------------------------------


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
    assert env.episode.budget()["rounds"] == 8
    assert env.step(RIGHT)[1] == 1.0


def test_a_step_needs_an_episode(env: SearchEnv) -> None:
    with pytest.raises(ResetNeededError):
        env.step(SEARCH)
    play(env, RIGHT)
    for call in (lambda: env.step(SEARCH), env.snapshot):
        with pytest.raises(ResetNeededError, match="reset"):
            call()


# -- reset -----------------------------------------------------------------------------------------------


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
