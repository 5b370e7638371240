"""Episodes and rounds as rows of plain values, with one type per column.

Text in these columns is valid Unicode: a lone surrogate, which JSON can hold and Arrow cannot, becomes U+FFFD. The column
`record` of an episode is its complete JSON, from which `Episode.from_json` rebuilds an equal episode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import UnknownIdError
from ..records.episode import Episode, RoundRecord
from .failures import cause_of, named

__all__ = ["COLUMNS", "LEVELS", "clean", "rows"]

LEVELS = ("episodes", "rounds")
"""What a row is."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates.

    Args:
        text: any text.
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _sampled(episode: Episode) -> int:
    return sum(sum(segment.mask) for segment in episode.segments)


def _version(episode: Episode) -> int | None:
    return next((r.policy_version for r in episode.rounds if r.policy_version is not None), None)


def _new_gold(episode: Episode, index: int) -> list[str]:
    gold = episode.gold.get("supporting_ids", ())
    before = {hit.id for record in episode.rounds[:index] for hit in record.hits}
    found = {hit.id for hit in episode.rounds[index].hits} - before
    return [id_ for id_ in gold if id_ in found]


_EPISODE: dict[str, tuple[str, Callable[[Episode], Any]]] = {
    "episode_id": ("text", lambda e: e.episode_id),
    "group_id": ("text", lambda e: e.group_id),
    "tree_id": ("text", lambda e: e.tree_id),
    "parent_id": ("text", lambda e: e.parent_id),
    "fork_round": ("int", lambda e: e.fork_round),
    "agent": ("text", lambda e: e.agent),
    "corpus": ("text", lambda e: str(e.env.get("corpus", ""))),
    "dialect": ("text", lambda e: str(e.env.get("dialect", ""))),
    "task_id": ("text", lambda e: e.task_id),
    "split": ("text", lambda e: e.split),
    "type": ("text", lambda e: str(e.extra.get("type", "unknown"))),
    "hops": ("int", lambda e: e.extra.get("hops")),
    "question": ("text", lambda e: e.question),
    "gold_answers": ("texts", lambda e: e.gold.get("answers", [])),
    "answer": ("text", lambda e: e.outcome.answer),
    "em": ("float", lambda e: e.outcome.em),
    "f1": ("float", lambda e: e.outcome.f1),
    "sub_em": ("float", lambda e: e.outcome.sub_em),
    "recall": ("float", lambda e: e.outcome.recall),
    "reward": ("float", lambda e: e.reward),
    "rounds": ("int", lambda e: e.outcome.rounds),
    "searches": ("int", lambda e: e.outcome.searches),
    "invalid_rounds": ("int", lambda e: sum(r.action.kind == "invalid" for r in e.rounds)),
    "sampled_tokens": ("int", _sampled),
    "policy_version": ("int", _version),
    "assisted": ("bool", lambda e: e.outcome.assisted),
    "stop_reason": ("text", lambda e: e.outcome.stop_reason.value),
    "valid_for_training": ("bool", lambda e: e.valid_for_training),
    "cause": ("text", cause_of),
    "record": ("text", lambda e: json.dumps(e.to_json(), separators=(",", ":"))),
}

_ROUND: dict[str, tuple[str, Callable[[Episode, RoundRecord, int], Any]]] = {
    "episode_id": ("text", lambda e, r, i: e.episode_id),
    "group_id": ("text", lambda e, r, i: e.group_id),
    "task_id": ("text", lambda e, r, i: e.task_id),
    "split": ("text", lambda e, r, i: e.split),
    "index": ("int", lambda e, r, i: i),
    "uid": ("text", lambda e, r, i: r.uid),
    "anchor": ("text", lambda e, r, i: r.anchor),
    "text": ("text", lambda e, r, i: r.text),
    "kind": ("text", lambda e, r, i: r.action.kind),
    "queries": ("texts", lambda e, r, i: r.action.queries),
    "draft": ("text", lambda e, r, i: r.action.draft),
    "answer": ("text", lambda e, r, i: r.action.answer),
    "error": ("text", lambda e, r, i: r.action.error),
    "hit_ids": ("texts", lambda e, r, i: [hit.id for hit in r.hits]),
    "hit_titles": ("texts", lambda e, r, i: [hit.title for hit in r.hits]),
    "new_gold_ids": ("texts", lambda e, r, i: _new_gold(e, i)),
    "observation": ("text", lambda e, r, i: r.observation),
    "feedback": ("text", lambda e, r, i: r.feedback.text),
    "reward": ("float", lambda e, r, i: r.reward),
    "judge_status": ("text", lambda e, r, i: r.judge.status),
    "utility": ("float", lambda e, r, i: r.judge.utility),
    "reasoning": ("float", lambda e, r, i: r.judge.reasoning),
    "policy_version": ("int", lambda e, r, i: r.policy_version),
    "temperature": ("float", lambda e, r, i: r.temperature),
    "top_p": ("float", lambda e, r, i: r.top_p),
}

COLUMNS: dict[str, dict[str, str]] = {
    "episodes": {name: kind for name, (kind, _) in _EPISODE.items()},
    "rounds": {name: kind for name, (kind, _) in _ROUND.items()},
}
"""For each level, the columns with their types: "text", "texts" (a list), "int", "float" or "bool"; all but "texts" and
"bool" may be None."""

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "text": clean,
    "texts": lambda values: [clean(str(value)) for value in values],
    "int": int,
    "float": float,
    "bool": bool,
}


def rows(episodes: Iterable[Episode], level: str = "episodes") -> Iterator[dict[str, Any]]:
    """The rows of a level, one at a time.

    Args:
        episodes: the records.
        level: one of `LEVELS`.

    Yields:
        column -> value, in the order of `COLUMNS[level]`.

    Raises:
        UnknownIdError: there is no such level.
    """
    if level not in LEVELS:
        raise UnknownIdError("level", level, LEVELS)
    for episode in episodes:
        with named(episode):
            new = list(_of_episode(episode) if level == "episodes" else _of_rounds(episode))
        yield from new


def _of_episode(episode: Episode) -> Iterator[dict[str, Any]]:
    yield {name: _plain(kind, read(episode)) for name, (kind, read) in _EPISODE.items()}


def _of_rounds(episode: Episode) -> Iterator[dict[str, Any]]:
    for index, record in enumerate(episode.rounds):
        yield {name: _plain(kind, read(episode, record, index)) for name, (kind, read) in _ROUND.items()}


def _plain(kind: str, value: Any) -> Any:
    return None if value is None else _CONVERT[kind](value)
