"""RewriteQuery-v0: one query is the episode; NDCG of its ranked list plus a term for the format is the reward."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from helpers import small_world

import searchgym
from searchgym.agent import Agent
from searchgym.dialects import Act, ToolsDialect, register_dialect, registry
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.records.episode import Episode, StopReason
from searchgym.records.retriever import Hit
from searchgym.rollouts.rescoring import rescore
from searchgym.scoring import ndcg
from searchgym.tables.failures import cause_of
from searchgym.tables.statistics import failure_statistics
from searchgym.tables.training_rows import conversation

WORLD = small_world("country-terse")
ID = "RewriteQuery-v0"


class Fixed:
    """A retriever with one ranked list for every query."""

    name, index_hash = "fixed", "fixed"

    def __init__(self, ids: list[str]) -> None:
        self._ids = ids

    def search(self, queries: Any, k: int) -> list[list[Hit]]:
        return [[Hit(id, id, id, -float(i)) for i, id in enumerate(self._ids[:k])] for _ in queries]


def two_gold() -> Any:
    """A question with two gold passages, and its corpus."""
    corpus = searchgym.open_corpus(WORLD)
    return corpus, next(q for q in corpus.questions("train") if len(q.supporting_ids) == 2)


def step(env: Any, task_id: str, message: str) -> Any:
    env.reset(options={"task_id": task_id})
    return env.step(message)


def test_ndcg_by_hand() -> None:
    # Relevant at ranks 1 and 3 of 2: (1 + 1/2) / (1 + 1/log2 3).
    assert ndcg(["a", "x", "b"], {"a", "b"}, 2) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert ndcg(["a", "b"], {"a", "b"}, 2) == 1.0
    assert ndcg(["x"], {"a"}, 1) == 0.0


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([0, 1], 1.0),
        ([0, 2], 1.5 / (1 + 1 / math.log2(3))),
        ([3], (1 / math.log2(5)) / (1 + 1 / math.log2(3))),
        ([], 0.0),
    ],
)
def test_the_reward_is_ndcg_of_the_list_plus_the_format(ranks: list[int], expected: float) -> None:
    corpus, question = two_gold()
    others = iter([p.id for p in corpus.passages if p.id not in question.supporting_ids][:6])
    gold = iter(question.supporting_ids)
    ids = [next(gold) if rank in ranks else next(others) for rank in range(6)]
    env = gym.make(ID, corpus=corpus, retriever=Fixed(ids), disable_env_checker=True)
    observation, reward, terminated, truncated, info = step(env, question.id, "<search> x </search>")
    assert reward == pytest.approx(expected + 0.1)
    assert info["reward_terms"] == pytest.approx({"ndcg": expected, "query_format": 0.1})
    assert (observation, terminated, truncated) == ("", True, False)
    assert info["outcome"]["stop_reason"] == "queried"
    assert info["outcome"]["recall"] == len(ranks) / 2
    assert info["valid_for_training"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("<answer> Dorn </answer>", "answer_off"),
        ("Dorn", "no_act"),
        ("<search> a </search><search> b </search>", "several_acts"),
    ],
)
def test_a_bad_format_costs_two(message: str, error: str) -> None:
    corpus, question = two_gold()
    env = gym.make(ID, corpus=corpus)
    _, reward, terminated, truncated, info = step(env, question.id, message)
    assert (reward, terminated, truncated) == (-2.0, True, False)
    assert (info["action"]["kind"], info["action"]["error"]) == ("invalid", error)
    assert info["outcome"]["answer"] == ""


def test_further_rounds_are_further_attempts() -> None:
    corpus, question = two_gold()
    env = gym.make(ID, corpus=corpus, max_rounds=2)
    observation, reward, terminated, truncated, _ = step(env, question.id, "<answer> Dorn </answer>")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert observation.endswith("it used an action that is not available. Write exactly one <search> action.")
    _, reward, terminated, *_ = env.step(f"<search> {question.text} </search>")
    assert terminated
    assert reward > 0.1


def test_a_failed_retriever_is_no_bad_query() -> None:
    class Down(Fixed):
        def search(self, queries: Any, k: int) -> Any:
            raise searchgym.errors.RetrievalError("down")

    corpus, question = two_gold()
    env = gym.make(ID, corpus=corpus, retriever=Down([]), disable_env_checker=True)
    _, reward, terminated, truncated, info = step(env, question.id, "<search> x </search>")
    assert (reward, terminated, truncated, info["valid_for_training"]) == (0.0, False, True, False)


def test_gymnasium_checks_it() -> None:
    check_env(gym.make(ID, corpus=WORLD).unwrapped, skip_render_check=True)


def test_the_prompt_asks_for_a_query_and_not_for_an_answer() -> None:
    env = gym.make(ID, corpus=WORLD).unwrapped
    assert "<search>" in env.system_prompt
    assert "<answer>" not in env.system_prompt
    episode = searchgym.rollout(ID, "copy", episodes=1, corpus=WORLD)[0]
    assert conversation(episode, env.config.corpus_description)[0]["content"] == env.system_prompt


def test_batched_episodes_equal_single_ones_and_evaluation_has_ndcg() -> None:
    corpus = searchgym.open_corpus(WORLD)
    result = searchgym.evaluate(ID, "copy", 12, corpus=corpus, reward={"ndcg": 1.0, "query_format": 1.0})
    rewards = {e.task_id: e.reward for e in result.episodes}
    env = gym.make(ID, corpus=corpus)
    for episode in result.episodes:
        _, reward, *_ = step(env, episode.task_id, episode.rounds[0].text)
        assert reward == rewards[episode.task_id]
    assert result.metrics["ndcg"].value == pytest.approx(sum(rewards.values()) / 12 - 0.1)
    assert 0.0 < result.metrics["recall"].value <= 1.0
    assert result.by_group == {}
    assert result.stop_reasons == {"queried": 12}
    kept = [Episode.from_json(episode.to_json()) for episode in result.episodes]
    assert [rescore(e).recall for e in kept] == [e.outcome.recall for e in result.episodes]
    assert {cause_of(e) for e in kept} <= {"", "no_gold_retrieved"}
    counted = failure_statistics(kept)  # no cause, and no exact match
    assert (counted.scored, counted.successes, counted.em and counted.em.value) == (12, 0, 0.0)


def test_the_task_is_part_of_what_makes_episodes_comparable() -> None:
    (query,) = searchgym.rollout(ID, "copy", episodes=1, corpus=WORLD)
    (answer,) = searchgym.rollout("SearchQA-v0", "copy", episodes=1, corpus=WORLD)
    assert query.env["task"] == "query"
    assert "task" not in answer.env


def test_an_answering_agent_is_invalid_there() -> None:
    class Answers(Agent):
        def act(self, slots: Any, observations: Any, infos: Any) -> list[str]:
            return [self.agent_context.dialect.write(Act("answer", answer="x")) for _ in slots]

    result = searchgym.evaluate(ID, Answers(), 3, corpus=WORLD)
    assert result.invalid == {"answer_off": 1.0}
    assert result.stop_reasons == {"queried": 3}
    assert {cause_of(e) for e in result.episodes} == {"malformed_act"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dialect": "tools"}, "needs a dialect with query_prompt and render_invalid_query"),
        ({"feedback": {"level": "kind"}}, "leave out feedback"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gym.make(ID, corpus=WORLD, **arguments)


def test_a_dialect_that_cannot_answer_bad_queries_is_refused_before_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Half(ToolsDialect):
        name = "half"

        def query_prompt(self) -> str:
            return "Write a query."

    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    register_dialect(Half)
    with pytest.raises(ConfigError, match="render_invalid_query, and 'half' lacks"):
        gym.make(ID, corpus=WORLD, dialect="half")


def test_unknown_tasks_and_reasons() -> None:
    with pytest.raises(UnknownIdError, match="query"):
        gym.make("SearchQA-v0", corpus=WORLD, task="qery")
    env = gym.make(ID, corpus=WORLD).unwrapped
    env.reset()
    with pytest.raises(ConfigError, match="only an act of the agent"):
        env.truncate(StopReason.QUERIED)
