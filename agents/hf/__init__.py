"""Chat models in the Hugging Face format: the agent, its chat encoding, LoRA, engines, the judge `local`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .agent import HFAgent as HFAgent

_MODULES = {
    "HFAgent": "agent",
}
__all__ = ["HFAgent"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
