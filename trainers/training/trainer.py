"""A training run from its first iteration to its last: when to evaluate, to save and to stop.

`training.api` opens policy, environments and run directory by name and starts it; use `Trainer` directly to bring your
own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchgym.agents.policy import Policy
from searchgym.errors import RunDirectoryError, TrainingError, strip
from searchgym.rollouts.evaluation import EvalResult
from searchgym.statistics import Interval

from ..config import TrainConfig
from ..core.registry import trainer_label
from ..garbage import collect_seldom
from ..processes import world
from ..runs.alarms import Alarms, parse_stops
from ..runs.directory import RunDirectory
from ..runs.display import Display
from ..runs.metrics import estimates, evaluation_row
from .evaluation import evaluate_on, evaluation_ids, greedy
from .interrupts import Interrupts
from .loop import Iteration, Loop, Players, Probe, Stopwatch
from .parts import Parts
from .recorder import RunRecorder

__all__ = ["Result", "Trainer"]

_LEARNING = ("collect", "credit", "prepare", "update")  # the parts of an iteration that `max_seconds` counts


@dataclass(slots=True, repr=False)
class Result:
    """What a training run gave.

    Attributes:
        run_dir: everything on disk.
        policy: the trained policy.
        before: metrics of the greedy evaluation before training; None without evaluations.
        after: metrics of the last greedy evaluation; None without evaluations.
        metrics: the rows of `metrics.jsonl`.
        seconds: time spent, including interrupted parts as far as they were recorded.
        trainer: the run's `Trainer`, for further evaluations.
    """

    run_dir: Path
    policy: Policy
    before: dict[str, Interval] | None
    after: dict[str, Interval] | None
    metrics: list[dict[str, Any]]
    seconds: float
    trainer: Trainer

    def __repr__(self) -> str:
        em = [str(one["em"]) if one else "not measured" for one in (self.before, self.after)]
        return f"<Result {self.run_dir}: EM {em[0]} before, {em[1]} after {self.trainer.loop.iteration} iterations>"


class Trainer:
    """Runs a `Loop` to the end and has a `RunRecorder` write it down.

    Args:
        parts: policy, algorithm, environments (under `algorithm.training_envs`) and questions.
        config: iterations, learning rate and so on.
        run: where the run is recorded; if it holds checkpoints, training continues from the last one.
        display: shows progress.
        evaluator: greedy evaluation of the policy; default: `searchgym.evaluate` in the environments of `parts`, without
            judge and feedback act and with exact match as the reward.
        probe: measures the credit of every iteration.
        players: who plays in addition to the policy.

    Attributes:
        spent: "episodes", sampled "tokens" and "seconds" of collecting and learning so far.
    """

    def __init__(
        self,
        parts: Parts,
        config: TrainConfig,
        run: RunDirectory,
        display: Display | None = None,
        evaluator: Callable[[Policy], EvalResult] | None = None,
        probe: Probe | None = None,
        players: Players | None = None,
    ) -> None:
        self.policy, self.envs, self.config = parts.policy, parts.envs, config
        self.display, self.evaluator = display or Display(), evaluator
        self.recorder = RunRecorder(run, config)
        initial = run.step_path(0) if self.recorder.started else None
        self.loop = Loop(parts, config, players, probe, initial)
        self.recorder.restore(self.loop)
        self.spent = {"episodes": 0.0, "tokens": 0.0, "seconds": 0.0}
        rows, seconds = self.recorder.rows(), self.recorder.seconds()
        try:
            for row in rows:
                if row["iteration"] > 0:
                    self._spend(row, seconds.get(row["iteration"], {}))
            self._alarms = Alarms(config.alarms, rows)
        except (ArithmeticError, LookupError, TypeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{run.path / 'metrics.jsonl'} is damaged ({error}): restore it from a copy, or start a new run"
            ) from error
        self._interrupts = Interrupts()
        self._stops, self._stopped_by = parse_stops(config.stop_on_alarm), ""

    def run_to_end(self, browsable: bool = True) -> Result:
        """Train until a limit of the configuration is reached, evaluating and saving on the way.

        Ctrl-C ends the run after the iteration in progress, with a checkpoint; a second one ends it at once.

        Args:
            browsable: also keep episodes with their credit, and draw the learning curve at the end.

        Raises:
            TrainingError: an iteration failed; its episodes and the weights are saved in the run directory.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        loop, run = self.loop, self.recorder.run
        self.recorder.browsable = browsable
        with self.display, self._interrupts, _fewer_collections():
            shown = strip({**asdict(self.config), "trainer": trainer_label(self.config.trainer)})
            self.display.start(shown, run.path, loop.iteration, self.recorder.rows())
            if not self.recorder.started:
                self._record({"iteration": 0}, None, Stopwatch())
            while not self._ended():
                watch = Stopwatch()
                try:
                    done = loop.iterate(watch)
                except TrainingError as error:
                    if not loop.played:  # collecting failed: there is nothing to save
                        raise
                    raise self.recorder.failure(loop, error) from error
                self._spend(done.metrics, watch.seconds)
                row = {"iteration": loop.iteration, **done.metrics}
                self._check_alarms(row)
                self._record(row, done, watch)
        rows, seconds = self.recorder.finish(loop, self._alarms.limits, self._stopped_by)
        self.recorder.draw(rows)
        evaluations = [row["eval"] for row in rows if "eval" in row]
        before, after = (estimates(evaluations[i]) if evaluations else None for i in (0, -1))
        return Result(run.path, self.policy, before, after, rows, seconds, self)

    def evaluate(self, split: str | None = None, episodes: int | None = None) -> EvalResult:
        """Greedy evaluation; sampling settings and generator stay as they were.

        Args:
            split: of the questions; default: the configuration's, or what `evaluator` plays.
            episodes: number of questions of that split; None: all.
        """
        with greedy(self.policy), world().playing(self.policy):
            if split is None and self.evaluator is not None:
                return self.evaluator(self.policy)
            if split is None:
                split, episodes = self.config.eval_split, self.config.eval_episodes
            ids = evaluation_ids(self.config.seed, self.loop.iteration)
            return evaluate_on(self.envs, self.policy, split, episodes, ids)

    def _ended(self) -> bool:
        limits = {kind: getattr(self.config, f"max_{kind}") for kind in self.spent}
        over = any(limit and self.spent[kind] >= limit for kind, limit in limits.items())
        return over or self.loop.iteration >= self.config.iterations or bool(self._stopped_by)

    def _spend(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        self.spent["episodes"] += row["episodes"]
        self.spent["tokens"] += round((row["tokens"] or 0.0) * (row["episodes"] - row["invalid_episodes"]))
        self.spent["tokens"] += row.get("lookahead_tokens", 0)
        self.spent["seconds"] += sum(seconds.get(part, 0.0) for part in _LEARNING)

    def _check_alarms(self, row: dict[str, Any]) -> None:
        """Show new alarms, and stop the run at those named by `stop_on_alarm`."""
        for alarm in self._alarms.add(row):
            self.display.alarm(str(alarm))
            if alarm.name in self._stops and not self._stopped_by:
                self._stopped_by = alarm.name
                self.display.alarm(
                    f"the run stops here (stop_on_alarm); --resume continues from iteration {self.loop.iteration}"
                )
        row["alarms"] = list(self._alarms.active)

    def _record(self, row: dict[str, Any], done: Iteration | None, watch: Stopwatch) -> None:
        """Evaluate if it is due, write the row, save a checkpoint if it is due or Ctrl-C was pressed.

        The checkpoint comes last, so that every row up to it is on disk.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and the run has not ended anyway. The checkpoint is complete.
        """
        config, i = self.config, self.loop.iteration
        last = self._ended()
        if config.eval_episodes and (i == 0 or last or (config.eval_every and i % config.eval_every == 0)):
            with watch("evaluate"):
                self.display.evaluating(i)
                result = self.evaluate()
                self.recorder.evaluation(i, result.episodes)
                row["eval"] = evaluation_row(result)
        improved = self.recorder.row(row)
        # All processes of a run stop after the same iteration.
        interrupted = world().from_main(lambda: self._interrupts.requested)
        if i == 0 or last or improved or interrupted or i % config.checkpoint_every == 0:
            with watch("checkpoint"):
                if done is not None:
                    self.recorder.training_episodes(done)
                self.recorder.checkpoint(self.loop)
                # Indented JSON and safetensors leave cycles; the next collection may be 2,000 iterations away.
                gc.collect(0)
        seconds = {name: round(value, 6) for name, value in watch.seconds.items()}
        self.recorder.timings(i, seconds)
        self.display.iteration(row, seconds)
        if interrupted and not last:
            raise KeyboardInterrupt


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Collect garbage seldom: records of episodes have no cycles, and looking for some took a quarter of the time."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.freeze()
    collect_seldom()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not frozen:  # what a caller froze stays frozen
            gc.unfreeze()
