"""The training loop and what builds on it: recording, parts opened by name, evaluation, the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .api import resume as resume
    from .api import train as train
    from .trainer import Trainer as Trainer

_MODULES = {
    "Trainer": "trainer",
    "resume": "api",
    "train": "api",
}
__all__ = ["Trainer", "resume", "train"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
