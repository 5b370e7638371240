"""What a message does: a search, an answer, a request for feedback, or nothing that is allowed."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from ..errors import ConfigError

__all__ = ["INVALID_ERRORS", "Act", "allowed_act"]

INVALID_ERRORS = (
    "no_act",
    "several_acts",
    "empty_act",
    "nested_act",
    "too_many_queries",
    "unknown_tool",
    "malformed_call",
    "answer_off",
    "feedback_off",
    "feedback_spent",
    "too_long",
)
"""Why a message is invalid: the values of `Act.error`."""


class Act(NamedTuple):
    """A parsed message.

    Attributes:
        kind: "search", "answer", "feedback" or "invalid"; "none" in the record of an episode that was ended from outside.
        queries: the search queries (kind "search").
        draft: the draft answer to get feedback on (kind "feedback").
        answer: the final answer (kind "answer").
        error: why the message is invalid (kind "invalid"): one of `INVALID_ERRORS`.
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


def allowed_act(act: Act, *, feedback: bool, max_queries: int) -> Act:
    """An act as an environment plays it: the same rules as for an act that a dialect reads from a message.

    Args:
        act: a search, an answer, a request for feedback, or an invalid act, e.g. for a tool call that cannot be read.
        feedback: whether the environment offers the feedback act.
        max_queries: queries allowed in one search act.

    Returns:
        The act with its texts stripped; "invalid" where it is empty, has too many queries or is not offered.

    Raises:
        ConfigError: not an act, an unknown kind or error, or a field of another type.
    """
    if not isinstance(act, Act):
        raise ConfigError(f'the act is {act!r}: give an Act, e.g. Act("search", queries=("a query",))')
    kind = act.kind
    queries_given: Any = act.queries  # a string is a sequence of strings, too
    texts: tuple[Any, ...] = (*act.queries, act.draft, act.answer)
    if isinstance(queries_given, str) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{act!r}: give queries as a tuple of strings, draft and answer as strings")
    if kind == "invalid":
        if act.error not in INVALID_ERRORS:
            raise ConfigError(f"{act!r}: error is {act.error!r}: give one of {', '.join(INVALID_ERRORS)}")
        return act
    if kind not in ("search", "answer", "feedback"):
        raise ConfigError(f"{act!r}: kind is {kind!r}: give search, answer, feedback or invalid")
    if kind == "feedback" and not feedback:
        return Act("invalid", error="feedback_off")
    queries = tuple(query.strip() for query in act.queries if query.strip()) if kind == "search" else ()
    draft = act.draft.strip() if kind == "feedback" else ""
    answer = act.answer.strip() if kind == "answer" else ""
    if not (queries or draft or answer):
        return Act("invalid", error="empty_act")
    if len(queries) > max_queries:
        return Act("invalid", error="too_many_queries")
    return Act(kind, queries, draft, answer)
