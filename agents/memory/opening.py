"""Opens a memory by name, and the agent `memory`, as a policy if its model can be trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import mapping
from searchgym.rollouts.collection import AgentLike, open_agent

from .agent import MemoryAgent
from .experience import Experience
from .protocol import Memory
from .reflections import Reflections
from .skills import SkillBank

if TYPE_CHECKING:
    from ..policy import Policy

__all__ = ["MEMORIES", "open_memory", "open_memory_agent"]

MEMORIES: dict[str, Callable[..., Memory]] = {
    kind.name: kind for kind in (Reflections, SkillBank, Experience)
}
"""The memories by name."""


def open_memory(memory: Any) -> Memory:
    """Open a memory; one that is open is returned as it is.

    Args:
        memory: a name, {"name": …, **options}, or a `Memory`.

    Raises:
        UnknownIdError: an unknown name.
        ConfigError: an option it does not take, or a value that cannot be used.
    """
    if isinstance(memory, Memory):
        return memory
    options: dict[str, Any] = {"name": memory} if isinstance(memory, str) else {}
    if isinstance(memory, Mapping):
        options = mapping("memory", memory)
    name = options.pop("name", None)
    if name not in MEMORIES:
        raise UnknownIdError("memory", name if isinstance(name, str) else memory, MEMORIES)
    try:
        return MEMORIES[name](**options)
    except TypeError as error:
        raise ConfigError(f"memory {name!r} does not take these options: {error}") from None


def open_memory_agent(agent: AgentLike, memory: Any, recall: str = "always") -> MemoryAgent:
    """The entry point `memory` of `searchgym.agents`.

    Args:
        agent: who plays: an agent, a registered name, or {"name": …, **options}.
        memory: "reflections", "skills" or "experience", {"name": …, **options}, or a `Memory`.
        recall: "always"; "training": not in evaluations; "never": not at all.

    Raises:
        ConfigError: a part or an option that cannot be used, or an agent that does not read texts.
    """
    opened, remembered = open_agent(agent), open_memory(memory)
    if hasattr(opened, "evaluate_tokens"):
        from .policy import MemoryPolicy  # needs torch, which a policy has loaded already

        return MemoryPolicy(cast("Policy", opened), remembered, recall)
    return MemoryAgent(opened, remembered, recall)
