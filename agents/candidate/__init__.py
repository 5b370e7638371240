"""The candidate policy: a softmax over candidate acts, which learns in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .agent import CandidateAgent as CandidateAgent

_MODULES = {
    "CandidateAgent": "agent",
}
__all__ = ["CandidateAgent"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
