"""Recorded episodes are continued by every agent exactly as it would have continued them itself."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers import small_world
from hf_models import make_env, save_taught
from test_vllm_engine import install

from searchgym.agent import Agent, Turn
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.planner.agent import PlannerAgent
from searchgym.agents.planner.opening import open_planner
from searchgym.agents.scripted import CopyAgent, OracleAgent
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts import Start, collect
from searchgym.rollouts.collection import open_envs

# 8 new tokens cut most acts off: an invalid round does not end an episode, so there are rounds to fork at.
AGENTS: dict[str, Callable[[str], Any]] = {
    "tiny": lambda path: TinyAgent(greedy=True),
    "tiny, one round of history": lambda path: TinyAgent(greedy=True, history=1),
    "candidate": lambda path: CandidateAgent(seed=4, init_std=0.5),
    "candidate, feedback": lambda path: CandidateAgent(seed=8, init_std=0.5),
    "hf": lambda path: HFAgent(path, max_new_tokens=8, greedy=True),
    "hf, its own forward": lambda path: HFAgent(path, max_new_tokens=8, greedy=True, attention="sdpa"),
    "vllm": lambda path: HFAgent(path, max_new_tokens=8, greedy=True, engine="vllm"),
    "planner": lambda path: open_planner(TinyAgent(greedy=True)),
    "planner and answerer": lambda path: open_planner(
        TinyAgent(greedy=True), CandidateAgent(init_std=0.5), train="planner"
    ),
    "oracle": lambda path: OracleAgent(),
    "copy": lambda path: CopyAgent(),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_taught(tmp_path_factory.mktemp("taught"))


class Sends(Agent):
    """Sends a message first, and then nothing that can be read."""

    name = "sends"

    def __init__(self, message: str) -> None:
        self.message = message

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        return ["hm" if "round" in info else self.message for info in infos]


def open_agent(name: str, path: str) -> Any:
    agent = AGENTS[name](path)
    for part in (agent, *getattr(getattr(agent, "agent", None), "parts", ())):
        part.greedy = True
    return agent


def envs_for(name: str, agent: Agent, num_envs: int = 8) -> SearchVectorEnv:
    if "hf" in name or name == "vllm":
        return open_envs(make_env(max_rounds=4), agent, num_envs)
    corpus = small_world("country-terse", train=30)
    feedback = {"level": "kind", "calls": 1} if "candidate" in name else None
    return open_envs("SearchQA-Terse-v0", agent, num_envs, corpus=corpus, feedback=feedback)


def columns(episode: Episode) -> list[Any]:
    return [(s.tokens, s.mask, s.rounds) for s in episode.segments]


def logprobs(episode: Episode) -> list[float]:
    return [value for segment in episode.segments for value in segment.logprobs]


@pytest.mark.parametrize("name", AGENTS)
def test_a_greedy_episode_is_reproduced_from_every_round(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "vllm":
        install(monkeypatch)
    agent = open_agent(name, path)
    envs = envs_for(name, agent)
    parents = collect(envs, agent, envs.task_ids()[:3])
    starts = [
        Start(parent.task_id, prefix=parent, fork_round=fork_round)
        for parent in parents
        for fork_round in range(len(parent.rounds))
    ]
    assert len(starts) > len(parents)
    fresh = open_agent(name, path)  # nothing of the parents is left in its slots
    for start, branch in zip(starts, collect(envs, fresh, starts=starts), strict=True):
        parent = start.prefix
        assert parent is not None
        assert [(r.text, r.observation) for r in branch.rounds] == [
            (r.text, r.observation) for r in parent.rounds
        ]
        assert columns(branch) == columns(parent)
        assert logprobs(branch) == pytest.approx(logprobs(parent), abs=1e-4)
        assert branch.outcome == parent.outcome


@pytest.mark.parametrize("name", ["tiny", "tiny, one round of history", "candidate", "hf"])
def test_siblings_sample_by_their_seeds_whatever_runs_beside_them(name: str, path: str) -> None:
    agent = AGENTS[name](path)
    agent.greedy, agent.temperature = False, 2.0
    envs = envs_for(name, agent, num_envs=3)
    parents = [e for e in collect(envs, agent, envs.task_ids()[:3], seeds=range(3)) if len(e.rounds) > 1]
    starts = [Start(e.task_id, prefix=e, fork_round=1) for e in parents for _ in range(3)]
    assert starts
    seeds = [100 + i for i in range(len(starts))]
    together = collect(envs, agent, starts=starts, seeds=seeds)
    for start, seed, episode in zip(starts, seeds, together, strict=True):
        (alone,) = collect(envs, agent, starts=[start], seeds=[seed])
        assert [r.text for r in alone.rounds] == [r.text for r in episode.rounds]
        assert columns(alone) == columns(episode)
    assert len({tuple(r.text for r in e.rounds) for e in together[:3]}) > 1


@pytest.mark.parametrize("name", ["tiny", "hf", "hf, its own forward"])
def test_the_shared_context_of_siblings_is_computed_once(name: str, path: str) -> None:
    agent = AGENTS[name](path)
    agent.greedy = True
    envs = envs_for(name, agent)
    parent = next(e for task in envs.task_ids() for e in collect(envs, agent, [task]) if len(e.rounds) > 2)
    fork_round = len(parent.rounds) - 1
    start = Start(parent.task_id, prefix=parent, fork_round=fork_round)
    prefilled = []
    for size in (1, 8):
        before = agent.engine.stats.prefilled_tokens
        collect(envs, agent, starts=[start] * size)
        prefilled.append(agent.engine.stats.prefilled_tokens - before)
    context = parent.segments[0].tokens
    given = sum(
        r < fork_round or not m
        for r, m in zip(parent.segments[0].rounds, parent.segments[0].mask, strict=True)
    )
    assert prefilled == [given, given]
    assert given < len(context)


def test_a_planner_continues_its_own_rounds_and_none_in_which_the_answerer_was_at_work() -> None:
    agent = open_planner({"name": "copy"}, {"name": "copy"})
    assert isinstance(agent, PlannerAgent)
    envs = open_envs("SearchQA-Terse-v0", agent, 2, corpus=small_world("country-terse", train=5))
    task = envs.task_ids()[0]
    (parent,) = collect(envs, agent, [task])
    (branch,) = collect(envs, agent, starts=[Start(task, prefix=parent, fork_round=1)])
    assert [r.text for r in branch.rounds] == [r.text for r in parent.rounds]
    tight = SearchVectorEnv.from_config(dataclasses.replace(envs.config, max_searches=1), 2)
    (spent,) = collect(tight, Sends(parent.rounds[0].text), [task])
    collect(tight, agent, starts=[Start(task, prefix=spent, fork_round=1)])
    with pytest.raises(ConfigError, match="answerer may have taken over"):
        collect(tight, agent, starts=[Start(task, prefix=spent, fork_round=2)])


def test_tokens_are_needed_where_an_agent_acts_on_tokens(path: str) -> None:
    tiny = TinyAgent(greedy=True)
    envs = envs_for("tiny", tiny)
    task = envs.task_ids()[0]
    (copied,) = collect(envs, CopyAgent(), [task])
    start = Start(task, prefix=copied, fork_round=1)
    with pytest.raises(ConfigError, match="'copy' does not have them"):
        collect(envs, tiny, starts=[start])
    (played,) = collect(envs, CandidateAgent(), starts=[start])  # acts on texts
    assert played.rounds[0] is copied.rounds[0]
    assert len(played.rounds) > 1
    candidate = CandidateAgent()
    foreign = next(
        e for e in collect(envs, candidate, envs.task_ids()[:20], ids=random.Random(0)) if len(e.rounds) > 1
    )
    with pytest.raises(ConfigError, match="'candidate' does not have them"):
        collect(envs, tiny, starts=[Start(foreign.task_id, prefix=foreign, fork_round=1)])
