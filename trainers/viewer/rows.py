"""From one line of an episode file to one row of the table: columns to show and filter, and the text to search.

The columns are read from the JSON value itself, because checking every field of 100,000 episodes takes minutes. The checksum of
each line is verified, and an episode is checked completely when it is opened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from searchgym.errors import EpisodeFileError
from searchgym.files import parse_json
from searchgym.records.episode import EPISODE_SCHEMA, verify_line

__all__ = ["COLUMNS", "Row", "read_row"]

COLUMNS = (
    "line",
    "episode_id",
    "group_id",
    "task_id",
    "question",
    "answer",
    "gold",
    "type",
    "hops",
    "agent",
    "em",
    "f1",
    "recall",
    "reward",
    "rounds",
    "searches",
    "stop",
    "errors",
    "assisted",
    "valid",
)
"""The columns of a row. `errors` joins the kinds of error of an episode with commas; "line" counts from 0."""


class Row(NamedTuple):
    """What the index takes from an episode.

    Attributes:
        columns: the values of `COLUMNS`.
        text: question, answers, messages, titles, verdicts and ids in one string, to search.
        passages: the texts of the passages that it shows, to search.
    """

    columns: tuple[Any, ...]
    text: str
    passages: list[str]


def read_row(line: bytes, number: int) -> Row:
    """The columns of an episode, and the texts in which it is found.

    Args:
        line: a line of the file.
        number: its number, from 0.

    Raises:
        EpisodeFileError: the line is not an episode, or not the one that was written.
    """
    try:
        data = parse_json(line)
    except ValueError as error:
        end = "" if line.endswith(b"\n") else " (the line is cut off)"
        raise EpisodeFileError(f"not JSON{end}: {error}") from error
    schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
    if schema not in (1, EPISODE_SCHEMA) or isinstance(schema, bool):
        raise EpisodeFileError(f"not an episode: its schema is {schema!r:.40}")
    verify_line(line, data)
    try:
        hits = [hit for record in data["rounds"] for hit in _hits(record)]
        return Row(_columns(data, number), _text(data), [str(hit["text"]) for hit in hits])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise EpisodeFileError(f"not a complete episode record: {error!r:.80}") from error


def _columns(data: dict[str, Any], number: int) -> tuple[Any, ...]:
    outcome, extra, rounds = data["outcome"], data["extra"], data["rounds"]
    answers = data["gold"].get("answers") or [""]
    hops = extra.get("hops")
    return (
        number,
        str(data["episode_id"]),
        str(data["group_id"]),
        str(data["task_id"]),
        str(data["question"]),
        str(outcome["answer"]),
        str(answers[0]),
        str(extra.get("type", "")),
        hops if isinstance(hops, int) else None,
        str(data["agent"]),
        float(outcome["em"]),
        float(outcome["f1"]),
        float(outcome["recall"]),
        float(sum(r["reward"] for r in rounds)),
        len(rounds),
        int(outcome["searches"]),
        str(outcome["stop_reason"]),
        ",".join(sorted(_errors(rounds))),
        bool(outcome["assisted"]),
        bool(data["valid_for_training"]),
    )


def _errors(rounds: list[dict[str, Any]]) -> set[str]:
    errors = {r["action"]["error"] or "invalid" for r in rounds if r["action"]["kind"] == "invalid"}
    if any(r["retrieval"]["status"] == "error" for r in rounds):
        errors.add("retrieval_failed")
    if any(r["judge"]["status"] == "error" for r in rounds):
        errors.add("judge_failed")
    return errors


def _text(data: dict[str, Any]) -> str:
    parts = [data["question"], data["task_id"], data["episode_id"], data["outcome"]["answer"]]
    parts += data["gold"].get("answers") or []
    for r in data["rounds"]:
        parts += [r["text"], r["feedback"]["text"], r["judge"]["reason"]]
        parts += [hit["title"] for hit in _hits(r)]
    return "\n".join(str(part) for part in parts if part)


def _hits(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The hits of a round, in both schemas."""
    return record["hits"] if "hits" in record else [hit for result in record["results"] for hit in result]
