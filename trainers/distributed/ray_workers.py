"""Rollout workers on Ray: each has an environment and a copy of the policy, and plays the groups it is sent.

Weights go through Ray's object store once per collection; episodes are sent back. A group has the same episodes wherever
it is played (`streams=episode`), so neither the number of workers nor the death of one changes the result: the groups of
a worker that died are played by the others, and it is replaced before the next collection. On one machine Ray runs
inside this program; with `ray_address` the same code uses a cluster.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, MissingExtraError, SearchGymError, TrainingError

from ..config import TrainConfig, parse_settings
from ..core.groups import Group
from ..core.rollouts import RolloutRequest, run_requests
from ..processes import world

__all__ = ["RayWorkers", "Worker", "WorkersLostError", "start_ray"]

_STARTS = 3  # on a busy machine the first processes may start too late
_SAMPLING = ("version", "temperature", "top_p", "greedy")


class WorkerParts(Protocol):
    """The parts of a run that a worker needs."""

    @property
    def policy(self) -> Policy: ...
    @property
    def envs(self) -> SearchVectorEnv: ...


OpenParts = Callable[[TrainConfig], WorkerParts]


class WorkersLostError(TrainingError):
    """No rollout worker is left, or none answers."""


class Worker:
    """The actor of a worker process.

    Args:
        config: the run's configuration.
        open_parts: opens policy and environments from the configuration. Passed in, because it is in a package that
            imports this one.
    """

    def __init__(self, config: dict[str, Any], open_parts: OpenParts) -> None:
        parts = open_parts(parse_settings(TrainConfig, config))
        self.policy, self.envs = parts.policy, parts.envs

    def play(
        self, requests: Sequence[RolloutRequest], weights: dict[str, Tensor], sampling: dict[str, Any]
    ) -> list[Group]:
        """Play groups with these weights."""
        with torch.no_grad():
            for name, parameter in _trained(self.policy):
                parameter.copy_(weights[name])
        for name, value in sampling.items():
            setattr(self.policy, name, value)
        return run_requests(self.policy, self.envs, requests)

    def process(self) -> int:
        """The id of this process on its machine."""
        return os.getpid()


class RayWorkers:
    """`rollouts.RunRequests` by workers; a context manager, which stops the workers.

    Args:
        config: the run's configuration: `rollout_workers`, `worker_options`, `ray_address`, `process_timeout`, and what
            the workers open.
        open_parts: `searchgym.trainers.training.parts.open_parts`.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: no cluster answers at the address.

    Attributes:
        lost: number of workers that have died so far.
    """

    def __init__(self, config: TrainConfig, open_parts: OpenParts) -> None:
        self._open_parts = open_parts
        try:
            self._ray: ModuleType = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise MissingExtraError("rollout_workers", "ray", "ray") from error
        self._count, self._timeout = config.rollout_workers, config.process_timeout
        self._config = asdict(replace(config, rollout_workers=0, rollout_lag=0))
        self._options = {"num_cpus": 1, **config.worker_options}
        self.lost = 0
        self._workers: list[Any] = []
        self._started = not self._ray.is_initialized()
        if self._started:
            where = {"address": config.ray_address} if config.ray_address else {"num_cpus": self._count}
            start_ray(self._ray, **where)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []
        if self._started:
            self._ray.shutdown()

    def __call__(
        self, policy: Policy, envs: SearchVectorEnv, requests: Sequence[RolloutRequest]
    ) -> list[Group]:
        """Play the requests with the policy's weights.

        Args:
            policy: its weights and sampling settings are sent to the workers.
            envs: not used; the workers have their own.
            requests: the groups to play.

        Raises:
            WorkersLostError: all workers died (an only one: it and its replacement), or none answered in time.
            SearchGymError: what a worker's environment or policy raised.
        """
        ray = self._ray
        self._fill()
        replace_last = self._count == 1  # an only worker has no other to play its groups
        full = world().full
        weights = ray.put({name: full(p).detach().cpu() for name, p in _trained(policy)})
        sampling = {name: getattr(policy, name) for name in _SAMPLING}
        groups: dict[int, Group] = {}
        running: dict[Any, tuple[Any, list[int]]] = {}

        def send(numbers: Sequence[int]) -> None:
            """Distribute requests over the remaining workers."""
            for i, worker in enumerate(self._workers):
                mine = list(numbers[i :: len(self._workers)])
                if mine:
                    running[worker.play.remote([requests[n] for n in mine], weights, sampling)] = worker, mine

        send(range(len(requests)))
        while running:
            done, _ = ray.wait(list(running), timeout=self._timeout)
            if not done:
                raise WorkersLostError(
                    f"no rollout worker has answered for {self._timeout:g} s (process_timeout): the last checkpoint is "
                    "complete, continue with --resume"
                )
            worker, numbers = running.pop(done[0])
            try:
                groups.update(zip(numbers, ray.get(done[0]), strict=True))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, SearchGymError):
                    raise error.cause from error
                raise
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                if worker in self._workers:
                    self._workers.remove(worker)
                    self.lost += 1
                if not self._workers and replace_last:
                    replace_last = False
                    self._fill()
                if not self._workers:
                    raise WorkersLostError(
                        f"all {self._count} rollout workers have died ({_reason(error)}): the last checkpoint is "
                        "complete, continue with --resume; if memory ran out, with fewer rollout_workers"
                    ) from error
                send(numbers)
        return [groups[n] for n in range(len(requests))]

    def _fill(self) -> None:
        """Start the workers that are missing."""
        worker = self._ray.remote(Worker).options(**self._options)
        while len(self._workers) < self._count:
            self._workers.append(worker.remote(self._config, self._open_parts))

    def processes(self) -> list[int]:
        """The workers' process ids."""
        return list(self._ray.get([worker.process.remote() for worker in self._workers]))


def start_ray(ray: ModuleType, **where: Any) -> None:
    """`ray.init` for a library: no usage reports; workers without a GPU assigned see none.

    Args:
        ray: the module.
        **where: arguments of `ray.init`.

    Raises:
        ConfigError: no Ray answers there, or a new one does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    for left in reversed(range(1 if "address" in where else _STARTS)):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, **where)
            return
        except Exception as error:  # Ray raises a bare Exception if its processes take longer than 30 s
            ray.shutdown()
            if not left:
                raise ConfigError(
                    f"Ray cannot be started or reached at {where.get('address', 'this machine')!r} "
                    f"({_reason(error)}): check ray_address, or the load of this machine"
                ) from error


def _trained(policy: Policy) -> list[tuple[str, torch.nn.Parameter]]:
    """The trained weights; a worker has the frozen ones from opening the same agent."""
    return [(name, p) for name, p in policy.module.named_parameters() if p.requires_grad]


def _reason(error: Exception) -> str:
    """The last line of Ray's message, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
