"""The end of a message in verl's tokens; needs no verl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

__all__ = ["turn_end"]


def turn_end(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The token that closes a message of the assistant in the chat template; empty if the template closes none.

    A server that stops at a closing tag does not sample it, and verl's token builder appends only what comes after it: the
    model would read a conversation whose messages do not end.

    Args:
        tokenizer: with a chat template.
        messages: what the assistant answers.
    """
    said = uuid4().hex
    text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": said}], tokenize=False)
    ids: list[int] = tokenizer.encode(text.rpartition(said)[2], add_special_tokens=False)
    return ids[:1]
