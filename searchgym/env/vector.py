"""Many episodes at once, with ONE retriever call per step.

The stock vector environments cannot step groups whose episodes end at different times, and give every
sub-environment the same reset options. `SearchVectorEnv` can: `autoreset_mode` is DISABLED, a finished slot
waits quietly until it is reset by mask.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ..checks import check_count
from ..episode import StopReason
from ..errors import ConfigError, ResetNeededError
from ..judges.protocol import check_judge
from ..retriever import SearchResult
from .config import EnvConfig
from .game import Game, Step, truncating
from .judging import Costs, judge_games
from .setup import (
    action_space,
    cache_stats,
    check_options,
    checked_env_config,
    choose_question,
    observation_space,
    registered_arguments,
    search,
)
from .snapshots import restore, snapshot

__all__ = ["SearchVectorEnv", "make_vec"]

MAX_ENVS = 65_536

VectorStep = tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class SearchVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], NDArray[Any]]):
    """`num_envs` games under the same rules.

    Episodes are ragged. In the step in which slot i ends, its end flag is True, once. From then on its reward is
    0, its observation "", its flags False, and `info["active"][i]` is False; its action is ignored. Loop until
    `envs.all_done`, or refill slots with `reset(options={"reset_mask": mask, "task_ids": [...]})`.

    `infos` holds, per key of the single environment's info, an object array with one entry per slot and a mask
    `_key` of the slots that have one; nested values stay plain dicts: `infos["outcome"][i]["em"]`.
    `infos["active"][i]` says whether slot i took part in this call.

    Args:
        num_envs: number of slots.
        **arguments: as for `SearchEnv`.

    Raises:
        ConfigError: an argument that cannot be used, `max_episode_steps` among them (the budget is `max_rounds`).
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        render_mode: None = None,
        **arguments: Any,
    ) -> None:
        if max_episode_steps is not None:
            raise ConfigError(
                f"max_episode_steps is {max_episode_steps!r}: the round budget is the argument max_rounds "
                "(a time limit outside the environment would set terminated and truncated together)"
            )
        if render_mode is not None:
            raise ConfigError(f"render_mode is {render_mode!r}: a vector environment does not render")
        self._set_up(num_envs, checked_env_config(arguments))

    @classmethod
    def from_config(cls, config: EnvConfig, num_envs: int) -> SearchVectorEnv:
        """A vector environment under rules already made, e.g. those of a `SearchEnv`."""
        envs = cls.__new__(cls)
        envs._set_up(num_envs, config)
        return envs

    def _set_up(self, num_envs: int, config: EnvConfig) -> None:
        check_count("num_envs", num_envs, 1)
        if num_envs > MAX_ENVS:
            raise ConfigError(
                f"num_envs is {num_envs}: at most {MAX_ENVS}; more episodes take turns in the slots"
            )
        self.num_envs = num_envs
        self.render_mode = None
        self.config = config
        self.single_observation_space = observation_space(self.config)
        self.single_action_space = action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.games = [Game(self.config) for _ in range(num_envs)]
        self._generators: dict[int, np.random.Generator] = {}
        self._observations = [""] * num_envs
        self._stats = {"episodes": 0, "steps": 0, "queries": 0, "batches": 0, "retrieval_seconds": 0.0}
        self.judge_costs = Costs()
        check_judge(self.config.judge)

    # -- Gymnasium -------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Start episodes.

        Args:
            seed: slot i is seeded with seed + i; or one seed per slot.
            options: "reset_mask" (bool array: which slots; default all), "task_ids" (one id or None per slot,
                or one per masked slot), "split".

        Returns:
            Observations of all slots (those not reset keep theirs) and infos.

        Raises:
            ConfigError: an option or a seed that cannot be used; every slot is as it was.
        """
        check_options(options, ("reset_mask", "task_ids", "split"))
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        task_ids = self._per_slot(options.pop("task_ids", None), mask)
        slots = np.flatnonzero(mask).tolist()
        fresh = self._seeded(seed, slots)
        named = {i: {**options, "task_id": task_ids[i]} for i in slots}
        for choice in named.values():  # a dry run: what is wrong is found before any generator moves
            choose_question(self.config, choice, lambda n: 0)
        self._generators.update(fresh)
        records: list[dict[str, Any] | None] = [None] * self.num_envs
        for i, choice in named.items():
            question = choose_question(self.config, choice, self._draw(i))
            self._observations[i], records[i] = self.games[i].start(question)
        self._stats["episodes"] += len(slots)
        return tuple(self._observations), self._infos(records, mask)

    def step(self, actions: Sequence[str]) -> VectorStep:
        """Step every running slot; actions of the others are ignored (pass "")."""
        self._check_length("actions", actions)
        active = self.running
        if not self._stats["episodes"] and not active.any():
            raise ResetNeededError("no episode was ever started: call reset() first")
        queries: list[str] = []
        spans: list[tuple[int, int, int]] = []
        for i, game in enumerate(self.games):
            if game.running:
                asked = game.begin_step(actions[i])
                spans.append((i, len(queries), len(queries) + len(asked)))
                queries.extend(asked)
        results: list[SearchResult] = []
        if queries:
            started = time.perf_counter()
            results = search(self.config, queries)
            self._stats["retrieval_seconds"] += time.perf_counter() - started
            self._stats["batches"] += 1
            self._stats["queries"] += len(queries)
        self._stats["steps"] += len(spans)
        for i, a, b in spans:
            self.games[i].take_results(results[a:b])
        if self.config.judge is None:
            return self._collect([(i, self.games[i].end_step()) for i, _, _ in spans], active)
        slots = [i for i, _, _ in spans]
        steps = judge_games(self.config, [self.games[i] for i in slots], self.judge_costs)
        return self._collect(list(zip(slots, steps, strict=True)), active)

    def truncate(self, stops: dict[int, StopReason]) -> VectorStep:
        """End running slots from outside; returns a step's five values with only those slots active."""
        active = np.zeros(self.num_envs, dtype=np.bool_)
        for slot, stop in stops.items():
            truncating(stop)
            if not self._game(slot).running:
                raise ResetNeededError(f"slot {slot} has no episode in progress: nothing was truncated")
            active[slot] = True
        return self._collect([(i, self.games[i].truncate(stop)) for i, stop in stops.items()], active)

    # -- beyond Gymnasium --------------------------------------------------------------------------------

    @property
    def running(self) -> NDArray[np.bool_]:
        """Which slots have an episode in progress, [num_envs]."""
        return np.fromiter((g.running for g in self.games), dtype=np.bool_, count=self.num_envs)

    @property
    def all_done(self) -> bool:
        """True when no slot has an episode in progress."""
        return not any(g.running for g in self.games)

    def snapshot(self, slot: int) -> dict[str, Any]:
        """The running episode of a slot as plain JSON (without a generator: forks share their question)."""
        return snapshot(self._game(slot))

    def restore(self, slot: int, state: dict[str, Any]) -> None:
        """Continue a snapshot of any slot, or of a `SearchEnv`, in this one.

        Its last observation is not part of a snapshot; until the next step the slot's is "".

        Raises:
            SnapshotError: damaged, of another schema, or of another index. The slot is then as it was.
        """
        restore(self._game(slot), state)
        self._observations[slot] = ""

    @property
    def system_prompt(self) -> str:
        """The dialect's instructions for a language model."""
        return self.config.system_prompt

    def task_ids(self, split: str | None = None) -> list[str]:
        """Ids of the questions that `split` (default: the environment's) offers after filtering."""
        return [q.id for q in self.config.tasks(split or self.config.split)]

    @property
    def stats(self) -> dict[str, float]:
        """What is not deterministic and so not in `infos`: counts, seconds, cache hits, the judge's costs."""
        return {**self._stats, **cache_stats(self.config), **self.judge_costs.to_stats()}

    # -- parts -----------------------------------------------------------------------------------------

    def _collect(self, steps: list[tuple[int, Step]], active: NDArray[np.bool_]) -> VectorStep:
        n = self.num_envs
        rewards, terminations, truncations = [0.0] * n, [False] * n, [False] * n
        records: list[dict[str, Any] | None] = [None] * n
        observations = (
            self._observations.copy()
        )  # of a slot that takes no part: unchanged, "" once it has ended
        for i, (observation, reward, terminated, truncated, info) in steps:
            observations[i] = observation
            rewards[i], terminations[i], truncations[i], records[i] = reward, terminated, truncated, info
        self._observations = observations
        flags = np.array(terminations), np.array(truncations)
        return tuple(observations), np.array(rewards), *flags, self._infos(records, active)

    def _infos(self, records: list[dict[str, Any] | None], active: NDArray[np.bool_]) -> dict[str, Any]:
        """One column per key; records of a kind (first, middle, last of an episode) are spread together."""
        infos: dict[str, Any] = {"active": active}
        kinds: dict[tuple[str, ...], list[int]] = {}
        for i, record in enumerate(records):
            if record is not None:
                kinds.setdefault(tuple(record), []).append(i)
        for keys, members in kinds.items():
            slots = np.array(members)
            rows = [record.values() for i in members if (record := records[i]) is not None]
            for key, values in zip(keys, zip(*rows, strict=True), strict=True):
                if key not in infos:
                    infos[key] = np.full(self.num_envs, None, dtype=object)
                    infos[f"_{key}"] = np.zeros(self.num_envs, dtype=np.bool_)
                # fromiter: numpy would make an array of arrays of values that are lists
                infos[key][slots] = np.fromiter(values, dtype=object, count=len(members))
                infos[f"_{key}"][slots] = True
        return infos

    def _draw(self, slot: int) -> Any:
        def draw(n: int) -> int:
            if slot not in self._generators:
                self._generators[slot] = gym.utils.seeding.np_random()[0]
            return int(self._generators[slot].integers(n))

        return draw

    def _seeded(self, seed: Any, slots: list[int]) -> dict[int, np.random.Generator]:
        """New generators of the slots that a seed is given for."""
        if seed is None:
            return {}
        if isinstance(seed, int | np.integer):
            seeds: list[Any] = [int(seed) + i for i in range(self.num_envs)]
        elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
            seeds = list(seed)
        else:
            raise ConfigError(f"seed is {seed!r}: give a whole number, or one per slot")
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} slots: give one per slot")
        return {i: gym.utils.seeding.np_random(seeds[i])[0] for i in slots if seeds[i] is not None}

    def _game(self, slot: int) -> Game:
        if isinstance(slot, bool) or not isinstance(slot, int | np.integer) or not 0 <= slot < self.num_envs:
            raise ConfigError(f"slot {slot!r}: give a number from 0 to {self.num_envs - 1}")
        return self.games[int(slot)]

    def _check_length(self, name: str, values: Any) -> None:
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != self.num_envs:
            raise ConfigError(f"{name} is {values!r:.80}: give one message per slot ({self.num_envs})")

    def _mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ConfigError(
                f"reset_mask has dtype {mask.dtype} and shape {mask.shape}: give {self.num_envs} booleans"
            )
        checked: NDArray[np.bool_] = mask.astype(np.bool_)
        return checked

    def _per_slot(self, task_ids: Any, mask: NDArray[np.bool_]) -> list[str | None]:
        if task_ids is None:
            return [None] * self.num_envs
        if not isinstance(task_ids, Sequence | np.ndarray) or isinstance(task_ids, str):
            raise ConfigError(f"task_ids is {task_ids!r:.80}: give a list with one id or None per slot")
        if len(task_ids) not in (self.num_envs, int(mask.sum())):
            raise ConfigError(
                f"task_ids is {task_ids!r:.80}: give one id or None per slot ({self.num_envs}), or one per slot "
                f"of the reset mask ({int(mask.sum())})"
            )
        if len(task_ids) == self.num_envs:
            return list(task_ids)
        spread: list[str | None] = [None] * self.num_envs
        for i, task_id in zip(np.flatnonzero(mask).tolist(), task_ids, strict=True):
            spread[i] = task_id
        return spread


def make_vec(env_id: str, num_envs: int, **arguments: Any) -> SearchVectorEnv:
    """A `SearchVectorEnv` with the arguments of a registered id.

    Args:
        env_id: e.g. "SearchQA-v0", or "module:SearchQA-v0".
        num_envs: number of slots.
        **arguments: override the id's.

    Raises:
        UnknownIdError: not a registered search environment.
    """
    return SearchVectorEnv(num_envs, **registered_arguments(env_id, arguments))
