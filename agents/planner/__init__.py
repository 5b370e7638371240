"""The planner agent: one part searches, another answers from what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .agent import PlannerAgent as PlannerAgent
    from .opening import open_planner as open_planner

_MODULES = {
    "PlannerAgent": "agent",
    "open_planner": "opening",
}
__all__ = ["PlannerAgent", "open_planner"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
