"""When a benchmark compares credit with the truth. This file does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..config import option

__all__ = ["AuditPlan", "Scope"]


@dataclass(frozen=True)
class AuditPlan:
    """The table `[audit]` of a benchmark.

    Attributes:
        at: iterations whose credit is compared with the true advantages.
    """

    at: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "iterations whose credit is compared with the truth"}
    )
    every: int = option(1, "iterations between two computations of the true EM", low=1)
    questions: int = option(10, "questions of the true EM", low=1)


@dataclass(frozen=True)
class Scope:
    """What a run is measured on.

    Attributes:
        env: id of the environment.
        env_options: its arguments, those of single rows left out.
        split: the questions of the true EM: dev while rates are selected, test in the runs that count.
    """

    env: str
    env_options: dict[str, Any]
    split: str
