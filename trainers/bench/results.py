"""From sealed runs to the content of a report, as JSON data."""

from __future__ import annotations

import inspect
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError

from ..core.registry import load_trainer
from .campaign import chosen_rates, final_dev, selection_score
from .given_fidelity import Fidelity
from .learning import analyse_learning
from .modality import find_heaps
from .spec import Entry, Run, Spec
from .statistics import Comparison, bootstrap, compare, holm, iqm
from .worker import first_sums, read_result

__all__ = ["FEEDBACK_NEEDED", "analyse", "compare_rows", "selection"]

FEEDBACK_NEEDED = 0.1
"""A result with the feedback act counts only if at least this share of the training episodes used it."""
GOAL = 0.8
_POINTS = 33  # of a learning curve
_SHARES = (
    "tokens",
    "rounds",
    "searches",
    "assisted",
    "truncated",
    "em",
    "reward",
)  # per valid training episode

Runs = list[list[dict[str, Any]]]
"""Sealed final runs of one row, [seed][environment]."""


def analyse(spec: Spec, out: Path, fidelity: Fidelity | None = None) -> dict[str, Any]:
    """Numbers, comparisons and the checklist's facts of all runs that are sealed.

    Args:
        spec: the benchmark.
        out: its directory.
        fidelity: of credit, measured elsewhere; with it, learning is analysed without an audit, too.

    Raises:
        ConfigError: no seed of the baseline is complete yet.
    """
    rates = chosen_rates(spec, out)
    runs = {row.label: _read_runs(spec, out, row, rates) for row in spec.rows} if rates else {}
    runs = {label: found for label, found in runs.items() if found}
    if spec.baseline not in runs:
        raise ConfigError(
            f"{out} holds no complete seed of the baseline {spec.baseline!r} yet: continue the benchmark"
        )
    pairs = {
        label: _compare(found, runs[spec.baseline]) for label, found in runs.items() if label != spec.baseline
    }
    tested = [label for label, pair in pairs.items() if pair.p is not None]
    adjusted = dict(
        zip(tested, holm([p for label in tested if (p := pairs[label].p) is not None]), strict=True)
    )
    rows = {}
    for entry in spec.rows:
        if entry.label not in runs:
            continue
        row = _describe(spec, entry, runs[entry.label])
        if entry.label in pairs:
            row["against_baseline"] = _comparison_json(pairs[entry.label], adjusted.get(entry.label))
        rows[entry.label] = row
    baseline = rows[spec.baseline]["mean"]["value"]
    everything = [run for found in runs.values() for seed in found for run in seed]
    return {
        "spec": spec.to_json(),
        "date": date.today().isoformat(),
        "machine": {"processor": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "versions": everything[0]["versions"],
        "baseline_in_window": spec.window[0] <= baseline <= spec.window[1],
        "selection": selection(spec, out, rates or {}),
        "rows": rows,
        "missing": [row.label for row in spec.rows if row.label not in runs],
        "cpu_hours": _all_seconds(out) / 3600,
        "learning": analyse_learning(spec, runs, fidelity) if spec.plan or fidelity is not None else None,
        "runs": everything,
    }


def compare_rows(spec: Spec, out: Path, label: str, other: str) -> Comparison:
    """One row against another over the seeds both have.

    Raises:
        ConfigError: they have none in common yet.
    """
    rates = chosen_rates(spec, out)
    found = [_read_runs(spec, out, spec.entry(name), rates) if rates else [] for name in (label, other)]
    if not all(found):
        raise ConfigError(
            f"{out} holds no complete seed of {label!r} and {other!r} yet: continue the benchmark"
        )
    return _compare(*found)


def _read_runs(spec: Spec, out: Path, row: Entry, rates: Mapping[str, float] | None) -> Runs:
    """The seeds, from 0 on without a gap, that are sealed in every environment."""
    found: Runs = []
    for seed in range(spec.seeds):
        runs = [Run("final", row.label, place, (rates or {})[row.label], seed) for place in spec.environments]
        results = [read_result(out / "runs" / run.place) for run in runs]
        complete = [
            result if spec.plan else {**result, "first": first_sums(out / "runs" / run.place)}
            for run, result in zip(runs, results, strict=True)
            if result is not None
        ]
        if len(complete) < len(results):
            break
        found.append(complete)
    return found


def _test_em(result: Mapping[str, Any]) -> float:
    """Test EM; 0 for a run that failed."""
    return 0.0 if result["failed"] else float(result["test"]["metrics"]["em"])


def _scores(runs: Runs) -> NDArray[np.float64]:
    return np.array([[_test_em(result) for result in seed] for seed in runs])


def _right(runs: Runs, questions: Sequence[int]) -> NDArray[np.float64]:
    """Right or wrong, per test question: [R, Q]."""
    return np.array(
        [
            [float(digit) for r, n in zip(seed, questions, strict=True) for digit in (r["test"]["right"] if not r["failed"] else "0" * n)]
            for seed in runs
        ]
    )  # fmt: skip


def _compare(x: Runs, y: Runs) -> Comparison:
    count = min(len(x), len(y))
    x, y = x[:count], y[:count]
    sizes = [
        [len(r["test"]["right"]) for r in place if not r["failed"]] for place in zip(*x, *y, strict=True)
    ]
    questions = [found[0] if found else 1 for found in sizes]
    return compare(_scores(x), _scores(y), (_right(x, questions), _right(y, questions)))


def _comparison_json(pair: Comparison, p_holm: float | None) -> dict[str, Any]:
    verdict = pair.verdict(p_holm)
    return {
        **asdict(pair),
        "p_holm": p_holm,
        "verdict": verdict,
        "more_seeds": pair.more_seeds() if verdict == "undecided" else 0,
    }


def _describe(spec: Spec, entry: Entry, runs: Runs) -> dict[str, Any]:
    """Everything about one row."""
    scores_RE = _scores(runs)
    results = [result for seed in runs for result in seed]
    ended = [result for result in results if not result["failed"]]
    sums: dict[str, float] = defaultdict(float)
    for result in results:
        for name, value in result["sums"].items():
            sums[name] += value
    curves = {place: _curves(spec, [seed[e] for seed in runs]) for e, place in enumerate(spec.environments)}
    reached = [_goal(spec, result) for result in results]
    hits = [x for x in reached if x is not None]
    valid = max(sums["valid"], 1)
    first: dict[str, Any] = ended[0] if ended else {}
    row: dict[str, Any] = {
        "trainer": entry.trainer,
        "settings": entry.settings,
        "env_options": entry.env_options,
        "train": entry.train,
        "lr": results[0]["run"]["lr"],
        "code": results[0]["code"],
        "seeds": len(runs),
        "failed": len(results) - len(ended),
        "mean": asdict(bootstrap([scores_RE])),
        "iqm": asdict(bootstrap([scores_RE], iqm)),
        "spread": float(scores_RE.mean(axis=1).std(ddof=1)) if len(runs) > 1 else None,
        "by_environment": {
            place: asdict(bootstrap([scores_RE[:, [e]]])) for e, place in enumerate(spec.environments)
        },
        "dev": fmean(final_dev(result) for result in results),
        "area": asdict(bootstrap([np.stack([curve.mean(axis=1) for curve in curves.values()], axis=1)])),
        "curves": {place: _band(spec, curve) for place, curve in curves.items()},
        "goal": {"em": GOAL, "reached": len(hits), "of": len(reached), "median": _median(reached)},
        "per_episode": {name: sums[name] / valid for name in _SHARES},
        "equal_groups": sums["equal_groups"] / max(sums["groups"], 1),
        "unassisted_em": _ratio(sums["right_unassisted"], sums["valid"] - sums["assisted"]),
        "credit_on_contributing": _ratio(sums["probe_credit_contributing"], sums["probe_credit"]),
        "blame_on_contributing": _ratio(sums["probe_blame_contributing"], sums["probe_blame"]),
        "feedback": bool(first.get("feedback")),
        "judge": first.get("judge", ""),
        "credit_unit": next((r["credit_unit"] for r in ended if r["credit_unit"]), "not seen"),
        "family": entry.family or _head_line(entry.trainer),
        "policy": first.get("policy"),
        "parameters": first.get("parameters"),
        "costs": _costs(results, ended),
        "test_rounds": _histogram(ended),
        "differs_in": _differences(spec, entry),
        "settings_differ_in": _setting_differences(spec, entry),
        "heaps": {place: asdict(find_heaps(scores_RE[:, e])) for e, place in enumerate(spec.environments)},
    }
    row["marks"] = _marks(row)
    return row


def _curves(spec: Spec, results: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Dev EM at equally spaced amounts of the budget, [R, points]; straight lines between evaluations."""
    grid = np.linspace(0.0, spec.amount, _POINTS)
    return np.array(
        [
            np.interp(grid, [p[spec.unit] for p in r["curve"]], [p["em"] for p in r["curve"]])
            if r["curve"] and not r["failed"]
            else np.zeros(_POINTS)
            for r in results
        ]
    )


def _band(spec: Spec, curve_RP: NDArray[np.float64]) -> dict[str, list[float]]:
    """Mean and pointwise 95 % bootstrap band over seeds."""
    generator = np.random.default_rng(0)
    rows = generator.integers(len(curve_RP), size=(2_000, len(curve_RP)))
    low, high = np.quantile(curve_RP[rows].mean(axis=1), [0.025, 0.975], axis=0)
    return {
        "x": np.linspace(0.0, spec.amount, _POINTS).tolist(),
        "mean": curve_RP.mean(axis=0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _goal(spec: Spec, result: Mapping[str, Any]) -> float | None:
    """Episodes at the first evaluation with the goal's dev EM; None if the run never had it."""
    return next((float(point["episodes"]) for point in result["curve"] if point["em"] >= GOAL), None)


def _median(reached: Sequence[float | None]) -> float | None:
    """Median episodes to the goal, counting runs that never reached it as infinitely long; None if it is one."""
    middle = median(float("inf") if x is None else x for x in reached)
    return None if middle == float("inf") else middle


def _costs(
    results: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """Means per run: episodes, tokens, judge calls and seconds."""

    def mean(name: str) -> float:
        return fmean(float(r["sums"].get(name, 0.0)) for r in results)

    def seconds(*parts: str) -> float:
        return fmean(sum(r["seconds"].get(part, 0.0) for part in parts) for r in results)

    whole = [r["stats"] for r in ended if not r["resumed"]]  # a resumed run's counters are of its last part

    def stat(name: str) -> float | None:
        return fmean(float(s.get(name, 0.0)) for s in whole) if whole else None

    return {
        **{
            name: mean(name)
            for name in ("iterations", "episodes", "tokens", "searches", "updates", "judgements")
        },
        "judge_errors": mean("judge_errors"),
        "judge_seconds": stat("judge_seconds"),
        "judge_calls": stat("judge_calls"),
        "judge_usd": stat("judge_usd"),
        "retrieval_seconds": stat("retrieval_seconds"),
        "collect_seconds": seconds("collect"),
        "prepare_seconds": seconds("prepare"),
        "credit_seconds": seconds("credit"),
        "update_seconds": seconds("update"),
        "evaluate_seconds": seconds("evaluate"),
        "wall": fmean(float(r["wall"]) for r in results),
        "cpu": fmean(float(r["cpu"]) for r in results),
    }


def _histogram(ended: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts: Counter[int] = Counter()
    for result in ended:
        counts.update({int(k): v for k, v in result["test"]["rounds"].items()})
    return {str(k): counts[k] for k in sorted(counts)}


def _differences(spec: Spec, entry: Entry) -> list[str]:
    """In what a row's runs differ from the baseline's, besides trainer, settings and learning rate."""
    base = spec.entry(spec.baseline)
    found = []
    for name in ("env_options", "train"):
        mine, theirs = getattr(entry, name), getattr(base, name)
        found += [
            f"{k}={mine.get(k, 'default')}" for k in sorted({*mine, *theirs}) if mine.get(k) != theirs.get(k)
        ]
    return found


def _setting_differences(spec: Spec, entry: Entry) -> list[str]:
    """Settings that a row's trainer shares with the baseline's and has other values of, defaults included."""
    base = spec.entry(spec.baseline)
    mine, theirs = (asdict(load_trainer(row.trainer)(row.settings).settings) for row in (entry, base))
    return [
        f"{name}={mine[name]} ({spec.baseline}: {theirs[name]})"
        for name in mine
        if name in theirs and mine[name] != theirs[name]
    ]


def _head_line(trainer: str) -> str:
    """The first line of a trainer's file, which describes it."""
    module = inspect.getmodule(load_trainer(trainer))
    return ((module.__doc__ if module else "") or "not stated").strip().splitlines()[0]


def _marks(row: Mapping[str, Any]) -> list[str]:
    """What a reader must know before comparing a row."""
    marks = []
    if row["judge"].partition("(")[0] == "oracle":
        marks.append("upper bound: its judge knows the gold passages")
    elif row["judge"]:
        marks.append(f"judge: {row['judge']}")
    if told := load_trainer(row["trainer"])(row["settings"]).told:
        marks.append(f"told {told}")
    if not row["settings"] and row["settings_differ_in"]:
        marks.append(f"DEFAULT SETTINGS, which differ: {', '.join(row['settings_differ_in'])}")
    if row["feedback"]:
        share = row["per_episode"]["assisted"]
        used = f"feedback in {share:.1%} of the training episodes"
        marks.append(
            used if share >= FEEDBACK_NEEDED else f"DOES NOT COUNT: {used}, {FEEDBACK_NEEDED:.0%} needed"
        )
    if row["failed"]:
        marks.append(f"{row['failed']} runs failed and score 0")
    return marks


def selection(spec: Spec, out: Path, rates: Mapping[str, float]) -> dict[str, Any]:
    """Mean dev EM of every learning rate of every row, and which was taken."""
    scores: dict[str, dict[str, list[float]]] = {}
    for run in spec.selection_runs():
        result = read_result(out / "runs" / run.place)
        if result is not None:
            scores.setdefault(run.label, {}).setdefault(f"{run.lr:g}", []).append(selection_score(result))
    return {
        label: {
            "dev_em": {rate: fmean(values) for rate, values in found.items()},
            "spread": {rate: stdev(values) if len(values) > 1 else None for rate, values in found.items()},
            "chosen": rates.get(label),
            "at_edge": rates.get(label) in (spec.rates[0], spec.rates[-1]),
        }
        for label, found in scores.items()
    }


def _all_seconds(out: Path) -> float:
    """Processor seconds of all sealed runs, selection and calibration too (of a resumed run, its last part's)."""
    results = (read_result(path.parent) for path in (out / "runs").rglob("result.json"))
    return sum(float(result["cpu"]) for result in results if result is not None)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
