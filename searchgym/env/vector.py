"""Many episodes at once, with ONE retriever call per step.

The stock vector environments cannot step groups whose episodes end at different times, and give every
sub-environment the same reset options. `SearchVectorEnv` can do both, and also offers Gymnasium's autoreset modes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ..errors import ConfigError, ResetNeededError
from ..judges.protocol import check_judge
from ..options import check_count
from ..records.episode import RoundRecord, StopReason
from ..records.question import Question
from ..records.retriever import SearchResult
from .config import EnvConfig
from .episode_start import EpisodeStart
from .episode_state import EpisodeState, check_stop
from .infos import InfoSource, Restarted, VectorInfos
from .judging import Costs, finish_steps
from .setup import (
    action_space,
    cache_stats,
    check_options,
    choose_question,
    make_env_config,
    observation_space,
    registered_arguments,
    search,
)
from .slots import check_messages, read_autoreset_mode, slot_generators, slot_mask, slot_task_ids
from .snapshots import restore, snapshot

__all__ = ["SearchVectorEnv", "make_vec"]

MAX_ENVS = 65_536

VectorStep = tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], VectorInfos]


class SearchVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], NDArray[Any]]):
    """`num_envs` episodes under the same rules.

    Episodes end at different times. In the step in which slot i ends, its end flag is True, once. `autoreset_mode` says
    what happens then:

    - NEXT_STEP: the next step ignores the slot's action and starts a new episode in it (reward 0, flags False).
    - SAME_STEP: the same step starts a new episode; `infos["final_obs"][i]` and `infos["final_info"]` hold the last
      observation and info of the old one.
    - DISABLED: the slot stays idle (reward 0, observation "", flags False, action ignored) until it is reset. Loop until
      `envs.all_done`, or refill slots with `reset(options={"reset_mask": mask, "task_ids": [...]})`.

    New episodes draw their question from `split` with the slot's own generator.

    `infos` is laid out as Gymnasium's own vector environments stack infos; see `VectorInfos`.

    Args:
        num_envs: number of slots.
        autoreset_mode: a `gymnasium.vector.AutoresetMode` or its value: "NextStep", "SameStep" or "Disabled".
        max_episode_steps: must be None: the round budget is the argument `max_rounds`.
        render_mode: must be None: a vector environment does not render.
        **arguments: as for `SearchEnv`.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
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
        self._set_up(num_envs, make_env_config(**arguments), autoreset_mode)

    @classmethod
    def from_config(
        cls,
        config: EnvConfig,
        num_envs: int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    ) -> SearchVectorEnv:
        """A vector environment with checked arguments, e.g. those of a `SearchEnv`.

        Args:
            config: the environment's arguments.
            num_envs: number of slots.
            autoreset_mode: see the class.
        """
        envs = cls.__new__(cls)
        envs._set_up(num_envs, config, autoreset_mode)
        return envs

    def _set_up(self, num_envs: int, config: EnvConfig, autoreset_mode: AutoresetMode | str) -> None:
        check_count("num_envs", num_envs, 1)
        if num_envs > MAX_ENVS:
            raise ConfigError(
                f"num_envs is {num_envs}: at most {MAX_ENVS}; more episodes take turns in the slots"
            )
        self.autoreset_mode = read_autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self.render_mode = None
        self.config = config
        self.single_observation_space = observation_space(config)
        self.single_action_space = action_space(config)
        self.episodes = [EpisodeState(config) for _ in range(num_envs)]
        self._generators: dict[int, np.random.Generator] = {}
        self._observations = [""] * num_envs
        self._stats = {"episodes": 0, "steps": 0, "queries": 0, "batches": 0, "retrieval_seconds": 0.0}
        self.judge_costs = Costs()
        check_judge(config.judge)

    # Built when they are asked for: copying a space for every slot takes as long as many episodes.
    @cached_property
    def observation_space(self) -> gym.Space[Any]:  # type: ignore[override]
        """The observations of all slots."""
        return batch_space(self.single_observation_space, self.num_envs)

    @cached_property
    def action_space(self) -> gym.Space[Any]:  # type: ignore[override]
        """The messages to all slots."""
        return batch_space(self.single_action_space, self.num_envs)

    # -- Gymnasium -------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], VectorInfos]:
        """Start episodes.

        Args:
            seed: slot i is seeded with seed + i; or one seed per slot.
            options: "reset_mask" (bool array: which slots; default: all), "task_ids" (one id or None per slot,
                or one per slot of the mask), "split".

        Returns:
            Observations of all slots (those not reset keep theirs) and infos.

        Raises:
            ConfigError: an option or a seed that cannot be used; every slot is as it was.
        """
        check_options(options, ("reset_mask", "task_ids", "split"))
        options = dict(options or {})
        mask = slot_mask(options.pop("reset_mask", None), self.num_envs)
        task_ids = slot_task_ids(options.pop("task_ids", None), mask)
        slots = np.flatnonzero(mask).tolist()
        fresh = slot_generators(seed, slots, self.num_envs)
        choices = {slot: {**options, "task_id": task_ids[slot]} for slot in slots}
        for choice in choices.values():  # a dry run: errors come before any generator advances
            choose_question(self.config, choice, lambda n: 0)
        self._generators.update(fresh)
        starts = self._start(
            {slot: choose_question(self.config, choice, self._draw(slot)) for slot, choice in choices.items()}
        )
        return tuple(self._observations), VectorInfos(self.num_envs, starts)

    def step(self, actions: Sequence[str]) -> VectorStep:
        """Step all slots; see the class for slots whose episode has ended.

        Args:
            actions: one message per slot; pass "" where the action is ignored.

        Raises:
            ResetNeededError: no episode was started; or, with autoreset_mode DISABLED, all episodes have ended.
            ConfigError: not one message per slot.
        """
        check_messages(actions, self.num_envs)
        playing = {slot: actions[slot] for slot, episode in enumerate(self.episodes) if episode.running}
        mode = self.autoreset_mode
        if not playing and not self._stats["episodes"]:
            raise ResetNeededError("no episode was ever started: call reset() first")
        if not playing and mode is not AutoresetMode.NEXT_STEP:  # SAME_STEP: all were ended by `truncate`
            raise ResetNeededError(
                "all episodes have ended: start new ones with reset(options={'reset_mask': mask}), or create the "
                "environment with autoreset_mode='NextStep' or 'SameStep'"
            )
        ended = []
        if mode is AutoresetMode.NEXT_STEP and len(playing) < self.num_envs:
            ended = [slot for slot in range(self.num_envs) if slot not in playing]
        records = self.play(playing)
        sources: dict[int, InfoSource] = {**records}
        if mode is AutoresetMode.SAME_STEP:
            over = [slot for slot, record in records.items() if record.outcome is not None]
            for slot, start in self._restart(over).items():
                sources[slot] = Restarted(records[slot], start)
        elif ended:
            sources |= self._restart(ended)
        return self._result(records, sources)

    def truncate(self, stops: Mapping[int, StopReason]) -> VectorStep:
        """End running episodes from outside; returns a step's five values in which only these slots are active.

        No slot is reset here, whatever the `autoreset_mode`: reset the slots yourself, or let the next step do it
        (NEXT_STEP).

        Args:
            stops: the reason of each slot.

        Raises:
            ResetNeededError: a slot has no episode in progress.
            ConfigError: not a slot, or not a reason to truncate. No episode was ended.
        """
        records = self.end(stops)
        return self._result(records, records)

    # -- beyond Gymnasium --------------------------------------------------------------------------------

    def start(self, task_ids: Mapping[int, str]) -> dict[int, EpisodeStart]:
        """Start an episode of a given task in each of some slots.

        Args:
            task_ids: slot -> id of a question.

        Raises:
            UnknownIdError: an unknown task; every slot is as it was.
        """
        return self._start({slot: self.config.corpus.question(id_) for slot, id_ in task_ids.items()})

    def play(self, actions: Mapping[int, str]) -> dict[int, RoundRecord]:
        """Play a round in each of some running slots, with one retriever call for all of them.

        This is `step` without arrays and without autoreset.

        Args:
            actions: slot -> message.

        Returns:
            The record of the round, by slot.

        Raises:
            ResetNeededError: a slot has no episode in progress.
            ConfigError: a message is not a string. Every slot is as it was.
        """
        episodes = self.episodes
        queries: list[str] = []
        asked: list[int] = []
        for slot, action in actions.items():
            found = episodes[slot].begin_step(action)
            queries += found
            asked.append(len(found))
        results: list[SearchResult] = []
        stats = self._stats
        if queries:
            started = time.perf_counter()
            results = search(self.config, queries)
            stats["retrieval_seconds"] += time.perf_counter() - started
            stats["batches"] += 1
            stats["queries"] += len(queries)
        stats["steps"] += len(asked)
        judged = self.config.judge is not None
        records: dict[int, RoundRecord] = {}
        begin = 0
        for slot, count in zip(actions, asked, strict=True):
            episode = episodes[slot]
            episode.apply_results(results[begin : begin + count])
            begin += count
            if not judged:
                records[slot] = episode.finish_step()
        if judged:
            finished = finish_steps(self.config, [episodes[slot] for slot in actions], self.judge_costs)
            records = dict(zip(actions, finished, strict=True))
        return records

    def end(self, stops: Mapping[int, StopReason]) -> dict[int, RoundRecord]:
        """End running episodes from outside; `truncate` without arrays.

        Args:
            stops: the reason of each slot.

        Returns:
            The last record of each episode, by slot.

        Raises:
            ResetNeededError: a slot has no episode in progress.
            ConfigError: not a slot, or not a reason to truncate. No episode was ended.
        """
        for slot, stop in stops.items():
            check_stop(stop)
            if not self._episode(slot).running:
                raise ResetNeededError(f"slot {slot} has no episode in progress: nothing was truncated")
        return {slot: self.episodes[slot].truncate(stop) for slot, stop in stops.items()}

    @property
    def running(self) -> NDArray[np.bool_]:
        """Which slots have an episode in progress, [num_envs]."""
        return np.array([episode.running for episode in self.episodes], dtype=np.bool_)

    @property
    def all_done(self) -> bool:
        """True if no slot has an episode in progress."""
        return not any(episode.running for episode in self.episodes)

    def snapshot(self, slot: int) -> dict[str, Any]:
        """The running episode of a slot as plain JSON, without a generator: forks share their question.

        Args:
            slot: number of the slot.

        Raises:
            ResetNeededError: no episode is running in the slot.
        """
        return snapshot(self._episode(slot))

    def restore(self, slot: int, state: dict[str, Any], observation: str = "") -> None:
        """Continue a snapshot of any slot, or of a `SearchEnv`, in this slot.

        Args:
            slot: number of the slot.
            state: what `snapshot` returned.
            observation: the last observation, which a snapshot does not hold; the slot's observation until the next
                step.

        Raises:
            SnapshotError: damaged, of another schema, or of another index. The slot is then as it was.
        """
        episode = self._episode(slot)
        restore(episode, state)
        episode.observation = self._observations[slot] = observation

    @property
    def system_prompt(self) -> str:
        """The dialect's instructions for a language model."""
        return self.config.system_prompt

    def task_ids(self, split: str | None = None) -> list[str]:
        """Ids of the questions that a split offers after filtering.

        Args:
            split: default: the environment's.
        """
        return [q.id for q in self.config.tasks(split or self.config.split)]

    @property
    def stats(self) -> dict[str, float]:
        """What is not deterministic and therefore not in `infos`: counts, seconds, cache hits, the judge's costs."""
        return {**self._stats, **cache_stats(self.config), **self.judge_costs.to_stats()}

    # -- parts -----------------------------------------------------------------------------------------

    def _start(self, questions: Mapping[int, Question]) -> dict[int, EpisodeStart]:
        starts = {slot: self.episodes[slot].start(question) for slot, question in questions.items()}
        for slot, start in starts.items():
            self._observations[slot] = start.observation
        self._stats["episodes"] += len(starts)
        return starts

    def _restart(self, slots: Sequence[int]) -> dict[int, EpisodeStart]:
        """Start new episodes by autoreset: each draws its question from the environment's split."""
        return self._start({slot: choose_question(self.config, None, self._draw(slot)) for slot in slots})

    def _result(self, records: Mapping[int, RoundRecord], sources: Mapping[int, InfoSource]) -> VectorStep:
        """A step's five values. A slot that took no part keeps its observation, which is "" once it has ended."""
        n = self.num_envs
        rewards, terminations, truncations = [0.0] * n, [False] * n, [False] * n
        observations = self._observations
        for slot, record in records.items():
            rewards[slot] = record.reward
            if record.outcome is not None:
                terminations[slot], truncations[slot] = record.terminated, record.truncated
            if sources[slot] is record:
                observations[slot] = record.observation
        flags = np.array(terminations, dtype=np.bool_), np.array(truncations, dtype=np.bool_)
        return tuple(observations), np.array(rewards), *flags, VectorInfos(n, sources)

    def _draw(self, slot: int) -> Any:
        def draw(n: int) -> int:
            if slot not in self._generators:
                self._generators[slot] = gym.utils.seeding.np_random()[0]
            return int(self._generators[slot].integers(n))

        return draw

    def _episode(self, slot: int) -> EpisodeState:
        if isinstance(slot, bool) or not isinstance(slot, int | np.integer) or not 0 <= slot < self.num_envs:
            raise ConfigError(f"slot {slot!r}: give a number from 0 to {self.num_envs - 1}")
        return self.episodes[int(slot)]


def make_vec(
    env_id: str,
    num_envs: int,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    **arguments: Any,
) -> SearchVectorEnv:
    """A `SearchVectorEnv` with the arguments of a registered id, as `collect` and the trainers use it.

    Args:
        env_id: e.g. "SearchQA-v0", or "module:SearchQA-v0".
        num_envs: number of slots.
        autoreset_mode: see `SearchVectorEnv`; unlike `gym.make_vec`, slots are not reset by themselves.
        **arguments: override the id's.

    Raises:
        UnknownIdError: not a registered search environment.
    """
    return SearchVectorEnv(num_envs, autoreset_mode=autoreset_mode, **registered_arguments(env_id, arguments))
