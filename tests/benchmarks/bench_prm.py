"""Step reward models of the tiny LM's size on Monte Carlo labels: AUC against the true sign of the advantage, beside the judge `rules`.

python tests/benchmarks/bench_prm.py [--out DIR] [--questions 1250] [--test-questions 100] [--worlds 3 4] [--family all]

The tiny LM (start=forks) plays four episodes of each question of `SearchQA-Forks-v0`. Training labels are the mean return of 8
continuations of each state, which share random numbers; test labels, of questions of another split, have a standard error of 0.05.
Two models learn: `prm` sees no gold data, `prm-gold` sees which gold passages a round returned (reference=gold), as `rules` does.
--worlds adds the test questions of other worlds, by the seed of the corpus (--world-questions of each, standard error 0.1).
Labels and models are kept in DIR and not made again. The last lines are AUC with 95 % intervals over questions; rounds whose
advantage is within two standard errors of 0 decide nothing and are left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchgym.judges import Judge, open_judge
from searchgym.specs import open_corpus
from searchgym.statistics import Interval, percentile_interval
from searchgym.trainers.credit_audit.scores import NEGLIGIBLE
from searchgym.trainers.prm.auditing import audit_judges
from searchgym.trainers.prm.backbones import open_backbone
from searchgym.trainers.prm.labelling import LabelRequest, make_labels
from searchgym.trainers.prm.labels import LABELS_FILE, StepLabels
from searchgym.trainers.prm.model import CONFIG_FILE
from searchgym.trainers.prm.scores import auc
from searchgym.trainers.prm.settings import PRMSettings
from searchgym.trainers.prm.training import train_reward_model

JUDGES = ("rules", "oracle", "fidelity")
MODELS: dict[str, dict[str, Any]] = {"prm": {"epochs": 12}, "prm-gold": {"epochs": 6, "reference": "gold"}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/bench-prm"))
    parser.add_argument("--questions", type=int, default=1250)
    parser.add_argument("--test-questions", type=int, default=100)
    parser.add_argument("--worlds", type=int, nargs="*", default=[])
    parser.add_argument("--world-questions", type=int, default=240)
    parser.add_argument("--family", default="all")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = {"name": "forks", "family": options.family, "train": 2000, "dev": 200, "test": 200}
    train = _labels(options.out / "train", corpus, "train", options.questions, 0.25, 8)
    for name in options.models:
        if not (options.out / name / CONFIG_FILE).exists():
            _train(train, options.out / name, MODELS[name])
    specs = {name: {"name": "prm", "model": str(options.out / name)} for name in options.models}
    test = _labels(options.out / "test", corpus, "test", options.test_questions, 0.05, 200)
    _compare("test", test, specs, corpus)
    for seed in options.worlds:
        world = {**corpus, "test": 400, "seed": seed}
        labels = _labels(options.out / f"world-{seed}", world, "test", options.world_questions, 0.1, 200)
        _compare(f"world {seed}", labels, specs, world)


def _compare(
    name: str, labels: StepLabels, specs: dict[str, dict[str, str]], corpus: dict[str, object]
) -> None:
    opened = open_corpus(corpus)
    judges = {name: open_judge(spec, opened) for name, spec in {**specs, **{j: j for j in JUDGES}}.items()}
    for row in audit_judges(labels, judges):
        print(
            f"{name}: {row.judge:9} AUC {row.auc}, rank correlation {row.spearman:.3f}, {row.rounds} rounds, "
            f"{row.positive:.1%} positive"
        )
    for model in specs:
        gap = _difference(labels, judges[model], judges["rules"])
        print(f"{name}: {model} - rules  {gap}, paired over questions", flush=True)


def _train(labels: StepLabels, place: Path, settings: dict[str, Any]) -> None:
    started = time.process_time()
    backbone = open_backbone("tiny", {"start": "forks"})
    train_reward_model(
        labels,
        backbone,
        place,
        PRMSettings(lr=2e-3, **settings),
        lambda row: print(_in_words(row), flush=True),
    )
    print(
        f"{place.name}: trained on {labels.count} labels in {time.process_time() - started:.0f} s", flush=True
    )


def _difference(labels: StepLabels, one: Judge, other: Judge) -> Interval:
    """AUC of one judge minus that of another on the same resampled questions."""
    truth_R, error_R = np.concatenate(labels.advantages), np.concatenate(labels.errors)
    decided_R = np.abs(truth_R) > np.maximum(NEGLIGIBLE, 2.0 * error_R)
    task_R = [episode.task_id for episode in labels.episodes for _ in episode.rounds]
    _, question_R = np.unique(np.array(task_R)[decided_R], return_inverse=True)
    positive_R = truth_R[decided_R] > 0.0
    scores = [
        np.concatenate(StepLabels.from_verdicts(labels.episodes, judge, {}).labels)[decided_R]
        for judge in (one, other)
    ]
    members = [np.flatnonzero(question_R == q) for q in range(question_R.max() + 1)]
    rng = np.random.default_rng(0)
    draws = [
        np.concatenate([members[q] for q in rng.integers(len(members), size=len(members))])
        for _ in range(1000)
    ]
    gaps = [auc(scores[0][at], positive_R[at]) - auc(scores[1][at], positive_R[at]) for at in draws]
    return percentile_interval(auc(scores[0], positive_R) - auc(scores[1], positive_R), np.array(gaps))


def _labels(
    place: Path, corpus: dict[str, object], split: str, questions: int, error: float, continuations: int
) -> StepLabels:
    if (place / LABELS_FILE).exists():
        return StepLabels.load(place)
    started = time.process_time()
    request = LabelRequest(
        method="monte-carlo",
        agent="tiny",
        agent_options={"start": "forks"},
        env="SearchQA-Forks-v0",
        env_options={"corpus": corpus, "split": split},
        questions=questions,
        error=error,
        continuations=continuations,
    )
    labels = make_labels(request, place)
    labels.save(place)
    print(
        f"{place.name}: {labels.count} labels of {len(labels.episodes)} episodes in {time.process_time() - started:.0f} s",
        flush=True,
    )
    return labels


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())


if __name__ == "__main__":
    main()
