"""Gymnasium wrappers for chat models: chat messages in and out, and a window on the history.

    env = HistoryWindow(ChatMessages(gym.make("SearchQA-v0")), rounds=3)
    messages, info = env.reset()
    messages, reward, terminated, truncated, info = env.step({"role": "assistant", "content": "<search> Ada </search>"})

The wrappers change what an agent sees, never what is scored.
"""

from __future__ import annotations

import json
from typing import Any, SupportsFloat

import gymnasium as gym

from searchgym.env import SearchEnv
from searchgym.env.tools import unwrapped
from searchgym.errors import ConfigError
from searchgym.options import integer

from .chat_space import ChatMessage, ChatSpace, is_message

__all__ = ["ChatMessages", "HistoryWindow"]


class ChatMessages(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Observations are the conversation so far, as chat templates and servers take it; actions are assistant messages.

    The conversation begins with the system prompt and the question. Results of searches have the role "user" in the dialect
    `tags` and "tool" in `tools`; `tools` then stand in `env.unwrapped.tool_schemas`. An action is a message with text, or with
    `tool_calls` (dialect `tools`), or just its text.

    Args:
        env: a search environment.
        system_prompt: whether the conversation begins with it.

    Raises:
        ConfigError: not a search environment; in `step`: not a message of the assistant.
    """

    def __init__(self, env: gym.Env[str, str], system_prompt: bool = True) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, system_prompt=system_prompt)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, SearchEnv):
            raise ConfigError(f"{env!r} is not a search environment: wrap one like gym.make('SearchQA-v0')")
        self._dialect = env.unwrapped.dialect
        self._start = [{"role": "system", "content": env.unwrapped.system_prompt}] if system_prompt else []
        self._messages: list[ChatMessage] = []
        self.observation_space = ChatSpace(env.observation_space)
        self.action_space = ChatSpace(env.action_space, conversation=False)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[ChatMessage], dict[str, Any]]:
        question, info = self.env.reset(seed=seed, options=options)
        self._messages = [*self._start, {"role": "user", "content": question}]
        return self._seen(), info

    def step(
        self, action: ChatMessage | str
    ) -> tuple[list[ChatMessage], SupportsFloat, bool, bool, dict[str, Any]]:
        message: ChatMessage = {"role": "assistant", "content": action} if isinstance(action, str) else action
        if not is_message(message) or message["role"] != "assistant":
            raise ConfigError(
                f'the action is {action!r:.80}: give a text, or {{"role": "assistant", "content": …}}'
            )
        text, reward, terminated, truncated, info = self.env.step(_text(message))
        self._messages.append(dict(message))
        if not (terminated or truncated):
            calls = message.get("tool_calls")
            answer: ChatMessage = {
                "role": "tool" if self._dialect.name == "tools" else "user",
                "content": text,
            }
            if answer["role"] == "tool":
                answer["content"] = unwrapped(self._dialect, text)
                if calls and "id" in calls[0]:
                    answer["tool_call_id"] = calls[0]["id"]
            self._messages.append(answer)
        return self._seen(), reward, terminated, truncated, info

    def _seen(self) -> list[ChatMessage]:
        return [dict(message) for message in self._messages]


class HistoryWindow(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Shows the system prompt, the question and the last rounds only.

    Args:
        env: an environment behind `ChatMessages`.
        rounds: number of rounds that are shown in full: the message of the assistant and what came back.

    Raises:
        ConfigError: not a whole number of at least 1.
    """

    def __init__(self, env: gym.Env[list[ChatMessage], ChatMessage | str], rounds: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, rounds=rounds)
        gym.ObservationWrapper.__init__(self, env)
        self.rounds = integer("rounds", rounds, 1)

    def observation(self, observation: list[ChatMessage]) -> list[ChatMessage]:
        """The messages that are shown."""
        begins = [number for number, message in enumerate(observation) if message["role"] == "assistant"]
        if len(begins) <= self.rounds:
            return observation
        return observation[: begins[0]] + observation[begins[-self.rounds] :]


def _text(message: ChatMessage) -> str:
    """The message as the dialect `tools` reads it: calls stand behind the text."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments")
        calls.append(json.dumps({"name": function.get("name"), "arguments": arguments}, ensure_ascii=False))
    return (message.get("content") or "") + "".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
