"""A whole benchmark: estimate, selection of learning rates, final runs. All of it can be interrupted and continued."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import filelock
import numpy as np

from searchgym.errors import ConfigError, RunDirectoryError, strip
from searchgym.files import lock_file, read_json

from ..config import TrainConfig
from ..runs.directory import write_json
from .code import fingerprint, load_parts
from .schedule import Workers, duration
from .spec import Entry, Run, Spec
from .worker import Job, read_result

__all__ = ["Campaign", "chosen_rates", "final_dev", "selection_score"]

_CALIBRATION = 3  # iterations
_CALIBRATION_SEED = 2000


class Campaign:
    """The runs of a spec in one directory.

    Args:
        spec: what is compared.
        out: the benchmark's directory; made if it is missing.
        processes: runs at a time.
        say: prints a line of progress.
    """

    def __init__(
        self, spec: Spec, out: Path, processes: int = 1, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.spec, self.out, self.processes, self._say = spec, out, processes, say
        places = [
            (place["env"], {**place.get("env_options", {}), **row.env_options})
            for place in spec.environments.values()
            for row in spec.rows
        ]
        load_parts(places)
        agent = str(spec.train.get("agent", TrainConfig().agent))
        self.codes = {
            row.label: fingerprint(row.trainer, str(row.train.get("agent", agent))) for row in spec.rows
        }
        self.idle = 1.0
        self._workers = Workers(processes, places)
        self._walls: dict[str, list[float]] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the directory's lock, and worker processes while runs are played.

        Raises:
            RunDirectoryError: another process benchmarks here, or it cannot be written.
        """
        try:
            lock = lock_file(self.out / ".lock")
        except (OSError, filelock.Timeout) as error:
            reason = getattr(error, "strerror", None) or "in use by another process"
            raise RunDirectoryError(
                f"benchmark directory {str(self.out)!r}: {reason}; choose another --out"
            ) from error
        try:
            write_json(self.out / "spec.json", strip(self.spec.to_json()))
            with self._workers:
                yield
        finally:
            lock.release()

    # -- jobs --------------------------------------------------------------------------------------------------

    def job(self, run: Run) -> Job:
        """The work of a run."""
        config = self.spec.config(self.spec.entry(run.label), run.environment, run.lr, run.seed)
        questions = self.spec.test_questions if run.phase == "final" else None
        path = str(self.out / "runs" / run.place)
        scope = self.spec.scope(run.environment, run.phase)
        return Job(path, asdict(run), asdict(config), self.codes[run.label], questions, self.spec.plan, scope)

    def _calibration(self, row: Entry, environment: str) -> Job:
        config = self.spec.config(
            row, environment, self.spec.rates[len(self.spec.rates) // 2], _CALIBRATION_SEED
        )
        config = replace(
            config, iterations=_CALIBRATION, max_episodes=0, max_tokens=0, max_seconds=0.0, eval_every=0
        )
        run = {"phase": "calibration", "label": row.label, "environment": environment}
        path = self.out / "runs" / "calibration" / row.label / environment
        scope = self.spec.scope(environment, "calibration")
        return Job(str(path), run, asdict(config), self.codes[row.label], None, self.spec.plan, scope)

    def clear_stale(self, rerun: bool) -> None:
        """Make sure that what is there was made by this code under this spec.

        Raises:
            ConfigError: it was not, and `rerun` is False. With `rerun` such runs are removed.
        """
        jobs = list(map(self.job, self.spec.selection_runs()))
        stale = [job for job in jobs if _is_stale(job)]
        rates = None if stale else chosen_rates(self.spec, self.out)
        if rates is not None:
            stale = [job for job in map(self.job, self.spec.final_runs(rates)) if _is_stale(job)]
        if stale and not rerun:
            labels = ", ".join(sorted({job.run["label"] for job in stale}))
            raise ConfigError(
                f"{len(stale)} runs in {self.out} ({labels}) were made by other code or under another spec, and versions "
                "are never mixed: give --rerun to make them again, or another --out to keep them"
            )
        for job in stale:
            shutil.rmtree(job.path)

    # -- the parts of a benchmark ------------------------------------------------------------------------------

    def calibrate(self) -> dict[tuple[str, str], float]:
        """Seconds that a run of each row in each environment takes, from a few iterations played now (or before).

        Sets `idle`: by what factor runs are faster where nothing else wants the processor.
        """
        jobs = [self._calibration(row, place) for row in self.spec.rows for place in self.spec.environments]
        for job in jobs:
            if _is_stale(job):
                shutil.rmtree(job.path)
        todo = [job for job in jobs if _sealed(job) is None]
        if todo:
            self._say(f"measuring {len(todo)} of {len(jobs)} rows for the time estimate")
        self._workers.execute(todo, _raise_failure)
        results = {(job.run["label"], job.run["environment"]): _sealed(job) for job in jobs}
        played = {key: result for key, result in results.items() if result is not None}
        self.idle = min(1.0, sum(r["cpu"] for r in played.values()) / sum(r["wall"] for r in played.values()))
        return {key: self._seconds(key[0], result) for key, result in played.items()}

    def _seconds(self, label: str, measured: Mapping[str, Any]) -> float:
        """Of a whole final run, from a calibration."""
        spent, seconds, config = measured["sums"], measured["seconds"], measured["config"]
        parts = sum(seconds.get(part, 0.0) for part in ("collect", "credit", "prepare", "update"))
        iterations = math.ceil(self.spec.amount / max(spent[self.spec.unit] / spent["iterations"], 1e-9))
        learning = parts / spent["iterations"] * iterations
        every = self.spec.config(self.spec.entry(label), measured["run"]["environment"], 1.0, 0).eval_every
        evaluations = 2 + (iterations - 1) // every if every else 2
        one = seconds.get("evaluate", 0.0) / 2
        tests = one * self.spec.test_questions / max(config["eval_episodes"], 1)
        return float(learning + evaluations * one + tests)

    def estimate(self) -> float:
        """Print what every row will take; returns the seconds left on all processes together."""
        per_run = self.calibrate()
        rates = chosen_rates(self.spec, self.out) or dict.fromkeys(self.codes, self.spec.rates[0])
        total = 0.0
        for row in self.spec.rows:
            runs = [
                r for r in (*self.spec.selection_runs(), *self.spec.final_runs(rates)) if r.label == row.label
            ]
            left = [r for r in runs if read_result(self.out / "runs" / r.place) is None]
            seconds = sum(per_run[r.label, r.environment] for r in left)
            mean = fmean(per_run[row.label, place] for place in self.spec.environments)
            self._say(f"{row.label:<24} {mean:6.1f} s a run   {len(left):4} of {len(runs):4} runs to do")
            total += seconds / self.processes
        alone = f" ({duration(total * self.idle)} if nothing else used them)" if self.idle < 0.9 else ""
        self._say(f"estimate: {duration(total)} on {self.processes} cores{alone}")
        return total

    def run(self, minutes: float | None = None, rerun: bool = False, select_only: bool = False) -> bool:
        """Play everything that is not sealed yet.

        Args:
            minutes: start no run after this many minutes; None: run to the end.
            rerun: make runs of other code or another spec again.
            select_only: end after the selection of learning rates; the test split is not touched.

        Returns:
            Whether the benchmark is complete.
        """
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.clear_stale(rerun)
        per_run = self.calibrate()
        if not self._play(self.spec.selection_runs(), per_run, deadline, "selection"):
            return False
        if select_only:
            return True
        rates = chosen_rates(self.spec, self.out)
        assert rates is not None
        final = self.spec.final_runs(rates)
        self.clear_stale(rerun)
        return self._play(final, per_run, deadline, "final")

    def _play(
        self, runs: list[Run], per_run: Mapping[tuple[str, str], float], deadline: float | None, phase: str
    ) -> bool:
        jobs = [self.job(run) for run in runs]
        todo = [job for job in jobs if _sealed(job) is None]
        left = {job.path: per_run[job.run["label"], job.run["environment"]] for job in todo}
        before = len(jobs) - len(todo)

        def done(job: Job, result: dict[str, Any]) -> None:
            label = job.run["label"]
            walls = self._walls.setdefault(label, [])
            walls.append(result["wall"])
            left.pop(job.path)
            for path in left:  # what was measured in whole runs replaces the calibration
                if f"/{label}/" in path:
                    left[path] = fmean(walls)
            rate = f" lr {job.run['lr']:g}" if phase == "selection" else ""
            if result["failed"]:
                outcome = f"failed: {result['failed']}"
            else:
                outcome = f"dev EM {result['curve'][-1]['em']:.3f}"
            self._say(
                f"[{phase} {before + len(todo) - len(left)}/{len(jobs)}] {label} {job.run['environment']}{rate} seed "
                f"{job.run['seed']}: {outcome}, {result['wall']:.1f} s; about {duration(sum(left.values()) / self.processes)} "
                "left"
            )

        return self._workers.execute(todo, done, deadline)


def chosen_rates(spec: Spec, out: Path) -> dict[str, float] | None:
    """For each row the rate with the best mean `selection_score` of the selection runs; of equals the smaller one.

    Without a selection it is the middle of the grid. None while selection runs are missing.
    """
    runs = spec.selection_runs()
    if not runs:
        return dict.fromkeys((row.label for row in spec.rows), spec.rates[len(spec.rates) // 2])
    scores: dict[tuple[str, float], list[float]] = {}
    for run in runs:
        result = read_result(out / "runs" / run.place)
        if result is None:
            return None
        scores.setdefault((run.label, run.lr), []).append(selection_score(result))
    return {
        row.label: max(spec.rates, key=lambda rate, row=row: (fmean(scores[row.label, rate]), -rate))  # type: ignore[misc]
        for row in spec.rows
    }


def selection_score(result: Mapping[str, Any]) -> float:
    """By what a learning rate is chosen: dev EM at the end, or with an audit the mean of the true EM over training."""
    curve = result["curve"]
    if result["failed"] or "audit" not in result:
        return final_dev(result)
    spent, em = [p["episodes"] for p in curve], [p["em"] for p in curve]
    return float(np.trapezoid(em, spent) / spent[-1])


def final_dev(result: Mapping[str, Any]) -> float:
    """Dev EM at the end of a run; 0 for one that failed."""
    return 0.0 if result["failed"] else float(result["curve"][-1]["em"])


def _is_stale(job: Job) -> bool:
    path = Path(job.path)
    try:
        metadata = read_json(path / "card.json")
    except FileNotFoundError:
        return False
    except ValueError:  # a kill before the first byte was synced
        return True
    except OSError as error:
        raise RunDirectoryError(
            f"{path / 'card.json'} cannot be read ({error.strerror or error}): remove {path} and run again"
        ) from error
    return bool(metadata != json.loads(json.dumps(job.metadata)))


def _sealed(job: Job) -> dict[str, Any] | None:
    return read_result(Path(job.path))


def _raise_failure(job: Job, result: Mapping[str, Any]) -> None:
    if result["failed"]:
        raise ConfigError(f"{job.run['label']} fails in its first iterations: {result['failed']}")
