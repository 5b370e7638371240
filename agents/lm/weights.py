"""Check the tensors of a weights file against those a model expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from searchgym.errors import CheckpointError

__all__ = ["check_tensors"]


def check_tensors(
    path: Path, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    """Check names, shapes and values.

    Args:
        path: the file, for the message.
        expected: the model's tensors.
        found: the file's tensors.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape or not finite.
    """
    if found.keys() != expected.keys():
        different = sorted(found.keys() ^ expected.keys())
        raise CheckpointError(f"{path} holds another architecture: it differs in {', '.join(different[:4])}")
    for name, wanted in expected.items():
        tensor = found[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{path} holds another architecture: {name} is {list(tensor.shape)}, "
                f"this model's is {list(wanted.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path} is damaged: {name} holds values that are not finite")
