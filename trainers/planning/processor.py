"""What a run on the processor of this machine is estimated with: this process as it is, and a few layers that are tried."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from searchgym.agents.hf.lora import LoraOptions
from searchgym.agents.lm.free_memory import give_back_freed

from .estimate import Plan, Processor

__all__ = ["measure_processor"]

_STATUS = Path("/proc/self/status")
_LIBRARIES = 0.45e9  # bytes of Python, torch and transformers, where the system does not tell


def measure_processor(
    plan: Plan, config: Any, lora: LoraOptions | None, *, own_forward: bool, threads: int
) -> Processor:
    """Try the model and measure this process, which has opened all that a run opens except the weights.

    Args:
        plan: the run.
        config: transformers' configuration of its model.
        lora: the adapter that is trained; None: all weights.
        own_forward: whether passes go through the model's own forward (the option `attention`).
        threads: of torch; 0: its default.
    """
    trial = importlib.import_module(".trial", __package__)  # imports transformers' models
    frozen = gc.get_freeze_count()
    gc.freeze()  # garbage is looked for among what the trial makes, not among a million objects of libraries
    with _threads(threads):
        tried = trial.try_layers(plan, config, lora, own_forward=own_forward)
    gc.collect()
    give_back_freed()
    resident = _resident()
    if not frozen:  # what a caller froze stays frozen
        gc.unfreeze()
    return Processor(resident, tried)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _resident() -> float:
    """Bytes of memory of this process."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:  # not Linux
        return _LIBRARIES
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmRSS"))
