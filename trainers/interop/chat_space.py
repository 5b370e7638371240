"""The space of chat messages for Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

__all__ = ["ChatMessage", "ChatSpace", "is_message"]

ChatMessage = dict[str, Any]
"""`role` and `content`; a message of the assistant may have `tool_calls` as OpenAI's API writes them."""

_ROLES = ("system", "user", "assistant", "tool")


class ChatSpace(gym.Space[Any]):
    """Chat messages.

    Args:
        text: samples and bounds the content of a message.
        conversation: a list of messages; False for one message of the assistant.
    """

    def __init__(self, text: gym.Space[str], conversation: bool = True) -> None:
        self.text, self.conversation = text, conversation
        super().__init__()

    def seed(self, seed: Any = None) -> Any:
        return self.text.seed(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        message = {"role": "user" if self.conversation else "assistant", "content": self.text.sample()}
        return [message] if self.conversation else message

    def contains(self, x: Any) -> bool:
        return all(map(is_message, x)) if self.conversation and isinstance(x, list) else is_message(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatSpace) and (self.text, self.conversation) == (
            other.text,
            other.conversation,
        )


def is_message(value: Any) -> bool:
    """Whether a value is a chat message."""
    return (
        isinstance(value, dict)
        and value.get("role") in _ROLES
        and isinstance(value.get("content") or "", str)
        and ("content" in value or "tool_calls" in value)
    )
