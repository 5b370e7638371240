"""Servers that stream although nobody asked, never say [DONE], or return the stop string: agent `api` and judge `llm`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fixtures.stub_llm import StubLLM
from helpers import small_world

import searchgym
from searchgym.agents.api import APIAgent
from searchgym.endpoint.streamed import joined_stream

WORLD = small_world()


def said(body: dict[str, Any]) -> str:
    """Answers with the first title it reads; the stop string is returned, and the rest of the token that it ended in."""
    title = re.search(r"\[1\] (.*)", body["messages"][-1]["content"])
    return f"<answer>{title[1]}</answer>ade" if title else "<search>river</search>es"


def called(body: dict[str, Any]) -> dict[str, Any]:
    title = re.search(r"\[1\] (.*)", body["messages"][-1]["content"] or "")
    name, arguments = ("answer", {"answer": title[1]}) if title else ("search", {"query": "river"})
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": "", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}


@pytest.mark.parametrize("behaviour", ["ok", "streamed", "streamed_done"])
@pytest.mark.parametrize(("dialect", "chat"), [("tags", said), ("tools", called)])
def test_episodes_are_the_same(behaviour: str, dialect: str, chat: Any, tmp_path: Path) -> None:
    with StubLLM(behave=lambda number, body: behaviour, chat=chat) as server:
        agent = APIAgent(base_url=server.url, model="stub", api_key_env=None, cache=str(tmp_path), retries=0)
        episodes = searchgym.rollout("SearchQA-v0", agent, 2, corpus=WORLD, dialect=dialect, split="dev")
        assert not any(body.get("stream") for body in server.bodies)
    assert [[r.action.kind for r in episode.rounds] for episode in episodes] == [["search", "answer"]] * 2
    assert all(r.action.answer.endswith("ade") is False for episode in episodes for r in episode.rounds)


def test_a_stream_that_breaks_off_loses_the_episode(tmp_path: Path) -> None:
    with StubLLM(behave=lambda number, body: "streamed_short" if number else "ok", chat=said) as server:
        agent = APIAgent(base_url=server.url, model="stub", api_key_env=None, cache=str(tmp_path), retries=0)
        (episode,) = searchgym.rollout("SearchQA-v0", agent, 1, corpus=WORLD)
    assert episode.outcome.stop_reason == "agent_failed"
    assert not episode.valid_for_training


@pytest.mark.parametrize(("behaviour", "status"), [("streamed", "ok"), ("streamed_short", "error")])
def test_the_judge(behaviour: str, status: str, tmp_path: Path) -> None:
    with StubLLM(behave=lambda number, body: behaviour if number else "ok") as server:
        options = {
            "base_url": server.url,
            "model": "stub",
            "api_key_env": None,
            "cache": str(tmp_path),
            "retries": 0,
        }
        judge = {"name": "llm", **options}
        episodes = searchgym.rollout("SearchQA-v0", "oracle", 1, corpus=WORLD, judge=judge)
        assert not any(body.get("stream") for body in server.bodies)
    assert {round_.judge.status for round_ in episodes[0].rounds[1:]} == {status}


def test_what_is_no_stream() -> None:
    assert joined_stream('data: {"choices": []}\n\ndata: [DONE]\n\n') is None
    with pytest.raises(ValueError, match="Expecting value"):
        joined_stream("data: an error page\n\n")
