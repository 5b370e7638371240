"""What a message does: a search, an answer, a request for feedback, or nothing that is allowed."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

__all__ = ["Act"]


class Act(NamedTuple):
    """A parsed message.

    Attributes:
        kind: "search", "answer", "feedback" or "invalid"; "none" in the record of an episode that was ended from outside.
        queries: the search queries (kind "search").
        draft: the draft answer to get feedback on (kind "feedback").
        answer: the final answer (kind "answer").
        error: why the message is invalid (kind "invalid"): one of "no_act", "several_acts", "empty_act",
            "nested_act", "too_many_queries", "unknown_tool", "malformed_call", "feedback_off",
            "feedback_spent", "too_long".
        reason: what exactly is wrong with the message, a clause, where `error` does not say it all; not compared.
    """

    kind: str
    queries: tuple[str, ...] = ()
    draft: str = ""
    answer: str = ""
    error: str = ""
    reason: str = ""

    def __getitem__(self, key: Any) -> Any:
        """A field by number, as of any tuple; by name, as when actions were dicts, with a `DeprecationWarning`."""
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        warnings.warn(f"action[{key!r}] is action.{key} now", DeprecationWarning, stacklevel=2)
        return self.to_json()[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Act) and self[:-1] == other[:-1]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:-1])

    def __repr__(self) -> str:
        shown = self._asdict()
        if not self.reason:
            del shown["reason"]
        return f"Act({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, as in `info["action"]`; `reason` is in it where there is one."""
        data = {
            "kind": self.kind,
            "queries": list(self.queries),
            "draft": self.draft,
            "answer": self.answer,
            "error": self.error,
        }
        return data | {"reason": self.reason} if self.reason else data
