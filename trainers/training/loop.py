"""The one training loop: collect, credit, update; the same for every algorithm and every policy.

`Loop` knows nothing of files: `recorder.RunRecorder` writes what a run leaves behind, and `trainer.Trainer` runs the two
to the end of a training run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from searchgym.agents.policy import Policy
from searchgym.errors import TrainingError
from searchgym.tape.recording import tape_of

from ..config import TrainConfig
from ..core.algorithm import TrainContext, token_logprobs
from ..core.batch import pack
from ..core.credit import Credit
from ..core.groups import Group, Groups, drop_invalid
from ..core.lookahead import Meter, MeteredPlay, Spent
from ..core.rollouts import (
    Play,
    PrefetchCollector,
    SeededRollouts,
    Workers,
    check_same,
    play_groups,
    run_requests,
)
from ..learner.checkpoint import load_policy
from ..learner.failures import ADVICE, NonFiniteError
from ..learner.importance import TRAINER_LOGPROBS, truncated_importance_sampling
from ..learner.learner import Learner
from ..learner.metrics import UpdateMetrics
from ..processes import world
from ..runs.credit_record import CreditRecord, credit_metrics, make_record
from ..runs.metrics import collection_metrics, staleness
from .parts import Parts

__all__ = ["Iteration", "Loop", "Players", "Probe", "Stopwatch"]

_COUNTS = (
    "episodes",
    "steps",
    "queries",
    "batches",
)  # of `SearchVectorEnv.stats`: those that are deterministic

Probe = Callable[[int, Policy, Groups, Credit], dict[str, float]]
"""Measures the credit of an iteration before the update: its number, the policy that played, what is learned from and its
credit, both empty where every group was skipped. The numbers are added to the iteration's metrics."""


@dataclass(frozen=True)
class Players:
    """Who plays in addition to the policy itself.

    Attributes:
        workers: play episodes in other processes.
        rollout_policy: another agent of the policy's kind, which collects the next iteration during an update.
    """

    workers: Workers | None = None
    rollout_policy: Policy | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Iteration:
    """What an iteration gave.

    Attributes:
        groups: the groups that were played.
        metrics: its row of `metrics.jsonl`.
        make_record: makes `credit`.
    """

    groups: list[Group]
    metrics: dict[str, Any]
    make_record: Callable[[], CreditRecord]

    @property
    def credit(self) -> CreditRecord:
        """What each episode, round and token received; made when it is asked for, which few iterations do."""
        return self.make_record()

    def __repr__(self) -> str:
        return f"<Iteration of {len(self.groups)} groups: EM {self.metrics['em']}, reward {self.metrics['reward']}>"


class _Collected(NamedTuple):
    """The groups of an iteration, and what collecting them cost beyond them."""

    groups: list[Group]
    lookahead: Spent


@dataclass
class Stopwatch:
    """Seconds per named part of an iteration."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Loop:
    """Collects, gives credit, updates.

    Args:
        parts: policy, algorithm, environments and questions.
        config: learning rate, minibatches and so on.
        players: who plays in addition to the policy.
        probe: measures the credit of every iteration.
        initial: the checkpoint of the initial weights, when a run is resumed: what an algorithm keeps of the initial
            policy must be the run's, even if the agent's own file has changed since.

    Attributes:
        iteration: number of iterations so far.
        played: the groups that are being learned from; empty otherwise.
        prefetched: groups that were collected ahead and not learned from yet.
        generators: NumPy generators by name; their states belong into checkpoints.
        learner: owns weights and optimizer.
        counted: what the environments counted in earlier parts of a resumed run; see `counts`.
    """

    def __init__(
        self,
        parts: Parts,
        config: TrainConfig,
        players: Players | None = None,
        probe: Probe | None = None,
        initial: Path | None = None,
    ) -> None:
        self.policy, self.algorithm, self.envs, self.tasks = (
            parts.policy,
            parts.algorithm,
            parts.envs,
            parts.tasks,
        )
        self.config, self._probe = config, probe
        players = players or Players()
        self.iteration = 0
        self.counted: dict[str, int] = {}
        self.played: list[Group] = []
        self.prefetched: list[Group] | None = None
        self._lookahead = self._prefetched_lookahead = Spent()
        self._meter = Meter()
        self.generators = {
            "algorithm": np.random.default_rng([config.seed, 1]),
            "minibatches": np.random.default_rng([config.seed, 2]),
        }
        play: Play = play_groups
        if config.streams == "episode":
            self.generators["rollouts"] = np.random.default_rng([config.seed, 3])
            play = SeededRollouts(self.generators["rollouts"], players.workers or run_requests)
        if initial is not None:
            load_policy(initial, self.policy)
        world().broadcast_weights(self.policy)
        self.policy.generator.manual_seed(config.seed)
        self.policy.temperature, self.policy.top_p, self.policy.greedy = config.temperature, 1.0, False
        torch.manual_seed(config.seed)  # dropout, and modules an algorithm creates
        self.algorithm.setup(
            TrainContext(
                self.policy,
                self.generators["algorithm"],
                config.token_budget,
                MeteredPlay(play, self._meter),
                self._meter,
                world(),
            )
        )
        if not hasattr(self.algorithm, "context"):
            raise TrainingError(
                f"{type(self.algorithm).__name__}.setup() did not keep the context: begin it with "
                "super().setup(context)"
            )
        self._workers = players.workers
        self._prefetch = (
            None
            if players.rollout_policy is None
            else PrefetchCollector(players.rollout_policy, self._collect)
        )
        self.learner = Learner(self.policy, self.algorithm, config)
        self._tape = tape_of(self.envs)
        if self._tape is not None:
            self._tape.rewind(0)

    def iterate(self, watch: Stopwatch | None = None) -> Iteration:
        """Collect once and learn from it.

        Raises:
            TrainingError: the iteration cannot be collected, or not be learned from (`played` then holds its groups).
        """
        watch = watch or Stopwatch()
        self.iteration += 1
        with watch("collect"):
            self.played, drawn = self._next()
        metrics, record = self._learn(self.played, drawn, watch)
        groups, self.played = self.played, []
        if self._prefetch is not None and self._prefetch.running:
            with watch("collect"):
                self.prefetched, self._prefetched_lookahead = self._prefetch.wait()
        return Iteration(groups, metrics, record)

    def state(self) -> dict[str, Any]:
        """The counters of a checkpoint, as JSON."""
        return {
            "iteration": self.iteration,
            "tasks_drawn": self.tasks.drawn,
            "generators": {name: g.bit_generator.state for name, g in self.generators.items()},
            "tape_position": 0 if self._tape is None else self._tape.position,
            "counts": self.counts(),
            "prefetched_lookahead": [self._prefetched_lookahead.tokens, self._prefetched_lookahead.searches],
        }

    def counts(self) -> dict[str, int]:
        """Episodes, steps, queries and batches of queries in the whole run, as far as this process played them."""
        stats: dict[str, float] = getattr(self.envs, "stats", {})
        return {name: self.counted.get(name, 0) + int(stats[name]) for name in _COUNTS if name in stats}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to what `state` described."""
        for name, generator in self.generators.items():
            generator.bit_generator.state = state["generators"][name]
        self.tasks.drawn = state["tasks_drawn"]
        self.iteration = state["iteration"]
        self.counted = dict(state.get("counts", {}))
        self._prefetched_lookahead = Spent(*state.get("prefetched_lookahead", ()))
        if self._tape is not None:
            self._tape.rewind(state["tape_position"])

    # -- collect -----------------------------------------------------------------------------------------------

    def _next(self) -> tuple[list[Group], int]:
        """The groups to learn from, and the number of tasks drawn with them; may start collecting the next ones."""
        played, drawn = self.prefetched, self.tasks.drawn
        self._lookahead, self._prefetched_lookahead = self._prefetched_lookahead, Spent()
        if played is None:
            with world().playing(self.policy):
                played, self._lookahead = self._collect(self.policy)
            drawn = self.tasks.drawn
        check_same(played)
        self.prefetched = None
        if self._prefetch is not None and self.iteration < self.config.iterations:
            self._prefetch.start(self.policy)
        return played, drawn

    def _collect(self, policy: Policy) -> _Collected:
        self._meter.restart()
        returned = self.algorithm.collect(policy, self.envs, self.tasks)
        try:
            groups = [list(group) for group in returned]
            return _Collected(groups, self._meter.beyond(groups))
        except TypeError as error:
            raise _wrong(
                self.algorithm, "collect", returned, "a list of groups, each a list of episodes"
            ) from error

    # -- credit ------------------------------------------------------------------------------------------------

    def _learn(
        self, played: Sequence[Group], drawn: int, watch: Stopwatch
    ) -> tuple[dict[str, Any], Callable[[], CreditRecord]]:
        """Credit and update; returns the metrics and what makes the record of the credit."""
        row = collection_metrics(played)
        with watch("credit"):
            valid, counts = drop_invalid(played)
            rewarded, groups, skipped = self._select(valid)
        row |= counts | skipped | {"tasks_drawn": drawn}
        if self._prefetch is not None:
            row["staleness"] = staleness(played, self.policy.version)
        if self._workers is not None:
            row["lost_workers"] = sum(world().gather(self._workers.lost))
        lr = self.learner.set_lr(self.iteration)
        if self.learner.scheduled:
            row["lr"] = lr
        update = UpdateMetrics()
        # Groups without any sampled token occur where no prompt fits into the agent's context.
        self._meter.restart()
        credit = None
        if groups.samples:
            credit = self._update(groups, row, update, watch)
        elif self._probe:  # every group was skipped
            row |= self._probe(self.iteration, self.policy, Groups([]), Credit.per_round([]))
        for name, spent in (self._lookahead + self._meter.total).to_metrics().items():
            row[name] = row.get(name, 0) + spent
        row |= {"updates": update.updates, "policy_version": self.policy.version, **update.result()}
        for name, value in row.items():
            if isinstance(value, np.generic | np.ndarray | torch.Tensor):  # given by an algorithm; not JSON
                if np.prod(value.shape) != 1:
                    raise TrainingError(f"metric {name!r} is {value!r:.60}: give one number")
                row[name] = value = value.item()
            if isinstance(value, float) and not math.isfinite(value):
                raise NonFiniteError(f"metric {name!r} of iteration {self.iteration} is {value}: {ADVICE}")
        origin = (self.iteration, self.config.trainer, type(self.algorithm).__name__)
        return row, partial(make_record, origin, played, rewarded, groups, credit)

    def _select(self, valid: Sequence[Group]) -> tuple[Groups, Groups, dict[str, int]]:
        """All groups with their rewards (permuted for the control), and those the algorithm selects."""
        rewards = [self.algorithm.rewards(group) for group in valid]
        if self.algorithm.settings.permute_rewards:
            rewards = [self.generators["algorithm"].permutation(r_G) for r_G in rewards]
        rewarded = Groups(valid, rewards)
        wanted = self.algorithm.select(rewarded)
        if not isinstance(wanted, Sequence | np.ndarray) or len(wanted) != len(rewarded):
            raise _wrong(
                self.algorithm, "select", wanted, f"one truth value for each of {len(rewarded)} groups"
            )
        kept = [i for i, keep in enumerate(wanted) if keep]
        counts = {
            "equal_groups": sum(len(r_G) > 1 and bool(r_G.min() == r_G.max()) for r_G in rewarded.rewards),
            "skipped_groups": len(valid) - len(kept),
        }
        if len(kept) == len(valid):
            return rewarded, rewarded, counts
        return rewarded, Groups([valid[i] for i in kept], [rewards[i] for i in kept]), counts

    # -- update ------------------------------------------------------------------------------------------------

    def _update(self, groups: Groups, row: dict[str, Any], update: UpdateMetrics, watch: Stopwatch) -> Credit:
        """Give credit and make the optimizer steps of an iteration; adds to `row` and `update`."""
        algorithm, cap = self.algorithm, self.algorithm.settings.tis_cap
        with watch("prepare"):
            if cap:
                groups.columns[TRAINER_LOGPROBS] = token_logprobs(
                    self.policy, groups.samples, self.config.token_budget
                )
            algorithm.prepare(self.policy, groups)
        with watch("credit"):
            credit = algorithm.credit(groups)
            if not isinstance(credit, Credit):
                raise _wrong(algorithm, "credit", credit, "a Credit, e.g. Credit.per_episode(values)")
            batch = pack(groups, credit, algorithm.settings.sequence)
            row |= credit_metrics(groups, credit)
        if cap:
            update.compare(batch.old_logprobs_N, batch.columns[TRAINER_LOGPROBS])
            batch, weights = truncated_importance_sampling(batch, cap)
            row |= weights
        row |= credit.metrics
        if self._probe:
            row |= self._probe(self.iteration, self.policy, groups, credit)
        with watch("update"):
            self.learner.update(batch, update, self.iteration, self.generators["minibatches"])
        return credit


def _wrong(algorithm: object, method: str, value: object, wanted: str) -> TrainingError:
    found = "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"
    return TrainingError(f"{type(algorithm).__name__}.{method}() returned {found}: return {wanted}")
