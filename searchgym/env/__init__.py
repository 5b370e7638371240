"""The environment: one round of search is one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .env import SearchEnv as SearchEnv
    from .session import EpisodeSession as EpisodeSession
    from .setup import make_env_config as make_env_config
    from .setup import registered_arguments as registered_arguments
    from .vector import SearchVectorEnv as SearchVectorEnv
    from .vector import make_vec as make_vec

_MODULES = {
    "EpisodeSession": "session",
    "SearchEnv": "env",
    "SearchVectorEnv": "vector",
    "make_env_config": "setup",
    "make_vec": "vector",
    "registered_arguments": "setup",
}
__all__ = [
    "EpisodeSession",
    "SearchEnv",
    "SearchVectorEnv",
    "make_env_config",
    "make_vec",
    "registered_arguments",
]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
