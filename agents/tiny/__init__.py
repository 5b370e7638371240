"""The tiny language model: agent, model, tokenizer, warm start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .agent import TinyAgent as TinyAgent

_MODULES = {
    "TinyAgent": "agent",
}
__all__ = ["TinyAgent"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
