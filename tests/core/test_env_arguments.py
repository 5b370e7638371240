"""Environment arguments: declared once, and everything that is derived from the declaration."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
import pytest
from toys import RIGHT, SEARCH

import searchgym
from searchgym.env.config import ARGUMENTS, EnvConfig, argument_table, env_fingerprint
from searchgym.env.env import SearchEnv
from searchgym.env.setup import make_env_config
from searchgym.env.spaces import SampleTitles
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.rollouts import open_agent


def test_every_argument_has_a_default_and_a_meaning() -> None:
    for name, declared in ARGUMENTS.items():
        assert len(declared.metadata["text"].split()) > 2, name
        assert f"| `{name}` |" in argument_table()
    derived = {f.name for f in fields(EnvConfig) if not f.init}
    assert not derived & set(ARGUMENTS)


def test_a_config_is_made_from_the_declaration(toy: str) -> None:
    config = make_env_config(corpus=toy, reward="f1", feedback={"level": "kind"}, types=["chain"])
    assert (config.reward, config.types, config.dialect.name) == ({"f1": 1.0}, ("chain",), "tags")
    assert (config.has_feedback, config.feedback_level, config.feedback_calls) == (True, "kind", 1)
    for wrong in ({"rewards": "em"}, {"toPk": 3}, {"judge_spec": "oracle"}, {"zero_terms": {}}):
        with pytest.raises(UnknownIdError, match="unknown environment argument"):
            make_env_config(corpus=toy, **wrong)


def test_a_changed_copy_is_checked_and_shares_what_is_open(toy: str) -> None:
    config = make_env_config(corpus=toy, dialect="tools", feedback={"level": "gold", "calls": 2})
    changed = replace(config, top_k=2, corpus_description="a set of notes")
    assert (changed.corpus, changed.retriever) == (config.corpus, config.retriever)
    assert "Search the set of notes for passages." in changed.system_prompt
    with pytest.raises(ConfigError, match="top_k is 0"):
        replace(config, top_k=0)
    plain = config.for_evaluation()
    assert (plain.reward, plain.has_feedback, plain.judge, plain.judge_spec) == (
        {"em": 1.0},
        False,
        None,
        None,
    )
    assert plain.dialect is config.dialect
    assert pickle.loads(pickle.dumps(config)).top_k == config.top_k


def test_the_fingerprint_holds_the_comparable_arguments(toy: str) -> None:
    config = make_env_config(corpus=toy, judge="oracle", feedback={"level": "hop", "calls": 3})
    found = env_fingerprint(config)
    assert found["judge"] == "oracle"
    assert (found["feedback"], found["feedback_calls"]) == ("hop", 3)
    assert (found["corpus_hash"], found["index_hash"]) == (config.corpus.hash, config.retriever.index_hash)
    assert found["corpus_description"] == "a collection of texts"
    other: dict[str, Any] = {"split": "dev", "reveal_gold": True}
    assert env_fingerprint(replace(config, **other)) == found
    assert env_fingerprint(replace(config, max_rounds=3)) != found


def test_the_prompt_describes_the_corpus(toy: str) -> None:
    assert "by searching an encyclopedia. " in gym.make("SearchQA-v0").unwrapped.system_prompt
    assert "by searching a collection of texts. " in SearchEnv(corpus=toy).system_prompt
    env = SearchEnv(corpus=toy, corpus_description="English Wikipedia", dialect="tools")
    assert "by searching English Wikipedia. " in env.system_prompt
    assert "Search English Wikipedia for passages." in env.system_prompt

    class Described:
        description = "the minutes of a club"

        def __getattr__(self, name: str) -> Any:
            return getattr(searchgym.open_corpus(toy), name)

    assert "by searching the minutes of a club. " in SearchEnv(corpus=Described()).system_prompt
    for wrong in ("", 3):
        with pytest.raises(ConfigError, match="corpus_description"):
            SearchEnv(corpus=toy, corpus_description=wrong)


def test_opening_reads_no_passage(toy: str) -> None:
    """Titles for `action_space.sample()` are read at the first sample, and once per corpus."""
    opened = searchgym.open_corpus(toy)

    read: list[Any] = []

    class Passages(Sequence[Any]):
        def __len__(self) -> int:
            return len(opened.passages)

        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return opened.passages[index]

    class Watched:
        name, hash, splits = opened.name, opened.hash, opened.splits
        questions, question = opened.questions, opened.question
        passages = Passages()

    watched = Watched()
    retriever = searchgym.open_retriever("bm25", opened)
    first, second = (SearchEnv(corpus=watched, retriever=retriever) for _ in range(2))
    assert read == []
    assert first.action_space == second.action_space
    first.action_space.seed(1)
    first.action_space.sample()
    second.observation_space.sample()
    assert len(read) == len(opened.passages)
    copied = pickle.loads(pickle.dumps(first.action_space))
    assert type(copied.words) is tuple  # a pickle holds the titles, not the corpus
    assert copied == first.action_space
    assert SampleTitles(watched)[:2] == ("Anna Reed", "Anna Reed (painter)")


def test_records_are_made_once_and_read_everywhere(toy: str) -> None:
    """The rounds of an episode are the records that the judge saw."""
    seen: list[Any] = []

    class Remembering:
        name = "remembering"

        def judge(self, traces: Any) -> Any:
            seen.extend(trace.rounds[-1] for trace in traces)
            return searchgym.open_judge("oracle").judge(traces)

    envs = searchgym.make_vec("SearchQA-v0", 1, corpus=toy, judge=Remembering())
    messages = iter([SEARCH, RIGHT])
    agent = open_agent(lambda observation, info: next(messages))
    (episode,) = searchgym.collect(envs, agent, ["employer-town"])
    assert all(record is round_ for record, round_ in zip(seen, episode.rounds, strict=True))
    assert [record.judge.status for record in seen] == ["ok", "ok"]
