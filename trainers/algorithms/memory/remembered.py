"""The memory of a policy, for the methods of this folder."""

from __future__ import annotations

from typing import Any, TypeVar

from searchgym.agents.memory.agent import MemoryAgent
from searchgym.agents.policy import Policy
from searchgym.errors import ConfigError

__all__ = ["check_same_memory", "find_memory"]

M = TypeVar("M")


def find_memory(policy: Policy, kind: type[M]) -> M | None:
    """The memory of a policy; None if it has none, or another one.

    Args:
        policy: the policy.
        kind: the class of the memory.
    """
    memory: Any = policy.memory if isinstance(policy, MemoryAgent) else None
    return memory if isinstance(memory, kind) else None


def check_same_memory(policy: Policy, trained: Policy) -> None:
    """Refuse to collect with a second agent that has a memory of its own, which nobody would tell of the episodes.

    Args:
        policy: plays.
        trained: the policy that is trained.

    Raises:
        ConfigError: its memory is not the trained policy's.
    """
    if isinstance(policy, MemoryAgent) and policy.memory is not getattr(trained, "memory", None):
        raise ConfigError(
            "a second agent collects, and its memory would be another one than the trained policy's: set rollout_lag to 0"
        )
