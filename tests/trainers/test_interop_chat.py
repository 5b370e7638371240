"""The Gymnasium wrappers for chat models."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from searchgym.errors import ConfigError
from searchgym.interop.chat import ChatMessages, HistoryWindow


@pytest.fixture
def task(toy: str) -> dict[str, Any]:
    return {"task_id": gym.make("SearchQA-v0", corpus=toy).unwrapped.task_ids()[0]}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_a_conversation_in_tags(toy: str, task: dict[str, Any]) -> None:
    plain = gym.make("SearchQA-v0", corpus=toy)
    env = ChatMessages(gym.make("SearchQA-v0", corpus=toy))
    question, _ = plain.reset(options=task)
    messages, _ = env.reset(options=task)
    assert [m["role"] for m in messages] == ["system", "user"]
    assert messages[0]["content"] == plain.unwrapped.system_prompt
    assert messages[1]["content"] == question
    observation, *rest, info = plain.step("<search> river </search>")
    messages, *seen, chat_info = env.step(said("<search> river </search>"))
    assert (seen, chat_info) == (rest, info)
    assert messages[2:] == [said("<search> river </search>"), {"role": "user", "content": observation}]
    messages, reward, terminated, _, _ = env.step(
        "<answer> nobody </answer>"
    )  # the text alone is an action, too
    assert (reward, terminated, messages[-1]["role"]) == (0.0, True, "assistant")
    messages[0]["content"] = "changed"
    assert env.reset(options=task)[0][0]["content"] == plain.unwrapped.system_prompt


def test_tool_calls(toy: str, task: dict[str, Any]) -> None:
    env = ChatMessages(gym.make("SearchQA-v0", corpus=toy, dialect="tools"), system_prompt=False)
    messages, _ = env.reset(options=task)
    assert [m["role"] for m in messages] == ["user"]
    function = {"name": "search", "arguments": json.dumps({"query": "river"})}
    call = {"id": "call_1", "type": "function", "function": function}
    messages, _, _, _, info = env.step({"role": "assistant", "content": None, "tool_calls": [call]})
    assert info["action"]["queries"] == ["river"]
    assert messages[-1]["role"] == "tool"
    assert messages[-1]["tool_call_id"] == "call_1"
    assert "<tool_response>" not in messages[-1]["content"]
    assert env.unwrapped.tool_schemas[0]["function"]["name"] == "search"
    *_, info = env.step({"role": "assistant", "content": "", "tool_calls": [call, call]})
    assert info["action"]["error"] == "several_acts"


def test_the_window_keeps_the_question_and_the_last_rounds(toy: str, task: dict[str, Any]) -> None:
    env = HistoryWindow(ChatMessages(gym.make("SearchQA-v0", corpus=toy)), rounds=2)
    env.reset(options=task)
    for number in range(4):
        messages, *_ = env.step(said(f"<search> river {number} </search>"))
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in messages[2::2]] == [f"<search> river {n} </search>" for n in (2, 3)]
    with pytest.raises(ConfigError, match="rounds is 0"):
        HistoryWindow(env, rounds=0)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_accepts_the_wrapped_environment(toy: str) -> None:
    env = HistoryWindow(ChatMessages(gym.make("SearchQA-v0", corpus=toy)), rounds=2)
    check_env(env, skip_render_check=True)
    again = gym.make(env.spec)
    assert type(again).__name__ == "HistoryWindow"
    assert again.rounds == 2
    env.reset(seed=1)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])


@pytest.mark.parametrize("action", [{"role": "user", "content": "x"}, {"role": "assistant"}, 3])
def test_what_is_no_message_of_the_assistant(toy: str, action: Any) -> None:
    env = ChatMessages(gym.make("SearchQA-v0", corpus=toy))
    env.reset()
    with pytest.raises(ConfigError, match=r"give a text, or \{\"role\": \"assistant\""):
        env.step(action)


def test_another_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a search environment"):
        ChatMessages(gym.make("CartPole-v1"))  # type: ignore[arg-type]
