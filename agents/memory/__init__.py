"""Text that is carried from one episode to the next: the protocol, three memories, and the agent that shows them to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .agent import MemoryAgent as MemoryAgent
    from .opening import open_memory as open_memory
    from .opening import open_memory_agent as open_memory_agent
    from .protocol import Memory as Memory
    from .trials import Trials as Trials
    from .trials import run_trials as run_trials

_MODULES = {
    "Memory": "protocol",
    "MemoryAgent": "agent",
    "Trials": "trials",
    "open_memory": "opening",
    "open_memory_agent": "opening",
    "run_trials": "trials",
}
__all__ = ["Memory", "MemoryAgent", "Trials", "open_memory", "open_memory_agent", "run_trials"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
