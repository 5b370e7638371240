"""Chat completions of servers and proxies that stream although they were not asked to."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

__all__ = ["joined_stream"]


def joined_stream(body: str) -> Any:
    """A streamed answer as the completion it would have been.

    The event `[DONE]`, which some servers never send, is not needed: a stream is complete once it gave a finish reason.

    Args:
        body: server-sent events.

    Returns:
        An object with `choices` and `usage`, like a completion of the package `openai`; None if the stream broke off.

    Raises:
        ValueError: not a stream of chat completions.
    """
    content, finish, usage = "", None, None
    calls: dict[int, dict[str, str]] = {}
    for line in body.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data in ("", "[DONE]"):
            continue
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            content += delta.get("content") or ""
            finish = choice.get("finish_reason") or finish
            for part in delta.get("tool_calls") or ():
                call = calls.setdefault(
                    part.get("index", len(calls)), {"id": "", "name": "", "arguments": ""}
                )
                function = part.get("function") or {}
                call["id"] = part.get("id") or call["id"]
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
    if finish is None:
        return None
    tool_calls = [
        SimpleNamespace(id=c["id"], function=SimpleNamespace(name=c["name"], arguments=c["arguments"]))
        for _, c in sorted(calls.items())
    ]
    message = SimpleNamespace(content=content, tool_calls=tool_calls)
    counted = None if usage is None else SimpleNamespace(**usage)
    return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason=finish)], usage=counted)
