"""A step reward model of the tiny LM's size on Monte Carlo labels: AUC against the true sign of the advantage, beside the judge `rules`.

python tests/benchmarks/bench_prm.py [--out DIR] [--questions 1250] [--test-questions 100] [--family all]

The tiny LM (start=forks) plays four episodes of each question of `SearchQA-Forks-v0`. Training labels are the mean return of 8
continuations of each state, which share random numbers; test labels, of questions of another split, have a standard error of 0.05.
Labels are kept in DIR, so that another model can be trained on them. The last lines are AUC on the test questions with 95 %
intervals over questions; rounds whose advantage is within two standard errors of 0 decide nothing and are left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from searchgym.judges import open_judge
from searchgym.specs import open_corpus
from searchgym.trainers.prm.auditing import audit_judges
from searchgym.trainers.prm.backbones import open_backbone
from searchgym.trainers.prm.labelling import LabelRequest, make_labels
from searchgym.trainers.prm.labels import LABELS_FILE, StepLabels
from searchgym.trainers.prm.training import PRMSettings, train_reward_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/bench-prm"))
    parser.add_argument("--questions", type=int, default=1250)
    parser.add_argument("--test-questions", type=int, default=100)
    parser.add_argument("--family", default="all")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--model", default="model", help="name of the model's directory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = {"name": "forks", "family": options.family, "train": 2000, "dev": 200, "test": 200}
    train = _labels(options.out / "train", corpus, "train", options.questions, 0.25, 8)
    test = _labels(options.out / "test", corpus, "test", options.test_questions, 0.05, 200)
    started = time.process_time()
    settings = PRMSettings(epochs=options.epochs, lr=options.lr, batch_tokens=options.batch_tokens)
    place = options.out / options.model
    backbone = open_backbone("tiny", {"start": "forks"})
    train_reward_model(train, backbone, place, settings, lambda row: print(_in_words(row), flush=True))
    print(f"trained on {train.count} labels in {time.process_time() - started:.0f} s")
    opened = open_corpus(corpus)
    specs = {
        "prm": {"name": "prm", "model": str(place)},
        "rules": "rules",
        "oracle": "oracle",
        "fidelity": "fidelity",
    }
    started = time.process_time()
    judges = {name: open_judge(spec, opened) for name, spec in specs.items()}
    for row in audit_judges(test, judges):
        print(
            f"{row.judge:9} AUC {row.auc}, rank correlation {row.spearman:.3f}, {row.rounds} rounds, {row.positive:.1%} positive"
        )


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
        f"{split}: {labels.count} labels of {len(labels.episodes)} episodes in {time.process_time() - started:.0f} s"
    )
    return labels


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())


if __name__ == "__main__":
    main()
