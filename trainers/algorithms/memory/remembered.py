"""The memory of a policy, for the methods of this folder."""

from __future__ import annotations

from typing import Any, TypeVar

from searchgym.agents.memory.agent import MemoryAgent
from searchgym.agents.policy import Policy

__all__ = ["find_memory"]

M = TypeVar("M")


def find_memory(policy: Policy, kind: type[M]) -> M | None:
    """The memory of a policy; None if it has none, or another one.

    Args:
        policy: the policy.
        kind: the class of the memory.
    """
    memory: Any = policy.memory if isinstance(policy, MemoryAgent) else None
    return memory if isinstance(memory, kind) else None
