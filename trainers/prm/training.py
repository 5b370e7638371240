"""Trains a step reward model on labels of rounds; an interrupted training continues with the epoch it was in.

    bce       mean over read-outs of −[y log σ(s) + (1 − y) log(1 − σ(s))]       y in [0, 1]: P(success), or a judge's score
    mse       mean over read-outs of (s − y)²
    pairwise  mean over pairs of −log σ(s_better − s_worse) + centring · (s_better + s_worse)²     (Bradley-Terry)

The questions are divided at random into those that are trained on and `validation` of them that are not; the weights of the
epoch with the lowest validation loss are kept. In every epoch the names of a question are exchanged at random for others of their
kind, as in the warm start (`rename`, backbone tiny): a small model memorises names, and fails on questions with others. All episodes of a question are in one batch, where their common beginnings are
computed once. The centring term is RAG-Gym's (arXiv 2502.13957, coefficient 0.01).

After every epoch `training.state` in the output directory is replaced; it holds the weights, the best weights and the
optimizer. It is removed when prm.json is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn import functional

from searchgym.errors import CheckpointError, ConfigError, TrainingError
from searchgym.files import arrays_check, json_digest, open_regular, write_bytes
from searchgym.options import boolean, choice, integer, number

from ..credit_audit.scores import NEGLIGIBLE
from .backbones import Backbone
from .labels import Place, StepLabels
from .model import CONFIG_FILE, Loss, Reading, RewardModel
from .scores import auc

__all__ = ["PRMSettings", "train_reward_model"]

_STATE_FILE = "training.state"  # a safetensors file that is no part of the model
_LOSSES = ("bce", "mse", "pairwise")


@dataclass(frozen=True, slots=True)
class PRMSettings:
    """How a step reward model is trained.

    Attributes:
        loss: "bce", "mse" or "pairwise".
        epochs: passes over the labels.
        lr: peak of the learning rate (AdamW, linear rise in the first 5 % of the steps, then a cosine to 5 %); None: what
            suits the backbone.
        batch_tokens: tokens per optimizer step.
        weight_decay: of AdamW.
        validation: share of the questions that are not trained on.
        margin: labels that differ by less are not compared (pairwise).
        centring: weight of the centring term (pairwise).
        rename: exchange the names of each question in every epoch, where the backbone knows which tokens are names.
        seed: of the division and of the batches.

    Raises:
        ConfigError: a value that cannot be used.
    """

    loss: Loss = "bce"
    epochs: int = 8
    lr: float | None = None
    batch_tokens: int = 4096
    weight_decay: float = 0.01
    validation: float = 0.1
    margin: float = 0.1
    centring: float = 0.01
    rename: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        choice("loss", self.loss, _LOSSES)
        integer("epochs", self.epochs, 1)
        integer("batch_tokens", self.batch_tokens, 1)
        for name in ("weight_decay", "margin", "centring"):
            number(name, getattr(self, name), 0.0)
        number("validation", self.validation, 0.0, 0.9)
        boolean("rename", self.rename)
        if self.lr is not None:
            number("lr", self.lr, 0.0)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is learned from one question.

    Attributes:
        readings: of its episodes.
        targets: y at each read-out, NaN where there is none (bce, mse).
        pairs: the better and the worse read-out, as positions in the concatenated read-outs (pairwise).
        advantages: true advantage at each read-out, NaN where it is unknown or not decided.
    """

    readings: list[Reading]
    targets: NDArray[np.float64]
    pairs: NDArray[np.int64]
    advantages: NDArray[np.float64]


def train_reward_model(
    labels: StepLabels,
    backbone: Backbone,
    out: Path,
    settings: PRMSettings = PRMSettings(),
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> RewardModel:
    """Train a model and save it.

    Args:
        labels: what it learns.
        backbone: is trained as a whole, with the head.
        out: directory of the model; a training that was interrupted there continues.
        settings: how.
        on_epoch: called with each epoch's figures.

    Raises:
        ConfigError: the labels do not suit the loss, `out` holds a model already, or another training was interrupted there.
        TrainingError: the loss is not finite.
    """
    if (out / CONFIG_FILE).exists():
        raise ConfigError(f"{out} holds a step reward model already: give another --out")
    _check_labels(labels, settings)
    model = RewardModel(backbone, settings.loss, labels.kind)
    questions = _questions(model, labels, settings)
    made_with = {
        "labels": labels.digest,
        "settings": asdict(settings),
        "backbone": [backbone.kind, backbone.tokenizer_digest, _weights_digest(model)],
    }
    order = np.random.default_rng([settings.seed, 0]).permutation(len(questions))
    if not questions:
        raise ConfigError(
            f"no labelled round fits into the {backbone.network.positions} tokens of the model: take a backbone with a longer context"
        )
    held = min(round(settings.validation * len(questions)), len(questions) - 1)
    training = _Training(
        model, settings, [questions[i] for i in order[held:]], [questions[i] for i in order[:held]]
    )
    out.mkdir(parents=True, exist_ok=True)
    state = out / _STATE_FILE
    rows = training.restore(state, made_with) if state.exists() else []
    for epoch in range(len(rows), settings.epochs):
        rows.append(training.epoch(epoch))
        training.save(state, made_with, rows)
        on_epoch(rows[-1])
    training.take_best()
    model.notes = {"made_with": dict(labels.made_with), "settings": asdict(settings), "epochs": rows}
    model.save(out, without=[_STATE_FILE])
    state.unlink()
    return model


class _Training:
    """The loop over epochs, and its state."""

    def __init__(
        self, model: RewardModel, settings: PRMSettings, train: Sequence[_Question], held: Sequence[_Question]
    ) -> None:
        self._model, self._settings, self._train, self._held = model, settings, train, held
        lr = model.backbone.lr if settings.lr is None else settings.lr
        self._parameters = dict(model.module.named_parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=lr, weight_decay=settings.weight_decay
        )
        self._best, self._lowest = self._weights(), math.inf
        self._lr = lr

    def epoch(self, number: int) -> dict[str, float]:
        """One pass over the training questions, and one over the others."""
        rng = np.random.default_rng([self._settings.seed, 1, number])
        batches = _batches(self._train, self._settings.batch_tokens, rng)
        losses = []
        for i, batch in enumerate(batches):
            for group in self._optimizer.param_groups:
                group["lr"] = self._lr * _rate((number + i / len(batches)) / self._settings.epochs)
            loss = self._loss(batch, self._outputs([self._renamed(q, rng) for q in batch]))
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of epoch {number + 1} is {loss.item()}: lower lr (it is {self._lr:g})"
                )
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
            self._optimizer.step()
            losses.append(loss.item())
        row = {"epoch": number + 1, "loss": float(np.mean(losses)), **self._validate()}
        if (
            row.get("validation_loss", -math.inf) < self._lowest
        ):  # without validation the last epoch is the best
            self._lowest, self._best = row.get("validation_loss", math.inf), self._weights()
        return row

    def save(self, path: Path, made_with: dict[str, Any], rows: Sequence[dict[str, float]]) -> None:
        """Write all state into one file."""
        tensors = {f"weights.{name}": p.detach() for name, p in self._parameters.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for name, p in self._parameters.items():
            for key, value in self._optimizer.state[p].items():
                tensors[f"{key}.{name}"] = value
        tensors = {name: tensor.contiguous().cpu().clone() for name, tensor in tensors.items()}
        metadata = {
            "made_with": json_digest(made_with),
            "rows": json.dumps(rows),
            "lowest": repr(self._lowest),
        }
        metadata["check"] = arrays_check(metadata, _raw(tensors))
        write_bytes(path, save_tensors(tensors, metadata))

    def restore(self, path: Path, made_with: dict[str, Any]) -> list[dict[str, float]]:
        """Continue from a file that `save` wrote; returns the figures of the epochs so far."""
        try:
            open_regular(path).close()  # a pipe would block
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            check = metadata.pop("check")
            if check != arrays_check(metadata, _raw(tensors)):
                raise ValueError("its checksum differs")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}): remove it to train from the beginning"
            ) from error
        if metadata["made_with"] != json_digest(made_with):
            raise ConfigError(
                f"{path} is of a training with other labels, settings or weights: give another --out, or remove the file"
            )
        with torch.no_grad():
            for name, p in self._parameters.items():
                p.copy_(tensors[f"weights.{name}"])
                self._best[name] = tensors[f"best.{name}"].to(p.device)
                if f"step.{name}" in tensors:  # weights that the head does not depend on have no gradients
                    self._optimizer.state[p] = {
                        key: tensors[f"{key}.{name}"].to(p.device if key != "step" else "cpu")
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        self._lowest = float(metadata["lowest"])
        rows: list[dict[str, float]] = json.loads(metadata["rows"])
        return rows

    @torch.no_grad()
    def take_best(self) -> None:
        """Set the weights to those of the best epoch."""
        for name, p in self._parameters.items():
            p.copy_(self._best[name])

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        if not self._held:
            return {}
        losses, weights, scores, advantages = [], [], [], []
        for question in self._held:
            outputs = self._outputs([question])
            loss = self._loss([question], outputs)
            count = (
                len(question.pairs)
                if self._settings.loss == "pairwise"
                else np.isfinite(question.targets).sum()
            )
            if count:
                losses.append(loss.item())
                weights.append(count)
            scores.append(_round_scores(self._model, outputs))
            advantages.append(question.advantages)
        row = {"validation_loss": float(np.average(losses, weights=weights))} if losses else {}
        advantage_N = np.concatenate(advantages)
        known = np.isfinite(advantage_N)
        found = auc(np.concatenate(scores)[known], advantage_N[known] > 0.0)
        return row if math.isnan(found) else {**row, "validation_auc": found}

    def _renamed(self, question: _Question, rng: np.random.Generator) -> _Question:
        new_V = self._model.backbone.renaming(rng) if self._settings.rename else None
        if new_V is None:
            return question
        readings = [Reading(tuple(new_V[list(r.tokens)].tolist()), r.ends) for r in question.readings]
        return replace(question, readings=readings)

    def _outputs(self, batch: Sequence[_Question]) -> list[Tensor]:
        readings = list(chain.from_iterable(question.readings for question in batch))
        return self._model.outputs(readings, self._settings.batch_tokens)

    def _loss(self, batch: Sequence[_Question], outputs: Sequence[Tensor]) -> Tensor:
        s_N = torch.cat(list(outputs))
        if self._settings.loss == "pairwise":
            ends = np.cumsum([0, *(sum(len(r.ends) for r in q.readings) for q in batch)])
            pairs_P2 = torch.from_numpy(
                np.concatenate([q.pairs + e for q, e in zip(batch, ends, strict=False)])
            )
            better_P, worse_P = s_N[pairs_P2[:, 0].to(s_N.device)], s_N[pairs_P2[:, 1].to(s_N.device)]
            ranked = -functional.logsigmoid(better_P - worse_P).mean()
            return ranked + self._settings.centring * (better_P + worse_P).square().mean()
        y_N = torch.from_numpy(np.concatenate([q.targets for q in batch])).float().to(s_N.device)
        known_N = torch.isfinite(y_N)
        if self._settings.loss == "mse":
            return functional.mse_loss(s_N[known_N], y_N[known_N])
        return functional.binary_cross_entropy_with_logits(s_N[known_N], y_N[known_N])

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._parameters.items()}


def _check_labels(labels: StepLabels, settings: PRMSettings) -> None:
    """Refuse labels that a loss cannot learn.

    Raises:
        ConfigError: says which loss can.
    """
    if labels.count == 0:
        raise ConfigError("the labels are empty: no round has a label")
    if settings.loss == "pairwise":
        if not labels.comparisons(settings.margin):
            raise ConfigError(
                f"no two acts in one state have labels that differ by {settings.margin:g} or more: label more episodes of each "
                "question (--group-size), or lower margin"
            )
    elif labels.kind == "preferences":
        raise ConfigError(f"preferences have no numbers, which loss={settings.loss} needs: use loss=pairwise")
    elif settings.loss == "bce":
        flat = np.concatenate(labels.labels)
        low, high = float(np.nanmin(flat)), float(np.nanmax(flat))
        if low < -1e-6 or high > 1.0 + 1e-6:
            raise ConfigError(
                f"the labels lie in [{low:g}, {high:g}], and loss=bce learns probabilities: use loss=mse, or label episodes "
                "whose reward is 0 or 1"
            )


def _questions(model: RewardModel, labels: StepLabels, settings: PRMSettings) -> list[_Question]:
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
        readings = [model.read(labels.episodes[e].question, labels.episodes[e].rounds) for e in numbers]
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
        found.append(_Question(readings, np.concatenate(targets), pairs_P2, np.concatenate(advantages)))
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


def _round_scores(model: RewardModel, outputs: Sequence[Tensor]) -> NDArray[np.float64]:
    """The score of every round, behind a 0 for the question, as the judge gives it up to a monotone map."""
    scores = []
    for s in outputs:
        level = (s.sigmoid() if model.loss == "bce" else s).double().cpu().numpy()
        scores.append(np.diff(level, prepend=level[0]) if model.changes else level)
    return np.concatenate(scores)


def _batches(
    questions: Sequence[_Question], batch_tokens: int, rng: np.random.Generator
) -> list[list[_Question]]:
    """The questions in random order, in batches of at most that many tokens, or of one question."""
    batches: list[list[_Question]] = []
    spent = 0
    for i in rng.permutation(len(questions)):
        tokens = sum(len(reading.tokens) for reading in questions[i].readings)
        if not batches or spent + tokens > batch_tokens:
            batches.append([])
            spent = 0
        batches[-1].append(questions[i])
        spent += tokens
    return batches


def _rate(progress: float, rise: float = 0.05, final: float = 0.05) -> float:
    """Learning rate relative to its peak after this share of the training."""
    if progress < rise:
        return (progress + 1e-3) / (rise + 1e-3)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * (progress - rise) / (1.0 - rise)))


def _raw(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The bytes of tensors of any type, by name."""
    return {name: tensor.reshape(-1).view(torch.uint8).numpy() for name, tensor in tensors.items()}


def _weights_digest(model: RewardModel) -> str:
    parts = [(name, float(p.detach().double().sum())) for name, p in model.module.named_parameters()]
    return json_digest(parts)
