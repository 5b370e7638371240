"""The learning curve of a run as a figure. It shows what was measured: no line crosses iterations without a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import filelock

from searchgym.figures import new_figure, save_figure

from .directory import RunDirectory, read_run_metadata

__all__ = ["curve_title", "draw_curve", "plot_run"]

_FEW = 60  # iterations whose points can be told apart


def curve_title(config: Mapping[str, Any]) -> str:
    """What was trained: trainer, agent, environment.

    Args:
        config: of the run, as in config.json.
    """
    trainer, agent, env = (config.get(name, "?") for name in ("trainer", "agent", "env"))
    return f"{trainer} trains {agent} on {env}"


def plot_run(run: Path, out: Path) -> None:
    """Draw the learning curve of a run, also of one that is in progress.

    Args:
        run: the run directory; it is only read.
        out: the file; its suffix chooses the format, see `searchgym.figures.save_figure`.

    Raises:
        RunDirectoryError: not a run directory, or damaged.
        ConfigError: no format has that suffix.
        MissingExtraError: matplotlib is not installed.
    """
    metadata = read_run_metadata(run)
    lock = filelock.FileLock(run / ".lock")  # not acquired
    rows = RunDirectory(run, metadata, lock).rows("metrics.jsonl")
    draw_curve(out, rows, curve_title(metadata.get("config", {})))


def draw_curve(path: Path, rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """The learning curve: EM while sampling and in evaluations, entropy below.

    Args:
        path: the file; see `searchgym.figures.save_figure`.
        rows: of metrics.jsonl.
        title: above the curve.
    """
    figure = new_figure(7.0, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    last = max((row["iteration"] for row in rows), default=0)
    small = {"marker": ".", "ms": 4} if last <= _FEW else {}
    x = list(range(1, last + 1))
    em, reward, entropy = (_series(rows, name, last) for name in ("em", "reward", "entropy"))
    upper.plot(x, em, color="tab:blue", lw=1.2, label="EM, sampled (training questions)", **small)
    if any(row.get("reward") != row.get("em") for row in rows if row.get("em") is not None):
        upper.plot(x, reward, color="tab:gray", lw=1, label="reward, sampled", **small)
    evaluated = [(row["iteration"], row["eval"]) for row in rows if "eval" in row]
    if evaluated:
        means = [e["metrics"]["em"] for _, e in evaluated]
        spread = [[m["mean"] - m["low"] for m in means], [m["high"] - m["mean"] for m in means]]
        questions = max(e["questions"] for _, e in evaluated)
        upper.errorbar(
            [i for i, _ in evaluated], [m["mean"] for m in means], spread, fmt="o", capsize=4, color="tab:orange",
            label=f"EM, greedy ({questions} held-out questions, 95 % interval)",
        )  # fmt: skip
    upper.set(ylabel="exact match", title=title)
    upper.set_ylim(min(-0.02, upper.get_ylim()[0]), max(1.02, upper.get_ylim()[1]))
    upper.grid(alpha=0.3)
    if rows:
        upper.legend(loc="best", fontsize="small")
    lower.plot(x, entropy, color="tab:green", lw=1.2, **small)
    lower.set(xlabel="iteration", ylabel="entropy (nats)", ylim=(0, None))
    lower.grid(alpha=0.3)
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, dpi=150)


def _series(rows: Sequence[Mapping[str, Any]], name: str, last: int) -> list[float]:
    """A metric of the iterations 1 to `last`; NaN, which breaks the line, where it was not measured."""
    measured = {row["iteration"]: row[name] for row in rows if row.get(name) is not None}
    return [measured.get(iteration, nan) for iteration in range(1, last + 1)]
