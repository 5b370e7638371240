"""What a run leaves when an iteration fails, e.g. over a number that is not finite, and how to examine it.

failed-000012/
  episodes.jsonl       the episodes of the failed minibatch, or all that were played if there was no minibatch yet
  policy/              the weights at that moment
  batch.safetensors    the minibatch token by token (advantages, weights, columns) and the algorithm's modules
  failure.json         what failed, and which segment each sample of the minibatch is
  checksums.json       of these files

failure = load_failure("runs/mine/failed-000012", policy)          # its weights are loaded into `policy`
loss = algorithm.loss(failure.batch, policy.evaluate_tokens(failure.batch.samples))
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from searchgym.agents.policy import Policy, Sample
from searchgym.errors import CheckpointError, TrainingError
from searchgym.files import check_files, read_json, write_checksums, write_text
from searchgym.records.episode import Episode, load_episodes, save_episodes

from ..core.batch import Batch

__all__ = ["ADVICE", "Failure", "NonFiniteError", "are_finite", "load_failure", "save_failure"]

ADVICE = "examine it with trainers.learner.failures.load_failure, or start again with a lower learning rate"
_BATCH, _COLUMN, _MODULE = "batch/", "column/", "module/"
_FORMER_NAMES = {"counted_N": "loss_mask_N", "weight_N": "loss_weight_N", "share_N": "mean_weight_N"}
"""Fields of `Batch` as files of earlier versions name them."""


class NonFiniteError(TrainingError):
    """A loss, gradient, weight or metric is not a finite number.

    Attributes:
        batch: the minibatch; None if there was none yet.
    """

    def __init__(self, message: str, batch: Batch | None = None) -> None:
        super().__init__(message)
        self.batch = batch


@dataclass(frozen=True, slots=True)
class Failure:
    """A saved failure.

    Attributes:
        message: the error.
        episodes: those of the minibatch, or all that were played.
        batch: the minibatch; None if the run stopped before there was one.
        modules: state dicts of the algorithm's own modules, by name.
    """

    message: str
    episodes: list[Episode]
    batch: Batch | None
    modules: dict[str, dict[str, Tensor]]


def save_failure(
    directory: Path,
    error: TrainingError,
    played: Iterable[Episode],
    policy: Policy,
    modules: Mapping[str, nn.Module],
) -> None:
    """Write what is needed to examine a failure.

    Args:
        directory: the directory to write; an existing one is replaced.
        error: the error; its batch is saved, if it has one.
        played: the iteration's episodes, saved if there is no batch.
        policy: its weights are saved.
        modules: the algorithm's extra modules.
    """
    batch = error.batch if isinstance(error, NonFiniteError) else None
    tensors: dict[str, Tensor] = {}
    places: list[tuple[int, int]] = []
    if batch is not None:
        of_batch = {id(sample.episode): sample.episode for sample in batch.samples}
        number = {key: i for i, key in enumerate(of_batch)}
        played = of_batch.values()
        places = [(number[id(s.episode)], _position(s)) for s in batch.samples]
        tensors = {_BATCH + n: getattr(batch, n) for n in _tensor_fields(batch)}
        tensors |= {_COLUMN + name: column for name, column in batch.columns.items()}
    for name, module in modules.items():
        tensors |= {f"{_MODULE}{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    temporary = directory.with_name(f".tmp-{directory.name}")
    for old in (temporary, directory):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_episodes(temporary / "episodes.jsonl", played)
        policy.save(temporary / "policy")
        save_file(
            {k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary / "batch.safetensors"
        )
        metadata = {"message": str(error), "samples": places}
        write_text(temporary / "failure.json", json.dumps(metadata, indent=1) + "\n", alone=True)
        write_checksums(temporary)
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_failure(directory: str | Path, policy: Policy | None = None) -> Failure:
    """Read what `save_failure` wrote.

    Args:
        directory: a directory `failed-…` of a run directory.
        policy: loads the weights of that moment; None: they are not loaded.

    Raises:
        CheckpointError: damaged, or the weights are of another architecture.
    """
    path = Path(directory)
    try:
        check_files(path)
        metadata = read_json(path / "failure.json")
        episodes = list(load_episodes(path / "episodes.jsonl"))
        tensors = load_file(path / "batch.safetensors")
        samples = [Sample(episodes[e], episodes[e].segments[s]) for e, s in metadata["samples"]]
        message = str(metadata["message"])
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} does not hold a complete failure of a training run ({error}): give the failed-… directory that the "
            "error message names"
        ) from error
    if policy is not None:
        policy.load_weights(path / "policy")
    fields = {_FORMER_NAMES.get(name, name): t for name, t in _under(tensors, _BATCH).items()}
    columns = _under(tensors, _COLUMN)
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _under(tensors, _MODULE).items():
        name, _, rest = key.partition("/")
        modules.setdefault(name, {})[rest] = tensor
    return Failure(message, episodes, Batch(samples, **fields, columns=columns) if fields else None, modules)


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers are finite; synchronizes with the device once."""
    return bool(torch.stack([t.detach().isfinite().all() for t in tensors]).all())


def _tensor_fields(batch: Batch) -> list[str]:
    return [name for name in batch.__dataclass_fields__ if isinstance(getattr(batch, name), Tensor)]


def _position(sample: Sample) -> int:
    return next(i for i, segment in enumerate(sample.episode.segments) if segment is sample.segment)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
