"""What a training run leaves behind: rows, episodes, credit, checkpoints, failures, curve and summary."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from searchgym.errors import CheckpointError, ConfigError, RunDirectoryError, TrainingError, get_logger
from searchgym.records.episode import Episode

from ..config import TrainConfig
from ..core.rollouts import load_groups, save_groups
from ..learner.checkpoint import load_checkpoint, save_checkpoint
from ..learner.failures import save_failure
from ..processes import world
from ..runs.alarms import AlarmLimits, raised
from ..runs.curve import curve_title, draw_curve
from ..runs.directory import RunDirectory
from ..runs.metrics import best_evaluation
from .loop import Iteration, Loop

__all__ = ["RunRecorder"]

_log = get_logger(__name__)
_KEPT_EPISODE_FILES = 3


class RunRecorder:
    """Writes a run directory and continues from what is in it.

    Args:
        run: the run directory.
        config: of the run.

    Attributes:
        best: the best evaluation so far, with `keep_best`; see `runs.metrics.best_evaluation`.
        browsable: whether episodes with their credit and the learning curve are kept too: nothing of the run depends on them.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig) -> None:
        self.run, self.config = run, config
        self.best: dict[str, Any] | None = None
        self.browsable = True
        self._crc = 0  # of the rows of metrics.jsonl

    @property
    def started(self) -> bool:
        """Whether the run directory holds a checkpoint to continue from."""
        return bool(self.run.steps())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`."""
        return self.run.rows("metrics.jsonl")

    def seconds(self) -> dict[int, dict[str, float]]:
        """The rows of `timings.jsonl`: seconds per part of each iteration."""
        rows = self.run.rows("timings.jsonl")
        return {row["iteration"]: {k: v for k, v in row.items() if k != "iteration"} for row in rows}

    def restore(self, loop: Loop) -> None:
        """Return the loop to the last complete checkpoint, if there is one, and drop what was recorded after it.

        Raises:
            ConfigError: the run already has more iterations than its configuration says.
            CheckpointError: the checkpoint is damaged or of another architecture.
            RunDirectoryError: what was recorded is damaged, or the checkpoints are missing.
        """
        steps = self.run.steps()
        if steps:
            if steps[-1] > self.config.iterations:
                raise ConfigError(
                    f"iterations is {self.config.iterations}, but run {str(self.run.path)!r} already has {steps[-1]}: "
                    "give a larger number"
                )
            directory = self.run.step_path(steps[-1])
            state = load_checkpoint(directory, loop.learner)
            try:
                if (directory / "ahead.jsonl").exists():
                    loop.prefetched = load_groups(directory / "ahead.jsonl")
                if state.get("iteration") != steps[-1]:
                    raise ValueError(f"it is of iteration {state.get('iteration')!r:.40}")
                loop.restore(state)
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
                raise CheckpointError(
                    f"checkpoint {directory} is damaged ({error}): remove that directory to continue from the one before it"
                ) from error
            self._check_rows(steps[-1], state)
        elif any(row["iteration"] for row in self.rows()):
            raise RunDirectoryError(
                f"run directory {str(self.run.path)!r} has rows in metrics.jsonl but no checkpoint: restore its folder "
                "checkpoints from a copy, or start a new run"
            )
        self.run.truncate(loop.iteration if steps else -1)
        self.best = best_evaluation(self.rows(), self.config.keep_best)

    def evaluation(self, iteration: int, episodes: Sequence[Episode]) -> None:
        """Write the episodes of an evaluation."""
        if self.browsable:
            self.run.save_episodes(f"eval-{iteration:06d}", episodes)

    def training_episodes(self, done: Iteration) -> None:
        """Write the episodes of the last iteration and their credit, before its checkpoint."""
        if self.browsable and done.groups:
            episodes, credit = chain.from_iterable(done.groups), done.credit
            name = f"train-{credit.iteration:06d}"
            self.run.save_episodes(name, episodes, credit, keep=_KEPT_EPISODE_FILES)

    def row(self, row: dict[str, Any]) -> bool:
        """Write a row of `metrics.jsonl`; returns whether its evaluation is the best so far."""
        self.run.append("metrics.jsonl", row)
        self._add(row)
        best = best_evaluation([row], self.config.keep_best)
        improved = best is not None and (self.best is None or best["value"] > self.best["value"])
        if improved:
            self.best = best
        return improved

    def checkpoint(self, loop: Loop) -> None:
        """Write a checkpoint of this moment."""
        with self.run.checkpoint(loop.iteration) as directory:
            if loop.prefetched is not None and world().main:
                save_groups(directory / "ahead.jsonl", loop.prefetched)
            save_checkpoint(directory, loop.learner, loop.state() | {"rows": self._crc})
        if self.best is not None:
            self.run.write_json("best.json", self.best)
        self.run.prune(self.config.keep_checkpoints, [self.best["iteration"]] if self.best else [])

    def _check_rows(self, last: int, state: Mapping[str, Any]) -> None:
        """Say if the rows up to the checkpoint are not those that were written."""
        for row in self.rows():
            if row["iteration"] <= last:
                self._add(row)
        if world().main and state.get("rows", self._crc) != self._crc:
            _log.warning(
                "%s is not what was written: rows up to iteration %d were changed, so the run's curve, limits and alarms may be "
                "wrong; its weights are those of the checkpoint",
                self.run.path / "metrics.jsonl",
                last,
            )

    def _add(self, row: dict[str, Any]) -> None:
        self._crc = zlib.crc32(json.dumps(row).encode(), self._crc)

    def timings(self, iteration: int, seconds: dict[str, float]) -> None:
        """Write a row of `timings.jsonl`."""
        self.run.append("timings.jsonl", {"iteration": iteration, **seconds})

    def failure(self, loop: Loop, error: TrainingError) -> TrainingError:
        """Save what is needed to examine a failed iteration; returns the error to raise, which says where it is."""
        path = self.run.path / f"failed-{loop.iteration:06d}"
        try:
            with world().unsharded(loop.policy), self.run.writing():
                if world().main:
                    save_failure(
                        path, error, chain.from_iterable(loop.played), loop.policy, loop.learner.extra
                    )
        except RunDirectoryError as full:
            return TrainingError(f"{error} (and nothing could be saved of it: {full})")
        return TrainingError(f"{error} (its episodes and the weights are in {path})")

    def finish(self, loop: Loop, limits: AlarmLimits, stopped_by: str) -> tuple[list[dict[str, Any]], float]:
        """Write the summary.

        Args:
            loop: has ended.
            limits: of the alarms.
            stopped_by: the alarm that ended the run, or "".

        Returns:
            The rows of `metrics.jsonl`, and the seconds of the whole run.
        """
        rows, timings = world().from_main(lambda: (self.rows(), self.seconds()))
        seconds = sum(sum(parts.values()) for parts in timings.values())
        evaluations = [row["eval"] for row in rows if "eval" in row]
        summary = {
            "iterations": loop.iteration,
            "policy_version": loop.policy.version,
            "seconds": round(seconds, 3),
            "alarms": [asdict(alarm) for alarm in raised(rows, limits)],
            "stopped_by": stopped_by or None,
            "before": evaluations[0] if evaluations else None,
            "after": evaluations[-1] if evaluations else None,
            **({"best": self.best} if self.best else {}),
        }
        self.run.write_json("summary.json", summary)
        return rows, seconds

    def draw(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Draw the learning curve.

        Args:
            rows: of `metrics.jsonl`.
        """
        if self.browsable and world().main:
            with self.run.writing():
                draw_curve(self.run.path / "curve.png", rows, curve_title(vars(self.config)))
