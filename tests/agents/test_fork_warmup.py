"""The warm start of the tiny model on forks: its demonstrations, the command, and the packaged result."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from searchgym.agents.tiny import fork_warmup
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.agents.tiny.fork_demos import Choices, demonstrate_fork
from searchgym.corpora.bm25.index import BM25
from searchgym.corpora.forks import FAMILIES, Forks
from searchgym.dialects import TagsDialect
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.records.question import Question
from searchgym.rollouts.collection import collect


@pytest.fixture(scope="module")
def corpus() -> Forks:
    return Forks(seed=7, train=80, dev=0, test=0)


@pytest.fixture(scope="module")
def search(corpus: Forks) -> Any:
    index = BM25.build(corpus, b=0.0)
    return lambda query: index.search([query], 1)[0]


def answer(question: Question, search: Any, choices: Choices, seed: int) -> str:
    """The answer of a demonstration, each of whose acts is an exact copy of something that was shown."""
    parts = demonstrate_fork(question, search, random.Random(seed), choices)
    seen, given = "", ""
    for part in parts:
        if not part.learned:
            seen += part.text + "\n"
            continue
        act = TagsDialect().parse(part.text, feedback=False, max_queries=1)
        assert act.kind != "invalid"
        given = act.answer
        for value in (*act.queries, *([act.answer] if act.kind == "answer" else [])):
            assert value in seen
    return given


def test_demonstrations_copy_exactly_and_choose_indifferently_or_rightly(corpus: Forks, search: Any) -> None:
    questions = corpus.questions("train")
    assert {question.type for question in questions} == set(FAMILIES)
    for share, low, high in ((0.0, 0.2, 0.65), (1.0, 1.0, 1.0)):
        right = [answer(q, search, Choices(right=share), i) in q.answers for i, q in enumerate(questions)]
        assert low <= sum(right) / len(right) <= high
    with pytest.raises(ConfigError, match=r"right is 1\.5"):
        Choices(right=1.5)


def test_the_command_repeats_itself(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_warmup, "Forks", lambda **options: Forks(**options | {"train": 80}))
    for name in ("a", "b"):
        status, _, errors = cli("warmup", "--task", "forks", "--steps", "3", "--out", str(tmp_path / name))
        assert status == 0, errors
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
    assert json.loads(files[0]["warmup.json"])["config"]["steps"] == [2, 1]
    trained = TinyAgent(checkpoint=tmp_path / "a").module.state_dict()
    before = TinyAgent().module.state_dict()
    assert any(not value.equal(before[name]) for name, value in trained.items())


def test_the_packaged_start_has_room_to_learn_in_every_family() -> None:
    envs = make_vec("SearchQA-Forks-v0", 128, autoreset_mode="Disabled")
    episodes = collect(envs, TinyAgent(start="forks", seed=1), envs.task_ids()[:256])
    assert not any(record.action.kind == "invalid" for episode in episodes for record in episode.rounds[:1])
    for family in FAMILIES:
        right = [e.outcome.em for e in episodes if e.task_id.startswith(f"forks-{family}-")]
        assert 0.1 <= sum(right) / len(right) <= 0.7, family  # 32 episodes each


def test_a_start_is_one_of_the_packaged_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start is 'fork'"):
        TinyAgent(start="fork")
    with pytest.raises(ConfigError, match="give one of them"):
        TinyAgent(checkpoint=tmp_path, start="forks")
