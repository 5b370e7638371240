"""How an iteration's groups are played: in this process, in all processes or by workers; now, or during an update.

An algorithm's `collect` plays through `TrainContext.play`: a call plays groups, `branch` continues recorded episodes.
With `streams=run` that is `play_groups`: the policy plays everything with one random generator. With `streams=episode` it
is `SeededRollouts`, which draws a seed for every group: a request (task or start, size, seed) gives the same episodes in
every process. `PrefetchCollector` collects the next iteration
in a thread while the current one is learned from.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from searchgym.agent import Agent
from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, TrainingError
from searchgym.records.episode import Episode, load_episodes, save_episodes
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import Start

from ..processes import world
from .groups import Group

__all__ = [
    "LocalRollouts",
    "Play",
    "PrefetchCollector",
    "RolloutRequest",
    "RunRequests",
    "SeededRollouts",
    "Workers",
    "check_can_branch",
    "check_can_write",
    "check_same",
    "copy_weights",
    "load_groups",
    "play_groups",
    "run_requests",
    "save_groups",
]


Collected = TypeVar("Collected")


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """A group to play, or branches of an episode.

    Attributes:
        task_id: the question.
        size: number of episodes.
        seed: seeds all randomness of these episodes.
        start: where they begin, if they continue an episode; they are then in its group.
    """

    task_id: str
    size: int
    seed: int
    start: Start | None = None


class Play(Protocol):
    """Plays an iteration's episodes, here or elsewhere."""

    def __call__(
        self,
        policy: Policy,
        envs: SearchVectorEnv,
        task_ids: Sequence[str],
        group_size: int,
        rng: np.random.Generator,
        rounds: int | None = None,
    ) -> list[Group]:
        """Play every task `group_size` times; returns one group per task.

        With `rounds`, at most this many rounds of each episode are played; see `Start`.
        """

    def branch(
        self, policy: Policy, envs: SearchVectorEnv, starts: Sequence[Start], rng: np.random.Generator
    ) -> list[Episode]:
        """Continue recorded episodes.

        Args:
            policy: plays.
            envs: the environments; the episodes were played in them.
            starts: where each branch begins, e.g. `Start(parent.task_id, prefix=parent, fork_round=2)`. Equal starts
                that follow each other compute their shared context once.
            rng: draws episode ids.

        Returns:
            One episode per start, in its parent's group and tree.
        """


RunRequests = Callable[[Policy, SearchVectorEnv, Sequence[RolloutRequest]], list[Group]]
"""Plays requested groups; returns them in the order of the requests."""


class Workers(Protocol):
    """`RunRequests` in other processes.

    Attributes:
        lost: number of workers that have died so far.
    """

    lost: int

    def __call__(
        self, policy: Policy, envs: SearchVectorEnv, requests: Sequence[RolloutRequest]
    ) -> list[Group]: ...


class LocalRollouts:
    """A `Play` in this process, in which the policy samples everything from its own generator."""

    def __call__(
        self,
        policy: Policy,
        envs: SearchVectorEnv,
        task_ids: Sequence[str],
        group_size: int,
        rng: np.random.Generator,
        rounds: int | None = None,
    ) -> list[Group]:
        """See `Play`.

        Args:
            policy: plays.
            envs: the environments.
            task_ids: the questions.
            group_size: episodes per question.
            rng: draws group and episode ids.
            rounds: rounds of each episode at most; None: to its end.

        Returns:
            One group per task, each with a newly drawn group id.
        """
        group_ids = [f"g{rng.integers(2**63):016x}" for _ in task_ids]
        episodes = collect(
            envs,
            policy,
            starts=[Start(task, rounds=rounds) for task in task_ids for _ in range(group_size)],
            group_ids=[group for group in group_ids for _ in range(group_size)],
            ids=random.Random(int(rng.integers(2**63))),
        )
        return [episodes[i : i + group_size] for i in range(0, len(episodes), group_size)]

    def branch(
        self, policy: Policy, envs: SearchVectorEnv, starts: Sequence[Start], rng: np.random.Generator
    ) -> list[Episode]:
        """See `Play`."""
        _check_prefixes(starts)
        return collect(envs, policy, starts=starts, ids=random.Random(int(rng.integers(2**63))))


play_groups = LocalRollouts()


def run_requests(policy: Policy, envs: SearchVectorEnv, requests: Sequence[RolloutRequest]) -> list[Group]:
    """Play requested groups in this process, all together. A request's episodes are independent of the other requests."""
    if not requests:
        return []
    sources = [random.Random(request.seed) for request in requests]
    groups = [f"g{source.getrandbits(64):016x}" for source in sources]
    played: Sequence[Episode] = collect(
        envs,
        policy,
        starts=[request.start or Start(request.task_id) for request in requests for _ in range(request.size)],
        group_ids=[
            group if request.start is None or request.start.prefix is None else request.start.prefix.group_id
            for group, request in zip(groups, requests, strict=True)
            for _ in range(request.size)
        ],
        seeds=[
            s.getrandbits(64)
            for s, request in zip(sources, requests, strict=True)
            for _ in range(request.size)
        ],
    )
    episodes = iter(played)
    return [[next(episodes) for _ in range(request.size)] for request in requests]


class SeededRollouts:
    """A `Play` whose groups have seeds, so that the processes of a run can divide them.

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
        rounds: int | None = None,
    ) -> list[Group]:
        requests = [
            RolloutRequest(
                task,
                group_size,
                int(self._generator.integers(2**63)),
                None if rounds is None else Start(task, rounds=rounds),
            )
            for task in task_ids
        ]
        return self._share_out(policy, envs, requests)

    def branch(
        self, policy: Policy, envs: SearchVectorEnv, starts: Sequence[Start], rng: np.random.Generator
    ) -> list[Episode]:
        """See `Play`."""
        _check_prefixes(starts)
        requests = []
        for _, equal in groupby(starts, key=lambda start: (id(start.prefix), start.fork_round, start.rounds)):
            first, *others = equal
            seed = int(self._generator.integers(2**63))
            requests.append(RolloutRequest(first.task_id, 1 + len(others), seed, first))
        return list(chain.from_iterable(self._share_out(policy, envs, requests)))

    def _share_out(
        self, policy: Policy, envs: SearchVectorEnv, requests: Sequence[RolloutRequest]
    ) -> list[Group]:
        return world().all_gather_ordered(self._play(policy, envs, world().shard(requests)))


def check_can_branch(policy: Policy) -> None:
    """Refuse a policy whose episodes cannot be continued from a recorded round, before anything is played.

    Raises:
        ConfigError: it cannot resume or fork.
    """
    for method in ("resume", "fork"):
        if getattr(type(policy), method) is getattr(Agent, method):
            raise ConfigError(
                f"agent {policy.name!r} has no {method}(), and this trainer continues recorded episodes: implement "
                f"Agent.{method}, or train with grpo"
            )


def check_can_write(policy: Policy, why: str) -> None:
    """Refuse a policy that cannot write texts of others in its own tokens, before anything is played.

    Args:
        policy: is trained.
        why: what is written, e.g. "sft learns from recorded episodes".

    Raises:
        ConfigError: it has no `encode`.
    """
    written = getattr(policy, "agent", policy)  # a policy around another one has what that one has
    if getattr(type(written), "encode", Policy.encode) is Policy.encode:
        raise ConfigError(
            f"{why}, and agent {policy.name!r} cannot write them in its own tokens: implement Policy.encode, or train with "
            "a method that learns from what the policy itself writes"
        )


def _check_prefixes(starts: Sequence[Start]) -> None:
    for start in starts:
        if start.prefix is None:
            raise TrainingError(
                f"the start of task {start.task_id!r} has no prefix, so there is nothing to branch: play new episodes by "
                "calling context.play"
            )


class PrefetchCollector(Generic[Collected]):
    """Collects in a thread with a copy of the policy while the policy itself is updated.

    Args:
        rollout_policy: another agent of the policy's kind; gets the policy's weights at each `start`.
        collect: plays an iteration with the policy it is given.

    Attributes:
        running: whether a collection was started and not yet waited for.
    """

    def __init__(self, rollout_policy: Policy, collect: Callable[[Policy], Collected]) -> None:
        self._rollout_policy, self._collect = rollout_policy, collect
        self._thread: threading.Thread | None = None
        self._collected: Collected | None = None
        self._error: BaseException | None = None
        self.running = False

    def start(self, policy: Policy) -> None:
        """Start collecting with the policy's current weights."""
        copy_weights(policy, self._rollout_policy)
        self.running = True
        # A daemon thread, so that an interrupted run does not wait for episodes it will not learn from.
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def wait(self) -> Collected:
        """What was collected since `start`; raises what the thread raised."""
        assert self._thread is not None
        self._thread.join()
        self._thread, self.running = None, False
        if self._error is not None:
            raise self._error
        assert self._collected is not None
        return self._collected

    def _run(self) -> None:
        try:
            self._collected = self._collect(self._rollout_policy)
        except BaseException as error:
            self._error = error


@torch.no_grad()
def copy_weights(policy: Policy, rollout_policy: Policy) -> None:
    """Copy weights, version and sampling settings into another agent of the same kind."""
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
    """Verify that all processes hold the same episodes.

    Raises:
        TrainingError: they differ: an algorithm's `collect` did not play through `context.play`.
    """
    if world().count == 1:
        return
    digest = hashlib.sha256()
    for episode in chain.from_iterable(groups):
        digest.update(repr((episode.episode_id, [segment.tokens for segment in episode.segments])).encode())
    if len(set(world().gather(digest.hexdigest()))) > 1:
        raise TrainingError(
            "the processes of this run hold different episodes: the trainer's collect() must play through "
            "self.context.play, which divides the work, and must not use randomness that differs between processes"
        )


def save_groups(path: Path, groups: Sequence[Group]) -> None:
    """Write groups of episodes as an episode file."""
    save_episodes(path, chain.from_iterable(groups))


def load_groups(path: Path) -> list[Group]:
    """Read what `save_groups` wrote, without empty groups.

    Raises:
        EpisodeFileError: the file is damaged.
    """
    return [list(group) for _, group in groupby(load_episodes(path), key=lambda episode: episode.group_id)]
