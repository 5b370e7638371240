"""The agent `api`, against a server that answers as chat APIs do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.stub_llm import StubLLM
from helpers import small_world

import searchgym
from searchgym.agents.api import APIAgent
from searchgym.cli import main
from searchgym.errors import BudgetSpentError, ConfigError
from searchgym.rollouts import Start, collect
from searchgym.rollouts.collection import open_envs

WORLD = small_world()
PRICES = {"usd_per_million_input": 1.0, "usd_per_million_output": 10.0}


def tags(body: dict[str, Any]) -> str | dict[str, Any]:
    """Searches for the question, then answers with the first title it read; the closing tag is the server's stop."""
    heard = body["messages"][-1]["content"]
    title = re.search(r"\[1\] (.*)", heard)
    thought = "<think>Let me see.</think> "
    return thought + (f"<answer> {title[1]} " if title else f"<search> {heard} ")


def tools(body: dict[str, Any]) -> str | dict[str, Any]:
    """The same with the API's own tools."""
    heard = body["messages"][-1]
    title = re.search(r"\[1\] (.*)", heard["content"])
    name, arguments = ("answer", {"answer": title[1]}) if title else ("search", {"query": heard["content"]})
    call = {
        "id": f"call_{len(body['messages'])}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }
    return {"content": None if title else "Let me see.", "tool_calls": [call]}


@pytest.fixture
def stub() -> Iterator[StubLLM]:
    with StubLLM(chat=tags) as server:
        yield server


@pytest.fixture
def options(stub: StubLLM, tmp_path: Path) -> dict[str, Any]:
    return {
        "base_url": stub.url,
        "model": "stub",
        "api_key_env": None,
        "cache": str(tmp_path / "kept"),
        "retries": 0,
    }


def play(agent: APIAgent, episodes: int = 6, **more: Any) -> searchgym.EvalResult:
    return searchgym.evaluate("SearchQA-v0", agent, episodes, split="dev", corpus=WORLD, max_rounds=4, **more)


def test_it_plays_in_the_tags_dialect(stub: StubLLM, options: dict[str, Any]) -> None:
    stub.latency = 0.1
    agent = APIAgent(**options, **PRICES)
    result = play(agent)
    assert result.stop_reasons == {"answered": 6}
    episode = result.episodes[0]
    assert episode.rounds[0].text.endswith("</search>")
    assert episode.rounds[0].action.queries == (episode.question,)
    assert episode.outcome.answer == episode.rounds[0].hits[0].title
    assert episode.segments == []
    body = stub.bodies[-1]
    assert body["stop"] == ["</search>", "</answer>", "</feedback>"]
    assert "tools" not in body
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert "<search>" in body["messages"][0]["content"]
    assert stub.most_in_flight == 6  # all running episodes at once
    assert result.costs == agent.costs()
    assert result.costs["calls"] == 12
    expected = (result.costs["input_tokens"] + 10 * result.costs["output_tokens"]) / 1e6
    assert result.costs["usd"] == pytest.approx(expected)
    assert expected > 0


def test_it_plays_with_the_apis_own_tools(options: dict[str, Any]) -> None:
    with StubLLM(chat=tools) as stub:
        result = play(APIAgent(**options | {"base_url": stub.url}), dialect="tools")
        assert result.stop_reasons == {"answered": 6}
        opening, body = stub.bodies[0], stub.bodies[-1]
    assert result.episodes[0].rounds[0].text.startswith("Let me see.\n<tool_call>\n")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["search", "answer"]
    assert "<tools>" not in opening["messages"][0]["content"]
    assert "tool" in opening["messages"][0]["content"]
    assistant, answered = body["messages"][2:]
    assert answered["role"] == "tool"
    assert answered["tool_call_id"] == assistant["tool_calls"][0]["id"]
    assert "<tool_response>" not in answered["content"]
    assert "stop" not in body


def test_tools_can_be_plain_text(options: dict[str, Any]) -> None:
    def hermes(body: dict[str, Any]) -> str:
        return '<tool_call>{"name": "answer", "arguments": {"answer": "Oldmoor"}}'

    with StubLLM(chat=hermes) as stub:
        agent = APIAgent(**options | {"base_url": stub.url}, native_tools=False)
        result = play(agent, dialect="tools")
        assert "<tools>" in stub.bodies[0]["messages"][0]["content"]
        assert stub.bodies[0]["stop"] == ["</tool_call>"]
    assert {e.outcome.answer for e in result.episodes} == {"Oldmoor"}


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        ([("search", '{"query": ')], "malformed_call"),
        ([("open", "{}")], "unknown_tool"),
        ([("search", '{"query": "a"}'), ("answer", '{"answer": "b"}')], "several_acts"),
    ],
)
def test_calls_that_cannot_be_read_are_invalid_acts(
    options: dict[str, Any], calls: list[tuple[str, str]], error: str
) -> None:
    def clumsy(body: dict[str, Any]) -> dict[str, Any]:
        made = [
            {"id": str(n), "type": "function", "function": {"name": name, "arguments": text}}
            for n, (name, text) in enumerate(calls)
        ]
        return {"content": None, "tool_calls": made}

    with StubLLM(chat=clumsy) as stub:
        result = play(APIAgent(**options | {"base_url": stub.url}), 1, dialect="tools")
        answers = [m for m in stub.bodies[-1]["messages"] if m["role"] == "tool"]
    assert {r.action.error for r in result.episodes[0].rounds} == {error}
    assert len(answers) == 3 * len(calls)  # the API wants every call answered


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<search> a </search> <answer> b </answer>", "<search> a </search>"),
        ("<answer> b ", "<answer> b </answer>"),
        ("no act at all", "no act at all"),
    ],
)
def test_a_message_ends_with_its_first_act(options: dict[str, Any], reply: str, text: str) -> None:
    with StubLLM(chat=lambda body: reply) as stub:
        result = play(APIAgent(**options | {"base_url": stub.url}), 1)
    assert result.episodes[0].rounds[0].text == text


def test_replies_are_kept_and_samples_are_not_confused(stub: StubLLM, options: dict[str, Any]) -> None:
    first = play(APIAgent(**options, temperature=1.0), 3, samples=2)
    assert len(stub.bodies) == 12  # equal conversations of one question are two draws
    again = APIAgent(**options, temperature=1.0)
    assert [e.rounds[0].text for e in play(again, 3, samples=2).episodes] == [
        e.rounds[0].text for e in first.episodes
    ]
    assert len(stub.bodies) == 12
    assert again.costs()["cached"] == 12
    play(APIAgent(**options, temperature=1.0, sample=2), 1)
    play(APIAgent(**options, temperature=0.5), 1)
    assert len(stub.bodies) == 16


def test_an_evaluation_goes_on_where_its_budget_ended(stub: StubLLM, options: dict[str, Any]) -> None:
    poor = APIAgent(**options, **PRICES, max_usd=0.02, max_tokens=100, concurrency=2)
    with pytest.raises(
        BudgetSpentError, match=r"max_usd=0\.02.*Raise the ceiling and run it again: replies .* cache"
    ):
        play(poor, 20)
    spent = poor.costs()["usd"]
    answered = stub.answered
    assert 0 < spent <= 0.02
    assert 0 < answered < 40
    rich = APIAgent(**options, **PRICES, max_usd=10.0, max_tokens=100)
    assert play(rich, 20).stop_reasons == {"answered": 20}
    assert stub.answered == 40  # nothing was paid for twice
    assert rich.costs()["cached"] == answered


def test_an_endpoint_that_dies_loses_its_episodes_and_no_others(
    stub: StubLLM, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stub.behave = lambda number, body: "server_error" if number in (2, 9) else "ok"
    result = play(APIAgent(**options))
    assert result.stop_reasons == {"answered": 4, "agent_failed": 2}
    assert result.failed == 2
    assert result.metrics["rounds"].value == 2  # of those that were played
    lost = [e for e in result.episodes if not e.valid_for_training]
    assert all(e.truncated and not e.terminated for e in lost)
    assert "episodes are lost" in caplog.text
    calls = len(stub.bodies)
    assert play(APIAgent(**options)).stop_reasons == {
        "answered": 6
    }  # what was lost, and only that, is asked again
    assert len(stub.bodies) == calls + 3


def test_a_dead_endpoint_is_not_asked_again_and_again(stub: StubLLM, options: dict[str, Any]) -> None:
    def behave(number: int, body: dict[str, Any]) -> str:
        if number == 9:
            stub.key = "changed"  # from now on every request is refused
        return "ok"

    stub.behave = behave
    result = play(APIAgent(**options, concurrency=1))
    assert result.stop_reasons == {"answered": 4, "agent_failed": 2}
    assert stub.statuses[401] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, "answered 404"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
    ],
)
def test_an_endpoint_that_never_answered_is_a_mistake(
    options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"agent 'api': .*{message}"):
        play(APIAgent(**options | changes), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model is None"),
        ({"max_usd": 1.0}, "needs prices"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"sample": -1}, "sample is -1"),
        ({"cache": 3}, "cache is 3"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"agent 'api': .*{message}"):
        APIAgent(**options | changes)


def test_a_cache_that_cannot_be_used_is_a_mistake(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache .* cannot be used"):
        APIAgent(**options | {"cache": str(tmp_path / "file" / "deep")})


def test_a_fork_goes_on_with_replies_of_its_own(stub: StubLLM, options: dict[str, Any]) -> None:
    agent = APIAgent(**options)
    play(agent, 1)
    agent.begin([0])
    agent.act([0], ["Who?"], [{}])
    agent.fork(0, [1])
    before = len(stub.bodies)
    agent.act([0, 1], ["[1] Oldmoor", "[1] Oldmoor"], [{}, {}])
    assert len(stub.bodies) == before + 2


def test_a_recorded_conversation_is_continued(stub: StubLLM, options: dict[str, Any]) -> None:
    agent = APIAgent(**options)
    envs = open_envs("SearchQA-v0", agent, 2, corpus=WORLD)
    task = envs.task_ids()[0]
    (parent,) = collect(envs, agent, [task])
    assert (len(parent.rounds), len(stub.bodies)) == (2, 2)
    start = Start(task, prefix=parent, fork_round=1)
    (branch,) = collect(envs, agent, starts=[start])
    assert branch.rounds[1].text == parent.rounds[1].text
    assert (len(stub.bodies), agent.costs()["cached"]) == (2, 1), "the same messages are in the cache"
    collect(envs, agent, starts=[start, start])
    assert stub.bodies[2]["messages"] == stub.bodies[1]["messages"], "a sibling gets a reply of its own"


def test_native_calls_are_not_in_a_record(options: dict[str, Any]) -> None:
    agent = APIAgent(**options)
    envs = open_envs("SearchQA-v0", agent, 1, corpus=WORLD, dialect="tools")
    (parent,) = collect(envs, agent, envs.task_ids()[:1])
    with pytest.raises(ConfigError, match="native_tools=False"):
        collect(envs, agent, starts=[Start(parent.task_id, prefix=parent, fork_round=1)])


def test_the_command_line_shows_what_it_cost(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    pairs = [f"--agent-option={name}={json.dumps(value)}" for name, value in (options | PRICES).items()]
    world = f"--env-option=corpus={json.dumps(WORLD)}"
    assert main(["eval", "--agent", "api", *pairs, world, "--episodes", "3"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"agent: 6 calls, [\d,]+ input tokens, 240 output tokens, \$0\.\d+", shown), shown
