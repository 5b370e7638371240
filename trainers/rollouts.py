"""Who plays an iteration's groups: this process, all processes, or workers; now, or while the last update runs.

`Algorithm.play` is what an algorithm's `collect` calls. As it stands it is `play_groups`: the policy plays everything
with one random generator. With `streams=episode` it is `SeededRollouts`: a seed is drawn for every group, and whoever gets
the order (task, size, seed) plays the same episodes. `PrefetchCollector` collects the next iteration in a thread.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.episode import load_episodes, save_episodes
from searchgym.errors import TrainingError
from searchgym.rollouts.collection import collect

from .groups import Group
from .processes import world

__all__ = [
    "Play",
    "PrefetchCollector",
    "RolloutRequest",
    "RunRequests",
    "SeededRollouts",
    "Workers",
    "check_same",
    "copy_weights",
    "load_groups",
    "run_requests",
    "save_groups",
]


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """A group to be played.

    Attributes:
        task_id: the question.
        size: how many episodes.
        seed: of everything random in it.
    """

    task_id: str
    size: int
    seed: int


class Play(Protocol):
    """Plays every task `group_size` times; one group each."""

    def __call__(
        self,
        policy: Policy,
        envs: SearchVectorEnv,
        task_ids: Sequence[str],
        group_size: int,
        rng: np.random.Generator,
    ) -> list[Group]: ...


RunRequests = Callable[[Policy, SearchVectorEnv, Sequence[RolloutRequest]], list[Group]]
"""Plays groups that are ordered; the groups come in the order of the requests."""


class Workers(Protocol):
    """`RunRequests` by other processes.

    Attributes:
        lost: how many of them died so far.
    """

    lost: int

    def __call__(
        self, policy: Policy, envs: SearchVectorEnv, requests: Sequence[RolloutRequest]
    ) -> list[Group]: ...


def run_requests(policy: Policy, envs: SearchVectorEnv, requests: Sequence[RolloutRequest]) -> list[Group]:
    """Play them here, all together."""
    if not requests:
        return []
    sources = [random.Random(request.seed) for request in requests]
    groups = [f"g{source.getrandbits(64):016x}" for source in sources]
    episodes = iter(
        collect(
            envs,
            policy,
            [request.task_id for request in requests for _ in range(request.size)],
            group_ids=[g for g, request in zip(groups, requests, strict=True) for _ in range(request.size)],
            seeds=[s.getrandbits(64) for s, o in zip(sources, requests, strict=True) for _ in range(o.size)],
        )
    )
    return [[next(episodes) for _ in range(request.size)] for request in requests]


class SeededRollouts:
    """A `Play` whose groups have seeds: the processes share them out, and each plays its own with `play`.

    Args:
        generator: draws the seeds; the same in all processes.
        play: plays the requests of this process.
    """

    def __init__(self, generator: np.random.Generator, play: RunRequests = run_requests) -> None:
        self._generator, self._play = generator, play

    def __call__(
        self,
        policy: Policy,
        envs: SearchVectorEnv,
        task_ids: Sequence[str],
        group_size: int,
        rng: np.random.Generator,
    ) -> list[Group]:
        requests = [
            RolloutRequest(task, group_size, int(self._generator.integers(2**63))) for task in task_ids
        ]
        return world().all_gather_ordered(self._play(policy, envs, world().shard(requests)))


class PrefetchCollector:
    """Collects in a thread with a copy of the policy, while the policy itself is updated.

    Args:
        rollout_policy: another agent of the policy's kind; gets its weights whenever a collection starts.
        collect: plays an iteration with the policy it is given.

    Attributes:
        running: whether it was started and not waited for.
    """

    def __init__(self, rollout_policy: Policy, collect: Callable[[Policy], list[Group]]) -> None:
        self._rollout_policy, self._collect = rollout_policy, collect
        self._thread: threading.Thread | None = None
        self._groups: list[Group] = []
        self._error: BaseException | None = None
        self.running = False

    def start(self, policy: Policy) -> None:
        """Begin to collect with the weights the policy has now."""
        copy_weights(policy, self._rollout_policy)
        self.running = True
        # A daemon: an interrupted run does not wait for episodes nobody will learn from.
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def wait(self) -> list[Group]:
        """The groups collected since `start`; raises what the thread raised."""
        assert self._thread is not None
        self._thread.join()
        self._thread, self.running = None, False
        if self._error is not None:
            raise self._error
        return self._groups

    def _run(self) -> None:
        try:
            self._groups = self._collect(self._rollout_policy)
        except BaseException as error:
            self._error = error


@torch.no_grad()
def copy_weights(policy: Policy, rollout_policy: Policy) -> None:
    """Make another agent of the same kind play as the policy does now."""
    full = world().full
    for source, target in zip(
        chain(policy.module.parameters(), policy.module.buffers()),
        chain(rollout_policy.module.parameters(), rollout_policy.module.buffers()),
        strict=True,
    ):
        target.copy_(full(source))
    settings: dict[str, Any] = {n: getattr(policy, n) for n in ("version", "temperature", "top_p", "greedy")}
    for name, value in settings.items():
        setattr(rollout_policy, name, value)


def check_same(groups: Sequence[Group]) -> None:
    """Hold the episodes of all processes together.

    Raises:
        TrainingError: they differ: an algorithm's `collect` played them without `self.play`.
    """
    if world().count == 1:
        return
    digest = hashlib.sha256()
    for episode in chain.from_iterable(groups):
        digest.update(repr((episode.episode_id, [segment.tokens for segment in episode.segments])).encode())
    if len(set(world().gather(digest.hexdigest()))) > 1:
        raise TrainingError(
            "the processes of this run hold different episodes: the trainer's collect() must play through self.play, "
            "which shares them out, and draw from nothing that differs between processes"
        )


def save_groups(path: Path, groups: Sequence[Group]) -> None:
    """Write groups of episodes as an episode file."""
    save_episodes(path, chain.from_iterable(groups))


def load_groups(path: Path) -> list[Group]:
    """Read what `save_groups` wrote; an empty group is not found again.

    Raises:
        EpisodeFileError: the file is damaged.
    """
    return [list(group) for _, group in groupby(load_episodes(path), key=lambda episode: episode.group_id)]
