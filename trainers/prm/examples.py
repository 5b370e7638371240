"""What a step reward model learns from labels, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError
from searchgym.judges import trace_of

from ..credit_audit.scores import NEGLIGIBLE
from .labels import Place, StepLabels
from .model import Reading, RewardModel
from .settings import PRMSettings

__all__ = ["Example", "check_labels", "draw_batches", "examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """What is learned from one question.

    Attributes:
        readings: of its episodes.
        targets: y at each read-out, NaN where there is none (all but pairwise).
        pairs: the better and the worse read-out, as positions in the concatenated read-outs (pairwise).
        advantages: true advantage at each read-out, NaN where it is unknown or not decided.
    """

    readings: list[Reading]
    targets: NDArray[np.float64]
    pairs: NDArray[np.int64]
    advantages: NDArray[np.float64]


def check_labels(labels: StepLabels, settings: PRMSettings) -> None:
    """Refuse labels that a loss cannot learn.

    Raises:
        ConfigError: says which loss can.
    """
    if labels.count == 0:
        raise ConfigError("the labels are empty: no round has a label")
    if settings.reference == "gold":
        _check_gold(labels)
    if settings.loss == "pairwise":
        if not labels.comparisons(settings.margin):
            raise ConfigError(
                f"no two acts in one state have labels that differ by {settings.margin:g} or more: label more episodes of each "
                "question (--group-size), or lower margin"
            )
    elif labels.kind == "preferences":
        raise ConfigError(f"preferences have no numbers, which loss={settings.loss} needs: use loss=pairwise")
    elif settings.loss in ("bce", "wdpo"):
        flat = np.concatenate(labels.labels)
        low, high = float(np.nanmin(flat)), float(np.nanmax(flat))
        if low < -1e-6 or high > 1.0 + 1e-6:
            raise ConfigError(
                f"the labels lie in [{low:g}, {high:g}], and loss={settings.loss} learns probabilities: use loss=mse, or label episodes "
                "whose reward is 0 or 1"
            )


def _check_gold(labels: StepLabels) -> None:
    """Refuse episodes whose rounds cannot be marked.

    Raises:
        ConfigError: questions without gold passages, or none of which was ever returned.
    """
    lacking = sum(not episode.gold.get("supporting_ids") for episode in labels.episodes)
    if lacking:
        raise ConfigError(
            f"{lacking} of {len(labels.episodes)} episodes are of questions without gold passages, which reference=gold marks: "
            "leave reference out"
        )
    if not any(
        hit.id in episode.gold["supporting_ids"]
        for episode in labels.episodes
        for r in episode.rounds
        for hit in r.hits
    ):
        raise ConfigError(
            "no round of the labels returned a gold passage, so reference=gold marks nothing: leave it out, or label episodes "
            "whose hits have the ids of the corpus's passages"
        )


def examples(model: RewardModel, labels: StepLabels, settings: PRMSettings) -> list[Example]:
    """The labels, question by question."""
    members: dict[str, list[int]] = {}
    for e, episode in enumerate(labels.episodes):
        members.setdefault(episode.task_id, []).append(e)
    compared: dict[str, list[tuple[Place, Place]]] = {task: [] for task in members}
    if settings.loss == "pairwise":
        for better, worse in labels.comparisons(settings.margin):
            compared[labels.episodes[better[0]].task_id].append((better, worse))
    found = []
    for task, numbers in members.items():
        readings = [model.read(trace_of(labels.episodes[e])) for e in numbers]
        first = dict(zip(numbers, np.cumsum([0, *(len(r.ends) for r in readings)]), strict=False))
        size = {e: len(r.ends) for e, r in zip(numbers, readings, strict=True)}
        pairs = [
            (first[a] + s + 1, first[b] + t + 1)
            for (a, s), (b, t) in compared[task]
            if s + 1 < size[a] and t + 1 < size[b]
        ]
        if settings.loss == "pairwise" and not pairs:
            continue
        targets = [_targets(labels, e)[: size[e]] for e in numbers]
        if settings.loss != "pairwise" and not np.isfinite(np.concatenate(targets)).any():
            continue  # every verdict failed
        advantages = [_decided(labels, e)[: size[e]] for e in numbers]
        pairs_P2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        found.append(Example(readings, np.concatenate(targets), pairs_P2, np.concatenate(advantages)))
    return found


def _targets(labels: StepLabels, episode: int) -> NDArray[np.float64]:
    """y after the question and after each round."""
    row = labels.labels[episode]
    if labels.kind == "values":
        return np.clip(row, 0.0, 1.0) if abs(row).max() < 1.0 + 1e-6 and row.min() > -1e-6 else row
    rounds = len(labels.episodes[episode].rounds)
    return np.concatenate([[np.nan], row if labels.kind == "verdicts" else np.full(rounds, np.nan)])


def _decided(labels: StepLabels, episode: int) -> NDArray[np.float64]:
    """The true advantages that are not within their error of 0, behind a NaN for the question."""
    rounds = len(labels.episodes[episode].rounds)
    if not labels.advantages:
        return np.full(rounds + 1, np.nan)
    a_R, errors_R = labels.advantages[episode], labels.errors[episode]
    neutral_R = np.abs(a_R) <= np.maximum(NEGLIGIBLE, 2.0 * errors_R)
    return np.concatenate([[np.nan], np.where(neutral_R, np.nan, a_R)])


def draw_batches(
    questions: Sequence[Example], batch_tokens: int, rng: np.random.Generator
) -> list[list[Example]]:
    """The questions in random order, in batches of at most that many tokens, or of one question."""
    batches: list[list[Example]] = []
    spent = 0
    for i in rng.permutation(len(questions)):
        tokens = sum(len(reading.tokens) for reading in questions[i].readings)
        if not batches or spent + tokens > batch_tokens:
            batches.append([])
            spent = 0
        batches[-1].append(questions[i])
        spent += tokens
    return batches
