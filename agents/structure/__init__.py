"""Search results in other forms than passages: the renderings, and the agent whose router chooses one of them per question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .agent import StructuredAgent as StructuredAgent
    from .agent import open_structured as open_structured

_MODULES = {"StructuredAgent": "agent", "open_structured": "agent"}
__all__ = ["StructuredAgent", "open_structured"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
