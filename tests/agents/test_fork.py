"""Forked slots continue exactly like their source, without computing its context again, and draw numbers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hf_models import make_env, save_taught
from test_vllm_engine import install

from searchgym.agent import Agent, Turn
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.planner.opening import open_planner
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.env.env import SearchEnv
from searchgym.rollouts.collection import agent_context_of

Point = tuple[str, dict[str, Any]]
Forkable = Callable[[str], Any]

AGENTS: dict[str, Forkable] = {
    "tiny": lambda path: TinyAgent(max_new_tokens=16, temperature=3.0),
    "tiny, two rounds of history": lambda path: TinyAgent(max_new_tokens=16, temperature=3.0, history=2),
    "candidate": lambda path: CandidateAgent(init_std=0.5),
    "hf": lambda path: HFAgent(path, max_new_tokens=12),
    "hf, its own forward": lambda path: HFAgent(path, max_new_tokens=12, attention="sdpa"),
    "vllm": lambda path: HFAgent(path, max_new_tokens=12, engine="vllm"),
    "planner": lambda path: open_planner(TinyAgent(max_new_tokens=16, temperature=3.0)),
    "planner and answerer": lambda path: open_planner(
        TinyAgent(max_new_tokens=16), CandidateAgent(init_std=0.5), train="planner"
    ),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_taught(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def env() -> SearchEnv:
    return make_env(max_rounds=6)


@pytest.fixture(params=AGENTS)
def make(request: pytest.FixtureRequest, path: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Agent]:
    if request.param == "vllm":
        install(monkeypatch)
    return lambda: AGENTS[request.param](path)


def advance(
    agent: Agent, env: SearchEnv, slot: int, point: Point, rounds: int
) -> tuple[list[Turn], Point | None]:
    """Play up to `rounds` rounds in a slot; the point is None after the last round of an episode."""
    turns: list[Turn] = []
    for _ in range(rounds):
        (turn,) = agent.act([slot], [point[0]], [point[1]])
        assert isinstance(turn, Turn)
        turns.append(turn)
        observation, _, terminated, truncated, info = env.step(turn.text)
        if terminated or truncated:
            return turns, None
        point = observation, info
    return turns, point


def play_to(agent: Agent, env: SearchEnv, rounds: int) -> Point:
    """An episode in slot 0 that still runs after `rounds` rounds."""
    agent.bind(agent_context_of(env.config))
    for seed, task in enumerate(env.task_ids()):
        agent.begin([0])
        agent.seed([0], [seed])
        point = env.reset(options={"task_id": task})
        _, reached = advance(agent, env, 0, point, rounds)
        if reached is not None:
            return reached
    raise AssertionError("every episode ended before")


def parts(agent: Any) -> list[Any]:
    return [agent, *getattr(getattr(agent, "agent", None), "parts", ())]


def sampled(turns: list[Turn]) -> list[tuple[str, list[int], list[int]]]:
    return [(t.text, t.prompt_ids, t.token_ids) for turn in turns for t in (*turn.earlier, turn)]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_fork_continues_greedily_as_its_source_would(
    make: Callable[[], Agent], env: SearchEnv, rounds: int
) -> None:
    agent = make()
    point = play_to(agent, env, rounds)
    snapshot = env.snapshot()
    agent.fork(0, [4, 7])
    for part in parts(agent):
        part.greedy = True
    ends = []
    for slot in (4, 0, 7):
        env.restore(snapshot)
        ends.append(advance(agent, env, slot, point, 6)[0])
    fork, source, other = ends
    assert sampled(fork) == sampled(source) == sampled(other)
    for one, two in zip(fork, source, strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
        assert one.new_segment == two.new_segment


def test_forks_draw_numbers_of_their_own_and_a_seed_decides_which(
    make: Callable[[], Agent], env: SearchEnv
) -> None:
    drawn = []
    for seeds in ([21, 22], [21, 23]):
        agent = make()
        point = play_to(agent, env, 1)
        snapshot = env.snapshot()
        agent.fork(0, [4, 7])
        agent.seed([4, 7], seeds)
        ends = {}
        for slot in (7, 4, 0):
            env.restore(snapshot)
            ends[slot] = sampled(advance(agent, env, slot, point, 6)[0])
        drawn.append(ends)
    first, second = drawn
    assert first[0] == second[0], "the source's stream continues as without a fork"
    assert first[4] == second[4]
    assert first[4] != first[7] != second[7] != first[0]


@pytest.mark.parametrize("name", ["tiny", "hf", "hf, its own forward"])
def test_keys_and_values_of_a_fork_are_copied(name: str, path: str, env: SearchEnv) -> None:
    agent = AGENTS[name](path)
    observation, info = play_to(agent, env, 2)
    context = len(agent.engine.context(0))
    before = agent.engine.stats.prefilled_tokens
    agent.fork(0, [4, 7])
    assert agent.engine.stats.prefilled_tokens == before
    agent.act([7], [observation], [info])
    new = agent.engine.stats.prefilled_tokens - before
    fed = len(agent.engine.context(7)) - context
    assert 0 < new <= fed + 1 < context  # the observation, and the last token of the act before it
