"""Trains a step reward model on labels of rounds; an interrupted training continues with the epoch it was in.

    bce       mean over read-outs of −[y log σ(s) + (1 − y) log(1 − σ(s))]       y in [0, 1]: P(success), or a judge's score
    mse       mean over read-outs of (s − y)²
    wdpo      mean over read-outs, weighted by |2y − 1|, of −log σ(β m (s − s_ref)), m = sign(2y − 1): DPO between the verdicts
              "right" and "wrong", whose log-probabilities differ by s; s_ref: with the weights before training
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
from dataclasses import asdict, replace
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

from .backbones import Backbone
from .examples import Example, check_labels, draw_batches, examples
from .labels import StepLabels
from .model import CONFIG_FILE, Reading, RewardModel
from .scores import auc
from .settings import PRMSettings

__all__ = ["train_reward_model"]

_STATE_FILE = "training.state"  # a safetensors file that is no part of the model


def train_reward_model(
    labels: StepLabels,
    backbone: Backbone,
    out: Path,
    settings: PRMSettings | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> RewardModel:
    """Train a model and save it.

    Args:
        labels: what it learns.
        backbone: is trained as a whole, with the head.
        out: directory of the model; a training that was interrupted there continues.
        settings: how; None: the defaults.
        on_epoch: called with each epoch's figures.

    Raises:
        ConfigError: the labels do not suit the loss, `out` holds a model already, or another training was interrupted there.
        TrainingError: the loss is not finite.
    """
    settings = settings or PRMSettings()
    if (out / CONFIG_FILE).exists():
        raise ConfigError(f"{out} holds a step reward model already: give another --out")
    check_labels(labels, settings)
    model = RewardModel(backbone, settings.loss, labels.kind, settings.reference)
    questions = examples(model, labels, settings)
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
        self, model: RewardModel, settings: PRMSettings, train: Sequence[Example], held: Sequence[Example]
    ) -> None:
        self._model, self._settings, self._train, self._held = model, settings, train, held
        lr = model.backbone.lr if settings.lr is None else settings.lr
        self._parameters = dict(model.module.named_parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=lr, weight_decay=settings.weight_decay
        )
        self._best, self._lowest = self._weights(), math.inf
        self._start = self._weights()
        self._lr = lr

    def epoch(self, number: int) -> dict[str, float]:
        """One pass over the training questions, and one over the others."""
        rng = np.random.default_rng([self._settings.seed, 1, number])
        batches = draw_batches(self._train, self._settings.batch_tokens, rng)
        losses = []
        for i, batch in enumerate(batches):
            for group in self._optimizer.param_groups:
                group["lr"] = self._lr * _rate((number + i / len(batches)) / self._settings.epochs)
            loss, _ = self._pass([self._renamed(q, rng) for q in batch])
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

    def take_best(self) -> None:
        """Set the weights to those of the best epoch."""
        self._set(self._best)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        if not self._held:
            return {}
        losses, weights, scores, advantages = [], [], [], []
        for question in self._held:
            loss, outputs = self._pass([question])
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

    def _renamed(self, question: Example, rng: np.random.Generator) -> Example:
        new_V = self._model.backbone.renaming(rng) if self._settings.rename else None
        if new_V is None:
            return question
        readings = [Reading(tuple(new_V[list(r.tokens)].tolist()), r.ends) for r in question.readings]
        return replace(question, readings=readings)

    def _pass(self, batch: Sequence[Example]) -> tuple[Tensor, list[Tensor]]:
        """Loss and outputs."""
        readings = list(chain.from_iterable(question.readings for question in batch))
        reference = self._reference(readings) if self._settings.loss == "wdpo" else None
        outputs = self._model.outputs(readings, self._settings.batch_tokens)
        return self._loss(batch, torch.cat(outputs), reference), outputs

    @torch.no_grad()
    def _reference(self, readings: Sequence[Reading]) -> Tensor:
        """s with the weights before training."""
        now = self._weights()
        self._set(self._start)
        s_N = torch.cat(self._model.outputs(readings, self._settings.batch_tokens))
        self._set(now)
        return s_N

    def _loss(self, batch: Sequence[Example], s_N: Tensor, reference_N: Tensor | None) -> Tensor:
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
        if reference_N is not None:
            lean_N = 2.0 * y_N[known_N] - 1.0
            margin_N = self._settings.beta * lean_N.sign() * (s_N - reference_N)[known_N]
            weight_N = lean_N.abs()
            return -(weight_N * functional.logsigmoid(margin_N)).sum() / weight_N.sum().clamp_min(1e-6)
        return functional.binary_cross_entropy_with_logits(s_N[known_N], y_N[known_N])

    @torch.no_grad()
    def _set(self, weights: Mapping[str, Tensor]) -> None:
        for name, p in self._parameters.items():
            p.copy_(weights[name])

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._parameters.items()}


def _round_scores(model: RewardModel, outputs: Sequence[Tensor]) -> NDArray[np.float64]:
    """The score of every round, behind a 0 for the question, as the judge gives it up to a monotone map."""
    scores = []
    for s in outputs:
        level = model.level(s).double().cpu().numpy()
        scores.append(np.diff(level, prepend=level[0]) if model.changes else level)
    return np.concatenate(scores)


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
