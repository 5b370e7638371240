"""One run of a benchmark in its own directory, and the process it runs in.

    card.json     metadata: the run, its whole configuration, the code; written first
    run/          the run directory of the training loop, from which a killed run continues
    result.json   sealed: everything the report needs; written last, in one rename

Of `run/` only metrics, timings and the final policy are kept once the run is sealed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchgym.errors import ConfigError, TrainingError, strip, with_credentials
from searchgym.files import read_json

from ..config import TrainConfig, parse_settings
from ..garbage import collect_seldom
from ..runs.directory import read_run_metadata, write_json
from .audit_plan import AuditPlan, Scope
from .code import fingerprint, load_parts, versions

if TYPE_CHECKING:
    from searchgym.agents.policy import Policy

    from ..core.credit import Credit
    from ..core.groups import Groups

__all__ = ["Job", "first_sums", "read_result", "run_job", "start_process", "write_result"]


@dataclass(frozen=True)
class Job:
    """A run for a worker process; plain values, so that it can be sent.

    Attributes:
        path: directory of the run.
        run: identifies the run in its result.
        config: the fields of its `TrainConfig`.
        code: the fingerprint that its trainer and agent must have.
        test_questions: number of questions of the evaluation on the test split; None: no such evaluation.
        plan: what is measured exactly; it then replaces that evaluation.
        scope: on which questions; together with `plan`.
    """

    path: str
    run: dict[str, Any]
    config: dict[str, Any]
    code: str
    test_questions: int | None
    plan: AuditPlan | None = None
    scope: Scope | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What must be equal for a result to belong to this job; without credentials, because it is stored."""
        audit = (
            {}
            if self.plan is None or self.scope is None
            else {"audit": asdict(self.plan) | asdict(self.scope)}
        )
        return {
            "run": self.run, "code": self.code, "config": strip(self.config), "test_questions": self.test_questions, **audit,
        }  # fmt: skip


def start_process(places: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Set up a worker process: one thread, and an end when the parent ends, even by kill -9.

    Args:
        places: the environments of its jobs, whose parts it loads before it says which code it has.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    collect_seldom()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    load_parts(places)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def run_job(job: Job) -> dict[str, Any]:
    """Run a job to its end, continuing an interrupted run, and seal it; returns the result.

    Raises:
        ConfigError: the sources have changed since the benchmark was started, or an option cannot be used.
    """
    from ..training.api import resume, train
    from .learning_probe import LearningProbe
    from .probe import measure_credit

    config = parse_settings(TrainConfig, job.config)
    if fingerprint(config.trainer, config.agent) != job.code:
        raise ConfigError(
            "the sources have changed since the benchmark was started, and a benchmark never mixes versions: start it again with "
            "--rerun, or install the package as a copy first"
        )
    path, run_dir = Path(job.path), Path(job.path) / "run"
    write_json_new(path / "card.json", job.metadata)
    started, busy = time.perf_counter(), time.process_time()
    result: dict[str, Any] = {**job.metadata, "versions": versions(), "failed": ""}
    interrupted = (run_dir / "config.json").exists()
    units: set[str] = set()
    values: list[float] = []

    exact = None if job.plan is None or job.scope is None else LearningProbe(job.plan, job.scope)

    def probe(iteration: int, policy: Policy, groups: Groups, credit: Credit) -> dict[str, float]:
        if groups.episodes:
            units.add(credit.unit)
        return measure_credit(groups, credit) if exact is None else exact(iteration, policy, groups, credit)

    try:
        if interrupted and read_run_metadata(run_dir).get("config") == strip(asdict(config)):
            trained = resume(run_dir, probe=probe, browsable=False, given=with_credentials(asdict(config)))
        else:
            shutil.rmtree(run_dir, ignore_errors=True)
            trained = train(config, run_dir, probe=probe, browsable=False)
    except TrainingError as error:
        result["failed"] = str(error)
    else:
        trainer = trained.trainer
        result |= {
            "policy": trained.policy.describe(),
            "parameters": sum(p.numel() for p in trained.policy.module.parameters()),
            "spent": trainer.spent,
            "stats": {**trainer.envs.stats, **trainer.loop.counts()},
            "resumed": interrupted,
            "credit_unit": ", ".join(sorted(units)),
            "feedback": trainer.envs.config.has_feedback,
            "judge": _judge_name(trainer.envs.config.judge_spec),
        }
        values = exact.values(trained.policy) if exact is not None else []
        if job.test_questions is not None:
            result["test"] = _true_test(values) if values else _evaluate(trainer, job.test_questions)
    result |= _read_run(run_dir, values)
    result |= {"wall": time.perf_counter() - started, "cpu": time.process_time() - busy}
    _tidy(run_dir)
    write_result(path, result)
    return result


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Seal the result of a run and write it into the run's directory."""
    result["seal"] = _seal(result)
    write_json_new(path / "result.json", result)


def read_result(path: Path) -> dict[str, Any] | None:
    """A sealed result; None if there is none.

    Raises:
        ConfigError: the result was changed after it was sealed.
    """
    try:
        result: dict[str, Any] = read_json(path / "result.json")
        if not isinstance(result, dict):
            raise ValueError(f"it holds a {type(result).__name__}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path / 'result.json'} is damaged ({error}): remove {path} and run again"
        ) from error
    if result.get("seal") != _seal(result):
        raise ConfigError(
            f"{path / 'result.json'} was changed after it was sealed: remove {path} and run again"
        )
    return result


def first_sums(path: Path) -> dict[str, float]:
    """What a sealed run's result sums over iterations, of its first iteration alone.

    Args:
        path: directory of the run.
    """
    sums: dict[str, float] = defaultdict(float)
    for row in _rows(path / "run" / "metrics.jsonl"):
        if row["iteration"] == 1:
            _add(sums, row)
    return dict(sums)


def write_json_new(path: Path, data: Any) -> None:
    """Write a JSON file whose folder may be missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data)


def _seal(result: Mapping[str, Any]) -> str:
    content = _with_numbers_as_keys({k: v for k, v in result.items() if k != "seal"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _with_numbers_as_keys(value: Any) -> Any:
    """The same before and after a file: JSON makes strings of keys that are numbers, and "10" is sorted before "2"."""
    if not isinstance(value, Mapping):
        return value
    numbers = all(str(key).isdecimal() for key in value)
    return {int(key) if numbers else key: _with_numbers_as_keys(one) for key, one in value.items()}


def _evaluate(trainer: Any, questions: int) -> dict[str, Any]:
    """The one greedy evaluation on the test split; `right` has one digit per question, in a fixed order."""
    found = trainer.evaluate("test", questions)
    episodes = sorted(found.episodes, key=lambda episode: str(episode.task_id))
    return {
        "metrics": {name: value.value for name, value in found.metrics.items()},
        "by_group": {name: value.value for name, value in found.by_group.items()},
        "questions": found.questions,
        "right": "".join(str(int(episode.outcome.em)) for episode in episodes),
        "rounds": dict(sorted(Counter(len(episode.rounds) for episode in episodes).items())),
        "split": "test",
    }


def _true_test(values: list[float]) -> dict[str, Any]:
    """What `_evaluate` gives, with the probability of a right answer in place of right or wrong."""
    metrics = {"em": sum(values) / len(values)}
    return {
        "metrics": metrics, "by_group": {}, "questions": len(values), "right": values, "rounds": {}, "split": "test",
    }  # fmt: skip


def _read_run(run_dir: Path, values: Sequence[float]) -> dict[str, Any]:
    """What the training loop recorded: the learning curve, fidelity of credit, sums, shares, seconds.

    Args:
        run_dir: the run.
        values: the probability of a right answer to each question at the end, if it was computed.
    """
    rows = _rows(run_dir / "metrics.jsonl")
    seconds: dict[str, float] = defaultdict(float)
    learning: dict[int, float] = {}
    for row in _rows(run_dir / "timings.jsonl"):
        parts = {name: value for name, value in row.items() if name != "iteration"}
        for name, value in parts.items():
            seconds[name] += value
        learning[row["iteration"]] = sum(
            parts.get(n, 0.0) for n in ("collect", "credit", "prepare", "update")
        )
    curve: list[dict[str, float]] = []
    fidelity: list[dict[str, float]] = []
    sums: dict[str, float] = defaultdict(float)

    def add_point(iteration: int, em: float) -> None:
        spent = {unit: sums[unit] for unit in ("episodes", "tokens", "seconds")}
        curve.append({"iteration": iteration, **spent, "em": em})

    for row in rows:
        scores = {name.removeprefix("audit_"): v for name, v in row.items() if name.startswith("audit_")}
        if "em" in scores:  # before this iteration
            add_point(row["iteration"] - 1, scores.pop("em"))
        if scores:
            fidelity.append({"iteration": row["iteration"], **scores})
        if row["iteration"]:
            _add(sums, row)
            sums["seconds"] += learning.get(row["iteration"], 0.0)
        if "eval" in row:
            add_point(row["iteration"], row["eval"]["metrics"]["em"]["mean"])
    if values:
        add_point(rows[-1]["iteration"], sum(values) / len(values))
    return {"curve": curve, "fidelity": fidelity, "sums": dict(sums), "seconds": dict(seconds)}


def _add(sums: dict[str, float], row: Mapping[str, Any]) -> None:
    """Add an iteration. Means per episode become sums over its valid whole episodes, `valid` of them."""
    valid = row["episodes"] - row["invalid_episodes"]
    whole = valid - row.get("lookahead_episodes", 0)  # the others count in no mean but that of their tokens
    sums["iterations"] += 1
    sums["valid"] += whole
    for name in ("episodes", "groups", "equal_groups", "skipped_groups", "judge_errors", "updates"):
        sums[name] += row[name]
    sums["tokens"] += (row["tokens"] or 0.0) * valid
    for name in ("rounds", "searches", "em", "reward", "truncated", "assisted"):
        sums[name] += (row[name] or 0.0) * whole
    sums["judgements"] += (row["judged"] or 0.0) * (row["rounds"] or 0.0) * whole
    for name in ("tokens", "searches", "judgements"):
        sums[name] += row.get(f"lookahead_{name}", 0)
    sums["right_unassisted"] += (row["unassisted_em"] or 0.0) * (1.0 - (row["assisted"] or 0.0)) * whole
    sums["invalid_rounds"] += (row["invalid_rounds"] or 0.0) * (row["rounds"] or 0.0) * whole
    for name, value in row.items():
        if name.startswith("probe_"):
            sums[name] += value


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _judge_name(spec: Any) -> str:
    """The judge that training used, with its options: "corrupted(oracle, 0.1)"."""
    if spec is None:
        return ""
    if isinstance(spec, str):
        return spec
    options = [str(v) for k, v in spec.items() if k != "name"] if isinstance(spec, dict) else []
    name = spec["name"] if isinstance(spec, dict) else getattr(spec, "name", type(spec).__name__)
    return f"{name}({', '.join(options)})" if options else str(name)


def _tidy(run_dir: Path) -> None:
    """Remove all checkpoints of a finished run but the last: a benchmark has hundreds of runs."""
    steps: Sequence[Path] = sorted((run_dir / "checkpoints").glob("step-*"))
    for step in steps[:-1]:
        shutil.rmtree(step, ignore_errors=True)
