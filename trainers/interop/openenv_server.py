"""A search environment as an OpenEnv server runs it: one session. Tested versions: `peers.PEERS`.

Sessions are websockets. OpenEnv's HTTP routes /reset and /step make a new environment for every request and cannot play an
episode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from searchgym.env import SearchEnv

from .episode_log import EpisodeLog
from .peers import check_peer

check_peer("openenv")

from openenv.core.env_server.interfaces import Environment  # noqa: E402  # after the check of its version

from .openenv import Message, SearchState, Text, shown  # noqa: E402

__all__ = ["SearchEnvironment"]


class SearchEnvironment(Environment[Message, Text, SearchState]):  # type: ignore[misc]  # the package need not be installed
    """One session. Reset arguments: `seed`, and `task_id`, or `split` with or without `index`.

    Args:
        arguments: of the environment.
        log: where finished episodes are kept.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, arguments: Mapping[str, Any] | None = None, log: EpisodeLog | None = None) -> None:
        super().__init__()
        self._env = SearchEnv(**(arguments or {}))
        self._episode_id: str | None = None
        self._task_id: str | None = None
        self._steps = 0
        # A local index answers sooner than a thread is started; whatever asks a server must not hold up other sessions.
        config = self._env.config
        self._waits = config.judge is not None or config.retriever.name in ("remote", "milvus", "hybrid")
        if log is not None:
            log.watch(self._env)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **given: Any) -> Text:
        options = dict(given)
        index = options.pop("index", None)
        if index is not None:
            options = {"task_id": self._id(options.pop("split", None), index), **options}
        text, info = self._env.reset(seed=seed, options=options)
        self._episode_id, self._steps, self._task_id = episode_id, 0, info["task_id"]
        return Text(text=text, info={**shown(info), "system_prompt": self._env.system_prompt})

    def step(self, action: Message, timeout_s: float | None = None, **_: Any) -> Text:
        text, reward, terminated, truncated, info = self._env.step(action.message)
        self._steps += 1
        done = terminated or truncated
        paid = reward if info.get("valid_for_training", True) else None
        return Text(
            text=text,
            reward=paid,
            done=done,
            truncated=truncated,
            info=shown(info) | {"task_id": self._task_id},
        )

    async def reset_async(self, seed: int | None = None, episode_id: str | None = None, **given: Any) -> Text:
        return self.reset(seed, episode_id, **given)

    async def step_async(self, action: Message, timeout_s: float | None = None, **_: Any) -> Text:
        return await asyncio.to_thread(self.step, action) if self._waits else self.step(action)

    @property
    def state(self) -> SearchState:
        snapshot = self._env.snapshot() if self._env.episode.running else None
        return SearchState(
            episode_id=self._episode_id, step_count=self._steps, task_id=self._task_id, snapshot=snapshot
        )

    def list_splits(self) -> list[str]:
        return list(self._env.corpus.splits)

    def num_tasks(self, split: str) -> int:
        return len(self._env.task_ids(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        self._id(split, index)
        return self.get_task_range(split, index, index + 1)[0]

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        return self.get_task_range(split)

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        return [
            {"id": q.id, "index": index, "question": q.text, "type": q.type, "hops": q.hops}
            for index, q in list(enumerate(self._env.config.tasks(split)))[start:stop]
        ]

    def _id(self, split: str | None, index: int) -> str:
        ids = self._env.task_ids(split)
        if not isinstance(index, int) or not 0 <= index < len(ids):
            raise IndexError(
                f"index is {index!r}: the split has {len(ids)} questions, give 0 to {len(ids) - 1}"
            )
        return ids[index]
