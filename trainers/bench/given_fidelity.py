"""Fidelity of credit that was measured elsewhere, for a benchmark that cannot measure it while its runs learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

from searchgym.errors import ConfigError
from searchgym.files import read_json

from .learning import SCORES, unbiased_snr

__all__ = ["Fidelity", "read_fidelity"]

Fidelity = dict[tuple[str, str], dict[str, float]]
"""Row and environment -> the scores of `learning.SCORES` that were measured."""


def read_fidelity(paths: Iterable[Path], rows: Iterable[str], environments: Iterable[str]) -> Fidelity:
    """Scores by row and environment.

    Args:
        paths: results.json of a benchmark with an audit, or a directory of credit audits, ENVIRONMENT/…/audit.json, of which
            the mean is taken; of the SNR, corrected as in `learning`, the median. A score that an earlier one has is not replaced by a later one.
        rows: labels of the benchmark's rows.
        environments: its environments.

    Raises:
        ConfigError: a path that holds neither, or nothing about these rows and environments.
    """
    wanted = {(row, place) for place in environments for row in rows}
    found: Fidelity = {}
    for path in paths:
        read = dict(
            _of_audits(path, {place for _, place in wanted}) if path.is_dir() else _of_benchmark(path)
        )
        if not wanted & read.keys():
            raise ConfigError(
                f"{str(path)!r} has no fidelity of the benchmark's rows and environments: give results.json of a benchmark "
                "with [audit], or a directory with ENVIRONMENT/…/audit.json, written by searchgym credit audit --out"
            )
        for key in wanted & read.keys():
            found[key] = {**read[key], **found.get(key, {})}
    return found


def _of_benchmark(path: Path) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    try:
        learning = read_json(path).get("learning") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be read as results of a benchmark ({error}): give its results.json"
        ) from error
    for point in learning.get("points", ()):
        yield (point["row"], point["environment"]), point["fidelity"]


def _of_audits(path: Path, environments: Iterable[str]) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    for place in environments:
        audits = [read_json(file) for file in sorted((path / place).rglob("audit.json"))]
        rules: dict[str, list[tuple[Mapping[str, Any], int]]] = {}
        for audit in audits:
            for rule in audit.get("rules", ()):  # that of several policies has none
                count = rule.get("episodes", audit["episodes"])  # older audits have no count by rule
                rules.setdefault(rule["label"], []).append((rule, count))
        for label, given in rules.items():
            scores = {}
            for score in SCORES:
                values = [_score(rule, score, count) for rule, count in given]
                defined = [value for value in values if value is not None]
                if defined:
                    scores[score] = median(defined) if score == "snr" else fmean(defined)
            yield (label, place), scores


def _score(rule: Mapping[str, Any], score: str, episodes: int) -> float | None:
    value = rule["gradient"].get(score) if score in ("cosine", "snr") else rule["scores"][score]["mean"]
    if value is None:
        return None
    return unbiased_snr(value, episodes) if score == "snr" else float(value)
