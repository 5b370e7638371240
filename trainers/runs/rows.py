"""Checks of the rows of metrics.jsonl and timings.jsonl, which a resumed run reads again."""

from __future__ import annotations

from math import isfinite
from typing import Any

__all__ = ["check_row"]

# What limits, alarms and displays read; algorithms may add metrics of any kind.
_NUMBERS = frozenset(
    "clip_fraction context_full em entropy equal_groups grad_norm groups invalid_rounds kl repeated_searches repetition reward "
    "sampling_ess sampling_kl step_kl surprisal tokens truncated".split()
)


def check_row(file: str, row: Any, last: int) -> None:
    """Make sure that a row of metrics.jsonl or timings.jsonl has the shape that a resumed run reads.

    Args:
        file: "metrics.jsonl" or "timings.jsonl".
        row: the JSON value of the line.
        last: iteration of the line before; rows are in order.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} in place of a table")
    iteration = row.get("iteration")
    if type(iteration) is not int or iteration <= last:
        raise ValueError(f"iteration is {iteration!r:.40} after {last}")
    for name, value in row.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{name} is {value}")
        if name in _NUMBERS and not isinstance(value, int | float | None):
            raise ValueError(f"{name} is {value!r:.40}")
    if not isinstance(row.get("alarms", []), list):
        raise ValueError(f"alarms is {row['alarms']!r:.40}")
    for metric in row["eval"]["metrics"].values() if "eval" in row else ():
        if not all(
            type(metric[key]) in (int, float) and isfinite(metric[key]) for key in ("mean", "low", "high")
        ):
            raise ValueError(f"eval holds {metric!r:.60}")
    if file == "timings.jsonl":
        _check_seconds(row)
    elif iteration:
        _check_counts(row)


def _check_seconds(row: dict[str, Any]) -> None:
    """Make sure that a row of seconds holds numbers only."""
    for name, value in row.items():
        if type(value) not in (int, float) or value < 0:
            raise ValueError(f"{name} is {value!r:.40}")


def _check_counts(row: dict[str, Any]) -> None:
    """Make sure that a row of an iteration has the counts that limits and alarms are computed from."""
    for name in ("episodes", "invalid_episodes", "groups", "equal_groups"):
        if type(row.get(name)) is not int or row[name] < 0:
            raise ValueError(f"{name} is {row.get(name)!r:.40}")
    for name in ("em", "invalid_rounds", "truncated"):
        if row.get(name) is not None and not 0.0 <= row[name] <= 1.0:
            raise ValueError(f"{name} is {row[name]!r:.40}")
