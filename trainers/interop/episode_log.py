"""Keeps the episodes that another project drives as an episode file, to be judged, audited and rescored here."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence

from searchgym.agent import Turn
from searchgym.env import SearchEnv
from searchgym.records.episode import RoundRecord, append_episode, check_writable
from searchgym.rollouts.recorder import EpisodeRecorder

__all__ = ["EpisodeLog"]


class EpisodeLog:
    """Appends each finished episode to a file, which can be read at any time.

    Args:
        path: the file; its folder is created, and episodes are added to what it holds.
        agent: name of who plays, for the records.

    Raises:
        EpisodeFileError: the file cannot be written there.
    """

    def __init__(self, path: str | os.PathLike[str], agent: str = "external") -> None:
        check_writable(path)
        self._path, self._agent = path, agent
        self._lock = threading.Lock()

    def watch(self, env: SearchEnv) -> None:
        """Keep the episodes of an environment from now on.

        Args:
            env: the environment; of an episode that was restored from a snapshot, nothing is kept.
        """

        def keep(rounds: Sequence[RoundRecord]) -> None:
            episode_id = f"{secrets.randbits(64):016x}"
            recorder = EpisodeRecorder(episode_id, episode_id, env.episode.question)
            for record in rounds:
                recorder.add(Turn(record.text), record)
            episode = recorder.finish(env.config, self._agent)
            with self._lock:
                append_episode(self._path, episode)

        env.on_episode = keep
