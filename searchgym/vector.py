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

from .env import _checked_rules, action_space, choose_question, observation_space, search
from .episode import StopReason
from .errors import ConfigError, UnknownIdError
from .game import Game, Rules, Step
from .retriever import SearchResult

__all__ = ["SearchVectorEnv", "make_vec"]

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
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs!r}: give a whole number of at least 1")
        if render_mode is not None:
            raise ConfigError(f"render_mode is {render_mode!r}: a vector environment does not render")
        self._set_up(num_envs, _checked_rules(arguments))

    @classmethod
    def from_rules(cls, rules: Rules, num_envs: int) -> SearchVectorEnv:
        """A vector environment under rules already made, e.g. those of a `SearchEnv`."""
        envs = cls.__new__(cls)
        envs._set_up(num_envs, rules)
        return envs

    def _set_up(self, num_envs: int, rules: Rules) -> None:
        self.num_envs = num_envs
        self.render_mode = None
        self.rules = rules
        self.single_observation_space = observation_space(self.rules)
        self.single_action_space = action_space(self.rules)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.games = [Game(self.rules) for _ in range(num_envs)]
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._observations = [""] * num_envs
        self._stats = {"episodes": 0, "steps": 0, "queries": 0, "batches": 0, "retrieval_seconds": 0.0}

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
        """
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        task_ids = self._per_slot(options.pop("task_ids", None), mask)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} slots: give one per slot")
        records: list[dict[str, Any] | None] = [None] * self.num_envs
        chosen = {}
        for i in np.flatnonzero(mask).tolist():
            if seeds is not None and seeds[i] is not None:
                self._generators[i] = gym.utils.seeding.np_random(seeds[i])[0]
            chosen[i] = choose_question(self.rules, options | {"task_id": task_ids[i]}, self._draw(i))
        for i, question in chosen.items():  # only now: a wrong id leaves every slot as it was
            self._observations[i], records[i] = self.games[i].start(question)
        self._stats["episodes"] += len(chosen)
        return tuple(self._observations), self._infos(records, mask)

    def step(self, actions: Sequence[str]) -> VectorStep:
        """Step every running slot; actions of the others are ignored (pass "")."""
        n = self.num_envs
        if isinstance(actions, str) or len(actions) != n:
            raise ConfigError(f"step got {actions!r:.80} for {n} slots: pass one message per slot")
        active = self.running
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
            results = search(self.rules, queries)
            self._stats["retrieval_seconds"] += time.perf_counter() - started
            self._stats["batches"] += 1
            self._stats["queries"] += len(queries)
        self._stats["steps"] += len(spans)
        return self._collect([(i, self.games[i].end_step(results[a:b])) for i, a, b in spans], active)

    def truncate(self, stops: dict[int, StopReason]) -> VectorStep:
        """End running slots from outside; returns a step's five values with only those slots active."""
        active = np.zeros(self.num_envs, dtype=np.bool_)
        active[list(stops)] = True
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
        return self.games[slot].snapshot() | {"observation": self._observations[slot]}

    def restore(self, slot: int, state: dict[str, Any]) -> None:
        """Continue a snapshot of any slot in this one.

        Raises:
            SnapshotError: damaged, of another schema, or of another index.
        """
        self.games[slot].restore(state)
        self._observations[slot] = str(state.get("observation", ""))

    @property
    def system_prompt(self) -> str:
        """The dialect's instructions for a language model."""
        return self.rules.system_prompt

    def task_ids(self, split: str | None = None) -> list[str]:
        """Ids of the questions that `split` (default: the environment's) offers after filtering."""
        return [q.id for q in self.rules.tasks(split or self.rules.split)]

    @property
    def stats(self) -> dict[str, float]:
        """What is not deterministic and so not in `infos`: counts, seconds, cache hits."""
        retriever = self.rules.retriever
        return self._stats | {
            "cache_hits": getattr(retriever, "hits", 0),
            "cache_misses": getattr(retriever, "misses", 0),
        }

    # -- parts -----------------------------------------------------------------------------------------

    def _collect(self, steps: list[tuple[int, Step]], active: NDArray[np.bool_]) -> VectorStep:
        n = self.num_envs
        rewards = np.zeros(n)
        terminations = np.zeros(n, dtype=np.bool_)
        truncations = np.zeros(n, dtype=np.bool_)
        records: list[dict[str, Any] | None] = [None] * n
        observations = [""] * n if active.all() else [o if g.running else "" for o, g in self._paired()]
        for i, (observation, reward, terminated, truncated, info) in steps:
            observations[i] = observation
            rewards[i], terminations[i], truncations[i], records[i] = reward, terminated, truncated, info
        self._observations = observations
        return tuple(observations), rewards, terminations, truncations, self._infos(records, active)

    def _paired(self) -> zip[tuple[str, Game]]:
        return zip(self._observations, self.games, strict=True)

    def _infos(self, records: list[dict[str, Any] | None], active: NDArray[np.bool_]) -> dict[str, Any]:
        infos: dict[str, Any] = {"active": active}
        for i, record in enumerate(records):
            for key, value in (record or {}).items():
                column = infos.get(key)
                if column is None:
                    column = infos[key] = np.full(self.num_envs, None, dtype=object)
                    infos[f"_{key}"] = np.zeros(self.num_envs, dtype=np.bool_)
                column[i] = value
                infos[f"_{key}"][i] = True
        return infos

    def _draw(self, slot: int) -> Any:
        def draw(n: int) -> int:
            generator = self._generators[slot]
            if generator is None:
                generator = self._generators[slot] = gym.utils.seeding.np_random()[0]
            return int(generator.integers(n))

        return draw

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
        if isinstance(task_ids, str) or len(task_ids) not in (self.num_envs, int(mask.sum())):
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
    name = env_id.rpartition(":")[2]
    known = [
        i
        for i, spec in gym.registry.items()
        if str(spec.vector_entry_point) == "searchgym.vector:SearchVectorEnv"
    ]
    if name not in known:
        raise UnknownIdError("environment", env_id, known)
    return SearchVectorEnv(num_envs, **{**gym.spec(name).kwargs, **arguments})
