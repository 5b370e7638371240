"""The memory of a policy, for the methods of this folder."""

from __future__ import annotations

from typing import TypeVar

from searchgym.agents.memory.agent import MemoryAgent
from searchgym.agents.memory.protocol import Memory
from searchgym.agents.policy import Policy
from searchgym.errors import ConfigError

__all__ = ["find_memory", "memory_of"]

M = TypeVar("M", bound=Memory)


def find_memory(policy: Policy, kind: type[M]) -> M | None:
    """The memory of a policy; None if it has none, or another one.

    Args:
        policy: the policy.
        kind: the class of the memory.
    """
    if isinstance(policy, MemoryAgent) and isinstance(policy.memory, kind):
        return policy.memory
    return None


def memory_of(policy: Policy, kind: type[M], trainer: str, expected: M | None = None) -> M:
    """The memory of a policy.

    Args:
        policy: the policy.
        kind: the class of the memory.
        trainer: whose name errors mention.
        expected: the memory that it must be, if it is known.

    Raises:
        ConfigError: the policy has none, or another one.
    """
    found = find_memory(policy, kind)
    if found is None:
        raise ConfigError(
            f"{trainer} needs an agent with the memory {kind.name!r}, and {policy.name!r} has none: use --agent memory "  # type: ignore[attr-defined]
            f"--agent-option agent=NAME --agent-option memory={kind.name}"  # type: ignore[attr-defined]
        )
    if expected is not None and found is not expected:
        raise ConfigError(
            f"{trainer} cannot collect with a second agent, whose memory would be another one: set rollout_lag to 0"
        )
    return found
