"""The application of an OpenEnv server: `searchgym openenv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchgym.env import SearchEnv, registered_arguments

from .episode_log import EpisodeLog
from .peers import check_peer

check_peer("openenv")

from openenv.core.env_server.http_server import create_fastapi_app  # noqa: E402  # after the check of its version

from .openenv import Message, SearchState, Text  # noqa: E402
from .openenv_server import SearchEnvironment  # noqa: E402

__all__ = ["create_app"]


def create_app(
    env_id: str = "SearchQA-v0",
    arguments: Mapping[str, Any] | None = None,
    *,
    log: EpisodeLog | None = None,
    max_sessions: int = 256,
) -> Any:
    """The server's ASGI application.

    Args:
        env_id: a registered environment.
        arguments: of the environment, in place of the id's.
        log: where finished episodes are kept.
        max_sessions: websockets at a time; more are refused.

    Raises:
        ConfigError: an argument that cannot be used.
    """
    given = registered_arguments(env_id, dict(arguments or {}))
    SearchEnv(**given)  # opens the index, so that errors come now and sessions share it
    return create_fastapi_app(
        lambda: SearchEnvironment(given, log),
        Message,
        Text,
        max_concurrent_envs=max_sessions,
        env_name="searchgym",
        state_cls=SearchState,
    )
