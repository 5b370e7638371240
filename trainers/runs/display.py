"""Progress and results for people: a live table in a terminal, plain lines elsewhere, a final table."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Group
from rich.live import Live
from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from searchgym.cli.console import Console
from searchgym.cli.console import text as literal
from searchgym.cli.progress import progress_bar
from searchgym.errors import printable

if TYPE_CHECKING:
    from searchgym.statistics import Interval

__all__ = [
    "Display",
    "LiveDisplay",
    "PlainDisplay",
    "make_display",
    "result_table",
]

_COLUMNS = (
    ("EM", "em", "{:.3f}"),
    ("reward", "reward", "{:.3f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("step KL", "step_kl", "{:.4f}"),
    ("clipped", "clip_fraction", "{:.1%}"),
    ("invalid", "invalid_rounds", "{:.1%}"),
    ("equal groups", "equal_groups", "{:.0f}"),
)
_ROWS = 8
_OPENING = "opening agent, corpus and index …"


class Display:
    """Shows nothing; the base class of displays. A context manager around the run."""

    def opening(self) -> AbstractContextManager[object]:
        """A context around everything before the run starts: loading torch, opening agent, corpus and index."""
        return nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(
        self, config: Mapping[str, Any], run_dir: Path, done: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """The run starts, or continues after `done` iterations.

        Args:
            config: of the run.
            run_dir: its directory.
            done: number of iterations so far.
            rows: their metrics.
        """

    def evaluating(self, iteration: int) -> None:
        """A greedy evaluation starts."""

    def iteration(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """An iteration has ended.

        Args:
            row: its line of metrics.jsonl (iteration 0: only an evaluation).
            seconds: by part of the iteration.
        """

    def alarm(self, text: str) -> None:
        """An alarm was raised."""


class PlainDisplay(Display):
    """One line per iteration, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def _say(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)

    def opening(self) -> AbstractContextManager[object]:
        print(_OPENING, file=sys.stderr, flush=True)  # not a line of the log: it says why nothing happens yet
        return nullcontext()

    def start(
        self, config: Mapping[str, Any], run_dir: Path, done: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        continued = f", continuing after iteration {done}" if done else ""
        self._say(_headline(config) + continued)
        self._say(f"run directory: {run_dir}")
        self._total = config["iterations"]

    def iteration(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        if row["iteration"] > 0:
            cells = "  ".join(f"{name} {_cell(row, key, form)}" for name, key, form in _COLUMNS)
            self._say(
                f"iteration {row['iteration']}/{self._total}  {cells}  {_speed(row, seconds)}"
                f"  {sum(seconds.values()):.2f} s"
            )
        if "eval" in row:
            self._say(f"greedy evaluation after {row['iteration']} iterations: {_evaluation(row)}")

    def alarm(self, text: str) -> None:
        self._say(text)


class LiveDisplay(Display):
    """A progress bar and the last iterations, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: deque[tuple[str, ...]] = deque(maxlen=_ROWS)
        columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = progress_bar(*columns, console=console, transient=False)
        self._live = Live(self._draw(), console=console, refresh_per_second=4)
        self._status = console.status(literal(_OPENING))

    def opening(self) -> AbstractContextManager[object]:
        return self._status

    def __enter__(self) -> Self:
        self._status.stop()
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(self._draw(), refresh=True)
        self._live.__exit__(kind, error, trace)

    def start(
        self, config: Mapping[str, Any], run_dir: Path, done: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        self._console.print(
            literal(_headline(config)), Text.assemble("run directory: ", literal(run_dir, "bold")), sep="\n"
        )
        self._task = self._bar.add_task("training", total=config["iterations"], completed=done)
        for row in rows:
            self._add(row, {})

    def evaluating(self, iteration: int) -> None:
        self._bar.update(self._task, description="evaluating")

    def iteration(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        self._bar.update(self._task, description="training", completed=row["iteration"])
        self._add(row, seconds)
        self._live.update(self._draw())

    def alarm(self, text: str) -> None:
        self._console.print(literal(text, "yellow"))

    def _add(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        if row["iteration"] > 0:
            cells = [_cell(row, key, form) for _, key, form in _COLUMNS]
            took = f"{sum(seconds.values()):.2f}" if seconds else ""
            self._rows.append((str(row["iteration"]), *cells, _speed(row, seconds), took))
        if "eval" in row:
            self._console.print(
                literal(f"greedy evaluation after {row['iteration']} iterations: {_evaluation(row)}")
            )

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("iteration", *(name for name, _, _ in _COLUMNS), "tokens", "s"):
            table.add_column(name, justify="right")
        for cells in self._rows:
            table.add_row(*cells)
        return Group(table, self._bar)


def make_display(console: Console | None = None) -> Display:
    """The live view in a terminal, plain lines otherwise."""
    console = console or Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay()


def result_table(before: Mapping[str, Interval], after: Mapping[str, Interval], title: str) -> Table:
    """Greedy evaluation before and after training, with 95 % bootstrap intervals over questions."""
    table = Table(title=title, caption="mean [95 % bootstrap interval over questions]")
    table.add_column("metric")
    table.add_column("before training", justify="right")
    table.add_column("after training", justify="right")
    for name in after:
        table.add_row(name, str(before.get(name, "")), str(after[name]))
    return table


def _headline(config: Mapping[str, Any]) -> str:
    return (
        f"{config['trainer']} trains {config['agent']} on {config['env']}: {config['iterations']} iterations of "
        f"{config['questions']} questions"
    )


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    return "–" if value is None else form.format(value)


def _speed(row: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    if not seconds.get("collect") or row.get("tokens") is None:
        return ""
    return f"{row['tokens'] * row['episodes'] / seconds['collect']:,.0f} tok/s"


def _evaluation(row: Mapping[str, Any]) -> str:
    em = row["eval"]["metrics"]["em"]
    return f"EM {em['mean']:.3f} [{em['low']:.3f}, {em['high']:.3f}] on {row['eval']['questions']} questions"
