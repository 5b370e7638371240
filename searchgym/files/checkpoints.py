"""Where a training run keeps the weights of its policy.

runs/mine                                   the run: its newest checkpoint
runs/mine/checkpoints/step-000050           one checkpoint
runs/mine/checkpoints/step-000050/policy    the weights, as the agent wrote them
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ..errors import CheckpointError

__all__ = ["policy_directory", "run_of", "step_of"]

_STEP = re.compile(r"step-(\d{6,})")


def run_of(path: str | os.PathLike[str]) -> Path | None:
    """The training run that a path belongs to: the run directory itself, or that of a checkpoint or its weights.

    Args:
        path: a directory; it need not exist.

    Returns:
        The run directory; None if the path does not belong to a run.
    """
    absolute = Path(os.path.abspath(path))
    policy = absolute.parent if absolute.name == "policy" else absolute
    candidates = [absolute, *([policy.parent.parent] if _STEP.fullmatch(policy.name) else [])]
    return next((folder for folder in candidates if _is_run(folder)), None)


def step_of(path: str | os.PathLike[str]) -> int | None:
    """The iteration whose checkpoint a path inside a run names; None for the run directory itself.

    Args:
        path: see `run_of`.
    """
    absolute = Path(os.path.abspath(path))
    match = _STEP.fullmatch(absolute.parent.name if absolute.name == "policy" else absolute.name)
    return int(match[1]) if match else None


def policy_directory(path: str | os.PathLike[str]) -> Path:
    """The directory of weights that a path stands for, so that an agent opens a run directory as it opens weights.

    Args:
        path: a run directory (its newest checkpoint), a checkpoint, or a directory of weights, returned as it is.

    Raises:
        CheckpointError: a run without a complete checkpoint.
    """
    run = run_of(path)
    if run is None:
        return Path(path)
    step = step_of(path)
    if step is None:
        folder = run / "checkpoints"
        steps = (
            [int(m[1]) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name))] if folder.is_dir() else []
        )
        if not steps:
            raise CheckpointError(
                f"run {str(path)!r} has no complete checkpoint yet: continue it with searchgym train --resume"
            )
        step = max(steps)
    return run / "checkpoints" / f"step-{step:06d}" / "policy"


def _is_run(folder: Path) -> bool:
    try:
        metadata = json.loads((folder / "config.json").read_bytes())
        return "trainer" in metadata["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
