"""Demonstrations: every query and answer is made of what was read; unknown where that is not enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hf_models import WORLD

import searchgym
from searchgym.agents.demonstrator import DemonstratorAgent
from searchgym.agents.passages import contains_phrase
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import agent_context_of

PASSAGES = {
    "Mill": "The mill was built by J. R. Tarn. It stands on a hill.",
    "J. R. Tarn": "J. R. Tarn was a builder from Voss. He died in 1902.",
    "Orm (town)": "Orm is a town in the east. It has a mill and a well.",
    "Voss": "Voss is a town in the west.",
}
QUESTIONS = [
    ("When did the builder of the Mill die?", ["1902"], ["Mill", "J. R. Tarn"]),
    ("Are Orm and Voss both towns?", ["yes"], ["Orm (town)", "Voss"]),
    ("Which is in the west, Orm or Voss?", ["Voss"], ["Orm (town)", "Voss"]),
    ("Who was born in 1801?", ["nobody here"], ["Voss"]),
]


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, Any]:
    ids = {title: f"p{number}" for number, title in enumerate(PASSAGES)}
    lines = [{"id": ids[t], "title": t, "text": text} for t, text in PASSAGES.items()]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = [
        {"id": f"q{n}", "question": q, "answers": a, "supporting_ids": [ids[t] for t in s], "split": "train"}
        for n, (q, a, s) in enumerate(QUESTIONS)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)))
    files = {
        key: str(tmp_path / f"{name}.jsonl")
        for key, name in (("path", "passages"), ("questions", "questions"))
    }
    return {"name": "jsonl", **files}


def play(
    corpus: dict[str, Any], agent: str | DemonstratorAgent = "demonstrator", **options: Any
) -> list[Episode]:
    episodes = searchgym.rollout(
        "SearchQA-v0",
        agent,
        len(QUESTIONS),
        corpus=corpus,
        split="train",
        reveal_gold=True,
        top_k=1,
        **options,
    )
    return sorted(episodes, key=lambda e: e.task_id)


def test_it_looks_up_what_the_question_or_a_passage_mentions_and_quotes_what_it_read(
    corpus: dict[str, Any],
) -> None:
    bridge, both, choice, unknown = play(corpus)
    assert [r.text for r in bridge.rounds] == [
        "<think> I need to read about Mill. </think> <search> Mill </search>",
        "<think> The mill was built by J. R. Tarn. I need to read about J. R. Tarn. </think> <search> J. R. Tarn </search>",
        "<think> He died in 1902. So the answer is 1902. </think> <answer> 1902 </answer>",
    ]
    assert [r.action.queries for r in both.rounds[:2]] == [("Orm",), ("Voss",)]
    assert both.rounds[-1].text.startswith(
        "<think> Orm is a town in the east. Voss is a town in the west. So"
    )
    assert [e.reward for e in (bridge, both, choice, unknown)] == [1, 1, 1, 0]
    assert unknown.outcome.answer == "unknown"


def test_without_thoughts_it_writes_the_same_acts_alone(corpus: dict[str, Any]) -> None:
    for terse, whole in zip(play(corpus, DemonstratorAgent(thoughts=False)), play(corpus), strict=True):
        assert [r.action for r in terse.rounds] == [r.action for r in whole.rounds]
        assert all(
            a.text == b.text.partition("</think> ")[2]
            for a, b in zip(terse.rounds, whole.rounds, strict=True)
        )
    with pytest.raises(ConfigError, match="thoughts is 'no'"):
        DemonstratorAgent(thoughts="no")  # type: ignore[arg-type]


def test_queries_and_answers_consist_of_what_was_read(corpus: dict[str, Any]) -> None:
    for episode in play(corpus):
        seen = episode.question
        for round_ in episode.rounds:
            for words in (*round_.action.queries, *filter(None, [round_.action.answer])):
                assert contains_phrase(seen, words) or words in ("yes", "unknown"), words
            seen += "\n" + round_.observation


@pytest.mark.parametrize("dialect", ["tags", "tools"])
def test_it_answers_the_questions_of_the_generated_world_with_thoughts(dialect: str) -> None:
    options = {"corpus": WORLD, "dialect": dialect, "reveal_gold": True, "types": ["chain"], "split": "train"}
    episodes = searchgym.rollout("SearchQA-Terse-v0", "demonstrator", 10, **options)
    assert [e.reward for e in episodes] == [1.0] * 10
    assert all(r.text.startswith("<think>") for e in episodes for r in e.rounds)


def test_it_stops_searching_in_time_to_answer(corpus: dict[str, Any]) -> None:
    for episode in play(corpus, max_rounds=2):
        assert [r.action.kind for r in episode.rounds] == ["search", "answer"]


def test_forked_and_resumed_episodes_continue_alike(corpus: dict[str, Any]) -> None:
    recorded = play(corpus)[0]
    envs = make_vec("SearchQA-v0", 1, corpus=corpus, split="train", reveal_gold=True, top_k=1)
    agent = DemonstratorAgent()
    agent.bind(agent_context_of(envs.config))
    info = {"gold": recorded.gold}
    agent.act([0], [recorded.question], [info])
    agent.fork(0, [1, 2])
    agent.act([0], ["nothing"], [info])  # the source goes on and leaves its copies alone
    agent.resume(3, recorded, 1)
    observation = recorded.rounds[0].observation
    assert agent.act([1, 3], [observation] * 2, [info] * 2) == [recorded.rounds[1].text] * 2
    agent.resume(4, recorded, 2)
    observation = recorded.rounds[1].observation
    assert agent.act([1, 4], [observation] * 2, [info] * 2) == [recorded.rounds[2].text] * 2


def test_without_gold_it_says_what_it_needs(corpus: dict[str, Any]) -> None:
    agent = DemonstratorAgent()
    with pytest.raises(ConfigError, match="build the environment with reveal_gold=True"):
        agent.act([0], ["Who?"], [{}])
