"""Optimizers by name, from torch and bitsandbytes, and learning rate schedules."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from searchgym.errors import ConfigError, MissingExtraError, did_you_mean

from ..config import Schedule

__all__ = ["OPTIMIZERS", "check_optimizer", "lr_factor", "make_optimizer"]

OPTIMIZERS: Mapping[str, tuple[str, str]] = {
    "adamw": ("torch.optim", "AdamW"),
    "adam": ("torch.optim", "Adam"),
    "nadam": ("torch.optim", "NAdam"),
    "radam": ("torch.optim", "RAdam"),
    "adagrad": ("torch.optim", "Adagrad"),
    "rmsprop": ("torch.optim", "RMSprop"),
    "sgd": ("torch.optim", "SGD"),
    "adafactor": ("torch.optim", "Adafactor"),
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "paged-adamw8bit": ("bitsandbytes.optim", "PagedAdamW8bit"),
    "paged-adamw32bit": ("bitsandbytes.optim", "PagedAdamW32bit"),
    "lion8bit": ("bitsandbytes.optim", "Lion8bit"),
}
"""Module and class of each optimizer. Not supported: those that need a closure (L-BFGS), sparse gradients or 2-D weights
only (Muon)."""

_FUSED = (
    "adamw",
    "adam",
    "sgd",
)  # have a fused kernel on CPUs and CUDA devices, the fastest of torch's three
_OURS = {"lr": "lr", "weight_decay": "weight_decay"}  # options of their own


def check_optimizer(name: str, options: Mapping[str, Any]) -> type[torch.optim.Optimizer]:
    """The class of an optimizer, after checking the options; it is not instantiated.

    Args:
        name: of `OPTIMIZERS`.
        options: arguments of its constructor other than parameters, learning rate and weight decay.

    Raises:
        ConfigError: an unknown optimizer or an unknown option.
        MissingExtraError: its package is not installed.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"unknown optimizer {name!r}.{did_you_mean(name, OPTIMIZERS)} Known: {', '.join(OPTIMIZERS)}."
        )
    module, attribute = OPTIMIZERS[name]
    try:
        kind: type[torch.optim.Optimizer] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"optimizer {name!r}", module.partition(".")[0], "8bit") from error
    known = list(inspect.signature(kind).parameters)[1:]
    for option in options:
        if option in _OURS:
            raise ConfigError(
                f"optimizer option {option!r} is a training option: give --{_OURS[option].replace('_', '-')}"
            )
        if option not in known:
            known = sorted({*known} - {*_OURS})
            raise ConfigError(
                f"optimizer {name!r} has no option {option!r}.{did_you_mean(option, known)} Known: {', '.join(known)}."
            )
    return kind


def make_optimizer(
    name: str,
    options: Mapping[str, Any],
    groups: Sequence[dict[str, Any]],
    lr: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Build an optimizer.

    Args:
        name: see `check_optimizer`.
        options: see there.
        groups: parameter groups, each with its own "lr".
        lr: learning rate of groups without one.
        weight_decay: of all groups.

    Raises:
        ConfigError: the optimizer refuses the value of an option.
    """
    kind: Any = _without_compiler(check_optimizer(name, options))
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    parameters = [p for group in groups for p in group["params"]]
    # The fused kernels take floating-point weights only.
    if name in _FUSED and not {"fused", "foreach"} & arguments.keys():
        arguments["fused"] = all(
            p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for p in parameters
        )
    try:
        optimizer: torch.optim.Optimizer = kind(list(groups), lr=lr, weight_decay=weight_decay, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer {name!r} refuses its options {dict(options)!r}: {error}") from error
    return optimizer


def _without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimizer without the import of `torch._dynamo`, which takes longer than a small run.

    torch marks the methods of its optimizers for its compiler, and the marks import the compiler at the first call. Nothing
    here is compiled, so the functions under the marks are the same.
    """
    if not kind.__module__.startswith("torch.optim"):
        return kind
    marked = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in marked}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def lr_factor(
    schedule: Schedule, iteration: int, iterations: int, warmup: int = 0, floor: float = 0.0
) -> float:
    """The factor on the learning rate in an iteration; all optimizer steps of an iteration have the same.

    With s = iteration − 1 and W = warmup: (s + 1) / (W + 1) while s < W; after that, with x = (s − W) / (iterations − W),
    1 (constant), floor + (1 − floor) (1 − x) (linear) or floor + (1 − floor) (1 + cos πx) / 2 (cosine). As in
    transformers the last iteration still learns: x reaches 1 after it.

    Args:
        schedule: "constant", "linear" or "cosine".
        iteration: from 1.
        iterations: number of iterations of the run.
        warmup: iterations with a smaller learning rate at the start.
        floor: where the schedule ends.
    """
    step = max(iteration - 1, 0)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    x = min((step - warmup) / max(iterations - warmup, 1), 1.0)
    shape = 1.0 - x if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * x))
    return floor + (1.0 - floor) * shape
