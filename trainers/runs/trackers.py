"""Experiment trackers in addition to the live view: TensorBoard, Weights & Biases and trackio, through accelerate.

Everything a tracker stores locally is in the run directory. metrics.jsonl remains the record; trackers get a copy of its
numbers under the same names, and the seconds of timings.jsonl.
"""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from searchgym.errors import ConfigError, MissingExtraError, RunDirectoryError, did_you_mean
from searchgym.files import read_json

from .directory import write_json
from .display import Display

__all__ = ["TRACKERS", "Displays", "TrackerDisplay", "check_trackers"]

TRACKERS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: str, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The requested trackers and the arguments of each; none is opened.

    Args:
        names: comma-separated names.
        options: arguments by "NAME.KEY".

    Raises:
        ConfigError: an unknown tracker, or an option of a tracker that is not used.
        MissingExtraError: its package is not installed.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for name in (part.strip() for part in names.split(",")):
        if name and name not in TRACKERS:
            raise ConfigError(
                f"unknown tracker {name!r}.{did_you_mean(name, TRACKERS)} Known: {', '.join(TRACKERS)}."
            )
        if name and importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"tracker {name!r}", name, name)
        if name:
            wanted[name] = {}
    for key, value in options.items():
        name, dot, argument = key.partition(".")
        if not dot or name not in wanted:
            raise ConfigError(
                f"tracker option {key!r} does not belong to a tracker of this run ({', '.join(wanted) or 'it has none'}): write "
                "NAME.KEY=VALUE, e.g. wandb.mode=offline, and name the tracker"
            )
        wanted[name][argument] = value
    return wanted


class TrackerDisplay(Display):
    """One tracker as a display.

    Args:
        name: one of `TRACKERS`.
        options: arguments of `SummaryWriter`, `wandb.init` or `trackio.init`. The project of the latter two is
            "searchgym" by default.

    Raises:
        ConfigError: at the start of training, if the tracker cannot be opened.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name, self._options = name, dict(options)
        self._tracker: Any = None

    def start(
        self, config: Mapping[str, Any], run_dir: Path, done: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers read from it whether this is the main process
        project, arguments = "searchgym", {**self._arguments(config, run_dir, done), **self._options}
        if self.name == "tensorboard":
            project, arguments["logging_dir"] = "tensorboard", str(run_dir)
        else:
            project = arguments.pop("project", project)
        try:
            tracker = LOGGER_TYPE_TO_CLASS[self.name](project, **arguments)
            tracker.start()
        except Exception as error:  # third-party code may raise anything
            raise ConfigError(
                f"tracker {self.name!r} cannot be opened ({error}): check its --tracker-option settings, or leave it out"
            ) from error
        self._tracker = tracker
        if self.name == "tensorboard" and not done:
            tracker.tracker.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")

    def iteration(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        times = {f"seconds/{part}": value for part, value in seconds.items()}
        self._tracker.log({**_numbers(row), **times}, step=row["iteration"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracker is not None:
            self._tracker.finish()

    def _arguments(self, config: Mapping[str, Any], run_dir: Path, done: int) -> dict[str, Any]:
        """Where the tracker stores its files, and how it finds a resumed run."""
        if self.name == "tensorboard":  # a killed run may have logged more than it saved
            return {"purge_step": done + 1} if done else {}
        common = {"name": run_dir.resolve().name, "config": dict(config), "resume": "allow"}
        if self.name == "wandb":
            return {**common, "dir": str(run_dir), "id": _identity(run_dir)}
        os.environ.setdefault("TRACKIO_DIR", str((run_dir / "trackio").resolve()))  # read once, at its import
        return common


class Displays(Display):
    """Several displays as one."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for display in self._displays:
            self._open.enter_context(display)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def start(
        self, config: Mapping[str, Any], run_dir: Path, done: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        for display in self._displays:
            display.start(config, run_dir, done, rows)

    def evaluating(self, iteration: int) -> None:
        for display in self._displays:
            display.evaluating(iteration)

    def iteration(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        for display in self._displays:
            display.iteration(row, seconds)

    def alarm(self, text: str) -> None:
        for display in self._displays:
            display.alarm(text)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl; of an evaluation the means, as "eval/em" and so on."""
    numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "iteration"}
    evaluation = row.get("eval", {"metrics": {}})["metrics"]
    return numbers | {f"eval/{name}": estimate["mean"] for name, estimate in evaluation.items()}


def _identity(run_dir: Path) -> str:
    """The run's id at Weights & Biases: drawn once, kept in the run directory."""
    path = run_dir / "wandb.json"
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex})
    try:
        return str(read_json(path)["id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunDirectoryError(
            f"{path} is damaged ({error}): remove it, and the run continues under a new id at Weights & Biases"
        ) from error
