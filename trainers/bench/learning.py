"""Whether credit that is closer to the truth learns faster: from the sealed runs of a benchmark.

    learning speed    (EM − EM₀) / (1 − EM₀), averaged over the budget: the part of the attainable gain that a run had on
                      average; EM is the true one, EM₀ that of the initial policy
                      Without an `audit`, EM is the share of right answers among the run's training episodes (those
                      without feedback), which are sampled, and EM₀ that of the first iteration over all rows without
                      feedback and all seeds
    to half           what was spent until EM = EM₀ + (1 − EM₀) / 2, by linear interpolation; None if that never was
    fidelity          the scores of `learning_probe.FIDELITY`, mean over audited iterations and seeds, or measured elsewhere
                      (`given_fidelity`)

The signal-to-noise ratio per episode of n episodes, m²/v with their mean m and variance v, exceeds the true one by 1/n on
average; it is corrected for that, and its median is taken, because v may be next to 0.

Correlations are taken over points (row, family), both values minus their mean over the rows of the family, because families
differ in how fast anything learns there. Their intervals resample whole families, or whole rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError
from searchgym.statistics import Interval, percentile_interval

from ..credit_audit.scores import rank_correlation
from .spec import Spec
from .statistics import compare, holm

__all__ = ["SCORES", "analyse_learning", "episodes_to_half", "learning_speed", "sampled_em", "unbiased_snr"]

SCORES = ("cosine", "sign", "within", "pearson", "snr")
"""The scores of fidelity; the first is the one that a benchmark's conclusion rests on."""
_RESAMPLES = 2_000

Runs = list[list[dict[str, Any]]]


def learning_speed(curve: Sequence[Mapping[str, float]], unit: str, amount: float) -> float:
    """See the head of this file; 0 if nothing can be gained.

    Args:
        curve: points with the unit spent and "em".
        unit: of the budget.
        amount: of the budget; the last value holds until then.
    """
    spent, em = _points(curve, unit)
    if em[0] >= 1.0:
        return 0.0
    inside = spent < amount
    grid = np.concatenate([spent[inside], [amount]])
    area = float(np.trapezoid(np.interp(grid, spent, em), grid)) / amount
    return float((area - em[0]) / (1.0 - em[0]))


def episodes_to_half(curve: Sequence[Mapping[str, float]], unit: str) -> float | None:
    """See the head of this file.

    Args:
        curve: points with the unit spent and "em".
        unit: of the budget.
    """
    spent, em = _points(curve, unit)
    goal = (1.0 + em[0]) / 2
    for i in range(1, len(em)):
        if em[i] >= goal:
            share = (goal - em[i - 1]) / (em[i] - em[i - 1])
            return float(spent[i - 1] + share * (spent[i] - spent[i - 1]))
    return None


def unbiased_snr(snr: float, episodes: float) -> float:
    """A signal-to-noise ratio per episode without what it exceeds the true one by on average, see the head of this file.

    Args:
        snr: squared mean over variance.
        episodes: how many these are of.
    """
    return snr * (episodes - 1) / episodes - 1 / episodes


def sampled_em(sums: Mapping[str, float]) -> float:
    """The share of right answers among training episodes without feedback; nan if there are none.

    Args:
        sums: of some iterations, see `worker.read_result`.
    """
    alone = sums.get("valid", 0.0) - sums.get("assisted", 0.0)
    return sums["right_unassisted"] / alone if alone > 0 else math.nan


def analyse_learning(
    spec: Spec,
    runs: Mapping[str, Runs],
    given: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Everything about learning speed and fidelity, as JSON data.

    Args:
        spec: the benchmark.
        runs: label -> final runs, [seed][environment]; the baseline is among them. Without an audit each has "first", the
            sums of its first iteration.
        given: row and environment -> scores that were measured elsewhere. Rows with feedback get none: their episodes hold
            acts that the other rows' do not have.

    Raises:
        ConfigError: without an audit: no run without feedback says where the runs of an environment began.
    """
    places = list(spec.environments)
    starts = None if spec.plan else [_sampled_start(runs, e, place) for e, place in enumerate(places)]
    speeds = {label: _speeds(spec, found, starts) for label, found in runs.items()}
    episodes = {label: _episodes_per_audit(found) for label, found in runs.items()}
    points = [
        _describe(spec, label, place, [seed[e] for seed in found], speeds[label][:, e], episodes[label])
        for label, found in runs.items()
        for e, place in enumerate(places)
    ]
    for point in points:
        if starts is not None:
            start = starts[places.index(point["environment"])]
            point["start"] = None if math.isnan(start) else start
        if given is not None:
            assisted = any(r["feedback"] for seed in runs[point["row"]] for r in seed if not r["failed"])
            point["fidelity"] = {} if assisted else dict(given.get((point["row"], point["environment"]), {}))
    differences = {place: _against_baseline(spec, speeds, [e]) for e, place in enumerate(places)}
    rivals = {place: _best_rival(spec, found) for place, found in differences.items()}
    return {
        "points": points,
        "differences": differences,
        "overall": _against_baseline(spec, speeds, list(range(len(places)))),
        "rivals": {place: rival for place, rival in rivals.items() if rival is not None},
        "correlations": [
            _correlate(points, score, references) for references in (False, True) for score in SCORES
        ],
        "references": list(spec.references),
        "measure": "exact" if starts is None else "sampled",
        "given": given is not None,
    }


# -- parts ---------------------------------------------------------------------------------------------


def _points(
    curve: Sequence[Mapping[str, float]], unit: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([p[unit] for p in curve], dtype=float), np.array([p["em"] for p in curve], dtype=float)


def _sampled_start(runs: Mapping[str, Runs], number: int, place: str) -> float:
    """EM₀ of an environment, see the head of this file; nan if all its runs failed."""
    ended = [seed[number] for found in runs.values() for seed in found if not seed[number]["failed"]]
    sums: Counter[str] = Counter()
    for result in ended:
        if not result["feedback"]:
            sums.update(result["first"])
    start = sampled_em(sums)
    if ended and math.isnan(start):
        raise ConfigError(
            f"environment {place!r} has no finished run without feedback, whose first iteration says "
            "where learning began: add such a row, or an [audit]"
        )
    return start


def _speeds(spec: Spec, runs: Runs, starts: Sequence[float] | None) -> NDArray[np.float64]:
    """Learning speed of every run, [R, E]; 0 for a run that failed, or (sampled) of which every episode had feedback.

    Args:
        spec: the benchmark.
        runs: the final runs of a row.
        starts: EM₀ of each environment where speed is that of the sampled training episodes; None: the curves are exact.
    """

    def speed(result: Mapping[str, Any], place: int) -> float:
        if result["failed"]:
            return 0.0
        if starts is None:
            return learning_speed(result["curve"], spec.unit, spec.amount)
        gain, room = sampled_em(result["sums"]) - starts[place], 1.0 - starts[place]
        return gain / room if room > 0 and math.isfinite(gain) else 0.0

    return np.array([[speed(result, e) for e, result in enumerate(seed)] for seed in runs])


def _episodes_per_audit(runs: Runs) -> float:
    """Episodes of an iteration."""
    sums = [r["sums"] for seed in runs for r in seed if not r["failed"]]
    return fmean(s["episodes"] / s["iterations"] for s in sums) if sums else 1.0


def _describe(
    spec: Spec,
    label: str,
    place: str,
    results: Sequence[Mapping[str, Any]],
    speed_R: NDArray[np.float64],
    episodes: float,
) -> dict[str, Any]:
    """One point: a row in an environment."""
    ended = [r for r in results if not r["failed"]]
    halves = [episodes_to_half(r["curve"], spec.unit) for r in ended] if spec.plan else []
    audits = [audit for r in ended for audit in r["fidelity"]]
    by_iteration = {
        str(iteration): _fidelity([a for a in audits if a["iteration"] == iteration], episodes)
        for iteration in sorted({int(a["iteration"]) for a in audits})
    }
    return {
        "row": label,
        "environment": place,
        "reference": label in spec.references,
        "seeds": len(results),
        "start": fmean(r["curve"][0]["em"] for r in ended) if ended and ended[0]["curve"] else None,
        "speed": asdict(_mean_interval(speed_R)),
        "final": fmean(
            0.0 if r["failed"] else r["curve"][-1]["em"] if spec.plan else r["test"]["metrics"]["em"]
            for r in results
        ),
        "to_half": _median(halves),
        "reached_half": sum(half is not None for half in halves),
        "fidelity": _fidelity(audits, episodes),
        "by_iteration": by_iteration,
    }


def _mean_interval(values: NDArray[np.float64]) -> Interval:
    t = compare(values[:, None], np.zeros((len(values), 1))).t_interval
    return Interval(t.value, t.low, t.high)


def _median(values: Sequence[float | None]) -> float | None:
    """Runs that never reached it count as infinitely long; None if the median is one of them."""
    if not values:
        return None
    middle = median(float("inf") if v is None else v for v in values)
    return None if middle == float("inf") else middle


def _fidelity(audits: Sequence[Mapping[str, float]], episodes: float) -> dict[str, float]:
    """Mean scores, of the SNR the median; a score that was never defined is left out."""
    found = {}
    for score in SCORES:
        values = [audit[score] for audit in audits if score in audit]
        if score == "snr":  # mean and variance are those of the same episodes
            values = [unbiased_snr(value, episodes) for value in values]
        if values:
            found[score] = median(values) if score == "snr" else fmean(values)
    return found


def _against_baseline(
    spec: Spec, speeds: Mapping[str, NDArray[np.float64]], places: list[int]
) -> dict[str, dict[str, Any]]:
    """Paired differences in learning speed to the baseline, mean over some environments, by row."""
    base_RE = speeds[spec.baseline]
    found: dict[str, dict[str, Any]] = {}
    for label, speed_RE in speeds.items():
        if label == spec.baseline:
            continue
        count = min(len(speed_RE), len(base_RE))
        pair = compare(speed_RE[:count, places], base_RE[:count, places])
        found[label] = {
            "difference": asdict(pair.t_interval),
            "p": pair.p,
            "spread": pair.spread,
            "seeds": count,
            "verdict": pair.verdict(),
            "more_seeds": pair.more_seeds(),
        }
    tested = [
        label for label, pair in found.items() if pair["p"] is not None and label not in spec.references
    ]
    for label, p in zip(tested, holm([found[label]["p"] for label in tested]), strict=True):
        found[label]["p_holm"] = p
    return found


def _best_rival(spec: Spec, differences: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    rivals = {label: pair for label, pair in differences.items() if label not in spec.references}
    if not rivals:
        return None
    best = max(rivals, key=lambda label: rivals[label]["difference"]["value"])
    return {"row": best, **rivals[best]}


def _correlate(points: Sequence[Mapping[str, Any]], score: str, references: bool) -> dict[str, Any]:
    """Rank correlation of a score of fidelity and learning speed."""
    chosen = [p for p in points if score in p["fidelity"] and (references or not p["reference"])]
    families = sorted({p["environment"] for p in chosen})
    rows = sorted({p["row"] for p in chosen})
    x = np.array([p["fidelity"][score] for p in chosen])
    y = np.array([p["speed"]["value"] for p in chosen])
    family = np.array([families.index(p["environment"]) for p in chosen], dtype=np.int64)
    row = np.array([rows.index(p["row"]) for p in chosen], dtype=np.int64)
    found: dict[str, Any] = {"score": score, "references": references, "points": len(chosen)}
    if len(rows) < 2:
        return {**found, "value": None}
    x, y = _centred(x, family), _centred(y, family)
    value = rank_correlation(x, y)
    return {
        **found,
        "value": value,
        "over_environments": asdict(_clustered(x, y, family, value)) if len(families) > 1 else None,
        "over_rows": asdict(_clustered(x, y, row, value)),
    }


def _centred(values: NDArray[np.float64], cluster: NDArray[np.int64]) -> NDArray[np.float64]:
    means = np.bincount(cluster, values) / np.bincount(cluster)
    centred: NDArray[np.float64] = values - means[cluster]
    return centred


def _clustered(
    x: NDArray[np.float64], y: NDArray[np.float64], cluster: NDArray[np.int64], value: float
) -> Interval:
    """Bootstrap interval of a rank correlation: clusters are drawn anew, with all their points."""
    members = [np.flatnonzero(cluster == c) for c in range(int(cluster.max()) + 1)]
    chosen = np.random.default_rng(0).integers(len(members), size=(_RESAMPLES, len(members)))
    by_size: dict[int, list[NDArray[np.int64]]] = {}
    for clusters in chosen.tolist():
        drawn = np.concatenate([members[c] for c in clusters])
        by_size.setdefault(len(drawn), []).append(drawn)
    resampled = [_rank_correlations(x, y, np.array(drawn)) for drawn in by_size.values()]
    return percentile_interval(value, np.concatenate(resampled))


def _rank_correlations(
    x: NDArray[np.float64], y: NDArray[np.float64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`rank_correlation` of each resample, to the last bit.

    Args:
        x: [n].
        y: [n].
        drawn: the points of each resample, [resamples, points].
    """
    a, b = _centred_ranks(x, drawn), _centred_ranks(y, drawn)
    covariance, a_squared, b_squared = _row_products(a, b), _row_products(a, a), _row_products(b, b)
    scale = np.sqrt(a_squared * b_squared)
    found: NDArray[np.float64] = np.divide(covariance, scale, out=np.zeros(len(drawn)), where=scale > 1e-300)
    return found


def _centred_ranks(values: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """The ranks of the drawn values in each resample less their mean; equal values share the mean of their ranks."""
    different, kind = np.unique(values, return_inverse=True)
    kinds, shape = kind[drawn], (len(drawn), len(different))
    cells = kinds + np.arange(0, shape[0] * shape[1], shape[1])[:, None]
    counts = np.bincount(cells.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    ends = counts.cumsum(axis=1)
    ranks = np.take_along_axis((ends - counts + ends - 1) / 2, kinds, axis=1)
    centred: NDArray[np.float64] = ranks - ranks.mean(axis=1, keepdims=True)
    return centred


def _row_products(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product of each row with the row beside it, [rows]."""
    products: NDArray[np.float64] = (a[:, None, :] @ b[:, :, None])[:, 0, 0]
    return products
