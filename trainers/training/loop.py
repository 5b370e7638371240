"""The one training loop: collect, credit, update, record; the same for every algorithm and every policy.

`training.api` opens policy, environments and run directory by name and starts it; use `Trainer` directly to bring
your own.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, RunDirectoryError, TrainingError
from searchgym.rollouts.evaluation import EvalResult
from searchgym.statistics import Estimate
from searchgym.tape.recording import tape_of

from ..algorithm import Algorithm, token_logprobs, training_envs
from ..batch import pack
from ..config import TrainConfig
from ..credit import Credit
from ..groups import Group, Groups, drop_invalid
from ..learner.checkpoint import load_checkpoint, load_policy, save_checkpoint
from ..learner.failures import ADVICE, NonFiniteError, save_failure
from ..learner.importance import TRAINER_LOGPROBS, truncated_importance_sampling
from ..learner.learner import Learner
from ..learner.metrics import UpdateMetrics
from ..processes import world
from ..rollouts import (
    PrefetchCollector,
    SeededRollouts,
    Workers,
    check_same,
    load_groups,
    run_requests,
    save_groups,
)
from ..runs.alarms import Alarms, parse_stops, raised
from ..runs.directory import RunDirectory
from ..runs.display import Display, draw_curve
from ..runs.metrics import best_evaluation, collection_metrics, estimates, evaluation_row, staleness
from ..tasks import TaskSampler
from .evaluation import evaluate_on, greedy

__all__ = ["Result", "Trainer"]

_KEPT_EPISODE_FILES = 3
_LEARNING = ("collect", "credit", "prepare", "update")  # the parts of an iteration that a time limit counts


@dataclass(slots=True)
class Result:
    """What a run gave.

    Attributes:
        run_dir: everything on disk.
        policy: the trained policy.
        before, after: metrics of the greedy evaluations; None when there was none.
        metrics: the rows of metrics.jsonl.
        seconds: time spent, interrupted parts included as far as they were recorded.
        trainer: the loop itself, for further evaluations.
    """

    run_dir: Path
    policy: Policy
    before: dict[str, Estimate] | None
    after: dict[str, Estimate] | None
    metrics: list[dict[str, Any]]
    seconds: float
    trainer: Trainer


@dataclass
class _Stopwatch:
    """Seconds per named part of an iteration."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Trainer:
    """The loop.

    Args:
        policy: is trained; at its initial weights.
        algorithm: see `Algorithm`.
        envs: where episodes are played, under `algorithm.configure_env`; handed to `algorithm.collect`.
        tasks: the questions.
        config: iterations, learning rate and so on.
        run: where it is recorded; when it holds checkpoints, the loop continues from the last one.
        display: shows progress.
        evaluator: greedy evaluation of the policy; default: `searchgym.evaluate` under the rules of `envs`,
            without judge and feedback act and with plain EM as the reward.
        probe: measures the credit of an iteration; its numbers are added to the iteration's metrics.
        workers: plays episodes in other processes; default: this one plays.
        rollout_policy: another agent of the policy's kind, which plays ahead where `config.rollout_lag` says so.

    Attributes:
        spent: "episodes", sampled "tokens" and "seconds" of collecting and learning so far.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        envs: SearchVectorEnv,
        tasks: TaskSampler,
        config: TrainConfig,
        run: RunDirectory,
        display: Display | None = None,
        evaluator: Callable[[Policy], EvalResult] | None = None,
        probe: Callable[[Groups, Credit], dict[str, float]] | None = None,
        workers: Workers | None = None,
        rollout_policy: Policy | None = None,
    ) -> None:
        self.policy, self.algorithm, self.tasks = policy, algorithm, tasks
        self.envs = training_envs(algorithm, envs)
        self.config, self.run, self.display = config, run, display or Display()
        self._evaluator, self._probe = evaluator, probe
        self.iteration = 0
        self.spent = {"episodes": 0.0, "tokens": 0.0, "seconds": 0.0}
        self._generators = {
            "algorithm": np.random.default_rng([config.seed, 1]),
            "minibatches": np.random.default_rng([config.seed, 2]),
        }
        if run.steps():  # what an algorithm keeps of the initial policy must not be that of another file
            load_policy(run.step_path(0), policy)
        world().broadcast_weights(policy)
        policy.generator.manual_seed(config.seed)
        policy.temperature, policy.top_p, policy.greedy = config.temperature, 1.0, False
        torch.manual_seed(config.seed)  # dropout, and modules an algorithm creates
        algorithm.token_budget = config.token_budget
        algorithm.setup(policy, self._generators["algorithm"])
        if config.streams == "episode":
            self._generators["rollouts"] = np.random.default_rng([config.seed, 3])
            algorithm.play = SeededRollouts(self._generators["rollouts"], workers or run_requests)
        self._workers = workers
        self._ahead = None if rollout_policy is None else PrefetchCollector(rollout_policy, self._collect)
        self._collected: list[Group] | None = None  # ahead, and not learned from yet
        self._learner = Learner(policy, algorithm, config)
        self._tape = tape_of(envs)
        if self._tape is not None:
            self._tape.rewind(0)
        if run.steps():
            self._restore()
        run.truncate(self.iteration if run.steps() else -1)
        rows = run.rows("metrics.jsonl")
        self._best = best_evaluation(rows, config.keep_best)
        self._alarms = Alarms(config.alarms, rows)
        self._stops, self._stopped_by = parse_stops(config.stop_on_alarm), ""

    # -- the run ---------------------------------------------------------------------------------------

    def run_to_end(self) -> Result:
        """Train until an end that `config` names, evaluating and saving on the way, then write curve and summary."""
        config, run = self.config, self.run
        with self.display:
            self.display.start(asdict(config), run.path, self.iteration, run.rows("metrics.jsonl"))
            if not run.steps():
                self._record({"iteration": 0}, [], _Stopwatch())
            while not self._ended():
                watch = _Stopwatch()
                self.iteration += 1
                groups, row = self.iterate(watch)
                self._spend(row, watch.seconds)
                row = {"iteration": self.iteration, **row}
                self._watch(row)
                self._record(row, groups, watch)
        return self._finish()

    def _watch(self, row: dict[str, Any]) -> None:
        """Raise alarms, and end the run over those that it was told to end for."""
        for alarm in self._alarms.add(row):
            self.display.alarm(str(alarm))
            if alarm.name in self._stops and not self._stopped_by:
                self._stopped_by = alarm.name
                self.display.alarm(
                    f"the run ends here (stop_on_alarm); --resume goes on from iteration {self.iteration}"
                )
        row["alarms"] = list(self._alarms.active)

    def _ended(self) -> bool:
        limits = {kind: getattr(self.config, f"max_{kind}") for kind in self.spent}
        over = any(limit and self.spent[kind] >= limit for kind, limit in limits.items())
        return over or self.iteration >= self.config.iterations or bool(self._stopped_by)

    def _spend(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        self.spent["episodes"] += row["episodes"]
        self.spent["tokens"] += round((row["tokens"] or 0.0) * (row["episodes"] - row["invalid_episodes"]))
        self.spent["seconds"] += sum(seconds.get(part, 0.0) for part in _LEARNING)

    def _record(self, row: dict[str, Any], groups: Sequence[Group], watch: _Stopwatch) -> None:
        """Evaluate if it is time, write the row, save a checkpoint if it is time; the checkpoint comes last,
        so that every row up to it is on disk."""
        config, i = self.config, self.iteration
        last = self._ended()
        if config.eval_episodes and (i == 0 or last or (config.eval_every and i % config.eval_every == 0)):
            with watch("evaluate"):
                self.display.evaluating(i)
                result = self.evaluate()
                self.run.save_episodes(f"eval-{i:06d}", result.episodes)
                row["eval"] = evaluation_row(result)
        self.run.append("metrics.jsonl", row)
        best = best_evaluation([row], config.keep_best)
        improved = best is not None and (self._best is None or best["value"] > self._best["value"])
        if improved:
            self._best = best
        if i == 0 or last or improved or i % config.checkpoint_every == 0:
            with watch("checkpoint"):
                if groups:
                    episodes = [episode for group in groups for episode in group]
                    self.run.save_episodes(f"train-{i:06d}", episodes, keep=_KEPT_EPISODE_FILES)
                self.save()
        seconds = {name: round(value, 6) for name, value in watch.seconds.items()}
        self.run.append("timings.jsonl", {"iteration": i, **seconds})
        self.display.iteration(row, seconds)

    def _finish(self) -> Result:
        rows, timings = world().from_main(
            lambda: (self.run.rows("metrics.jsonl"), self.run.rows("timings.jsonl"))
        )
        seconds = sum(sum(v for k, v in r.items() if k != "iteration") for r in timings)
        evaluations = [r["eval"] for r in rows if "eval" in r]
        before, after = (estimates(evaluations[i]) if evaluations else None for i in (0, -1))
        if world().main:
            with self.run.writing():
                draw_curve(self.run.path / "curve.png", rows)
        summary = {
            "iterations": self.iteration,
            "policy_version": self.policy.version,
            "seconds": round(seconds, 3),
            "alarms": [asdict(alarm) for alarm in raised(rows, self._alarms.limits)],
            "stopped_by": self._stopped_by or None,
            "before": evaluations[0] if evaluations else None,
            "after": evaluations[-1] if evaluations else None,
            **({"best": self._best} if self._best else {}),
        }
        self.run.write_json("summary.json", summary)
        return Result(self.run.path, self.policy, before, after, rows, seconds, self)

    # -- one iteration ---------------------------------------------------------------------------------

    def iterate(self, watch: _Stopwatch | None = None) -> tuple[list[Group], dict[str, Any]]:
        """Collect once and learn from it; returns the groups played and the iteration's metrics."""
        watch = watch or _Stopwatch()
        with watch("collect"):
            played, drawn = self._next()
        try:
            row = self._learn(played, drawn, watch)
        except TrainingError as error:
            path = self.run.path / f"failed-{self.iteration:06d}"
            try:
                with world().unsharded(self.policy), self.run.writing():
                    if world().main:
                        save_failure(
                            path, error, chain.from_iterable(played), self.policy, self._learner.extra
                        )
            except RunDirectoryError as full:
                raise TrainingError(f"{error} (and nothing could be saved of it: {full})") from error
            raise TrainingError(f"{error} (its episodes and the weights are in {path})") from error
        if self._ahead is not None and self._ahead.running:
            with watch("collect"):
                self._collected = self._ahead.wait()
        return played, row

    def _next(self) -> tuple[list[Group], int]:
        """The groups to learn from, and how many tasks were drawn with them; may begin to collect the next ones."""
        played, drawn = self._collected, self.tasks.drawn
        if played is None:
            with world().playing(self.policy):
                played = self._collect(self.policy)
            drawn = self.tasks.drawn
        check_same(played)
        self._collected = None
        if self._ahead is not None and self.iteration < self.config.iterations:
            self._ahead.start(self.policy)
        return played, drawn

    def _collect(self, policy: Policy) -> list[Group]:
        return [list(group) for group in self.algorithm.collect(policy, self.envs, self.tasks)]

    def _learn(self, played: Sequence[Group], drawn: int, watch: _Stopwatch) -> dict[str, Any]:
        """Credit and update; the metrics."""
        algorithm = self.algorithm
        row = collection_metrics(played)
        with watch("credit"):
            valid, counts = drop_invalid(played)
            groups, skipped = self._select(valid)
        row |= counts | skipped | {"tasks_drawn": drawn}
        if self._ahead is not None:
            row["staleness"] = staleness(played, self.policy.version)
        if self._workers is not None:
            row["lost_workers"] = self._workers.lost
        lr = self._learner.set_lr(self.iteration)
        if self._learner.scheduled:
            row["lr"] = lr
        update = UpdateMetrics()
        if groups.samples:  # nothing was sampled where no prompt fits into the context
            cap = algorithm.settings.tis_cap
            with watch("prepare"):
                if cap:
                    groups.columns[TRAINER_LOGPROBS] = token_logprobs(
                        self.policy, groups.samples, self.config.token_budget
                    )
                algorithm.prepare(self.policy, groups)
            with watch("credit"):
                credit = algorithm.credit(groups)
                batch = pack(groups, credit, algorithm.settings.sequence)
            if cap:
                update.compare(batch.old_logprobs_N, batch.columns[TRAINER_LOGPROBS])
                batch, weights = truncated_importance_sampling(batch, cap)
                row |= weights
            row |= credit.metrics | (self._probe(groups, credit) if self._probe else {})
            with watch("update"):
                self._learner.update(batch, update, self.iteration, self._generators["minibatches"])
        row |= {"updates": update.updates, "policy_version": self.policy.version, **update.result()}
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NonFiniteError(f"metric {name!r} of iteration {self.iteration} is {value}: {ADVICE}")
        return row

    def _select(self, valid: Sequence[Group]) -> tuple[Groups, dict[str, int]]:
        """Rewards (permuted for the control), and the groups the algorithm wants."""
        rewards = [self.algorithm.rewards(group) for group in valid]
        if self.algorithm.settings.permute_rewards:
            rewards = [self.algorithm.rng.permutation(r_G) for r_G in rewards]
        groups = Groups(valid, rewards)
        kept = [i for i, wanted in enumerate(self.algorithm.select(groups)) if wanted]
        counts = {
            "equal_groups": sum(len(r_G) > 1 and bool(r_G.min() == r_G.max()) for r_G in rewards),
            "skipped_groups": len(valid) - len(kept),
        }
        if counts["skipped_groups"]:
            groups = Groups([valid[i] for i in kept], [rewards[i] for i in kept])
        return groups, counts

    # -- evaluation and state ----------------------------------------------------------------------------

    def evaluate(self, split: str | None = None, episodes: int | None = None) -> EvalResult:
        """Greedy evaluation; leaves the sampling settings and the generator as they were.

        Args:
            split: default: the configuration's, or whatever `evaluator` plays.
            episodes: questions of that split; None: all.
        """
        with greedy(self.policy), world().playing(self.policy):
            if split is None and self._evaluator is not None:
                return self._evaluator(self.policy)
            if split is None:
                split, episodes = self.config.eval_split, self.config.eval_episodes
            ids = random.Random(f"evaluation {self.config.seed} {self.iteration}")
            return evaluate_on(self.envs, self.policy, split, episodes, ids)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        counters = {
            "iteration": self.iteration,
            "tasks_drawn": self.tasks.drawn,
            "generators": {name: g.bit_generator.state for name, g in self._generators.items()},
            "tape_position": 0 if self._tape is None else self._tape.position,
        }
        with self.run.checkpoint(self.iteration) as directory:
            save_checkpoint(directory, self._learner, counters)
            if self._collected is not None and world().main:
                save_groups(directory / "ahead.jsonl", self._collected)
        if self._best is not None:
            self.run.write_json("best.json", self._best)
        self.run.prune(self.config.keep_checkpoints, [self._best["iteration"]] if self._best else [])

    def _restore(self) -> None:
        """Return to the last complete checkpoint."""
        steps = self.run.steps()
        if steps[-1] > self.config.iterations:
            raise ConfigError(
                f"iterations is {self.config.iterations}, but run {str(self.run.path)!r} already has {steps[-1]}: "
                "give a larger number"
            )
        directory = self.run.step_path(steps[-1])
        counters = load_checkpoint(directory, self._learner)
        if (directory / "ahead.jsonl").exists():
            self._collected = load_groups(directory / "ahead.jsonl")
        for name, generator in self._generators.items():
            generator.bit_generator.state = counters["generators"][name]
        self.tasks.drawn = counters["tasks_drawn"]
        self.iteration = counters["iteration"]
        seconds = {row["iteration"]: row for row in self.run.rows("timings.jsonl")}
        for row in self.run.rows("metrics.jsonl"):
            if 0 < row["iteration"] <= self.iteration:
                self._spend(row, seconds.get(row["iteration"], {}))
        if self._tape is not None:
            self._tape.rewind(counters["tape_position"])
