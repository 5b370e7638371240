"""The rollout loop: plays episodes with any agent, text or tokens, and records them.

There is one loop. A text agent returns strings; a token agent returns `Turn`s whose ids and log-probabilities
are stored as they are, so that no text is ever tokenised again.
"""

from __future__ import annotations

import dataclasses
import random
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import gymnasium as gym
import numpy as np

from ..agent import Agent, AgentContext, FunctionAgent, Turn
from ..env.config import EnvConfig
from ..env.env import SearchEnv
from ..env.infos import InfoSource
from ..env.judging import judge_episodes
from ..env.reward_weights import EXACT_WRAPPERS
from ..env.vector import SearchVectorEnv, make_vec
from ..errors import ConfigError
from ..judges.protocol import check_judge
from ..options import check_count, mapping, plugins
from ..records.acts import Act
from ..records.episode import Episode, RoundRecord, StopReason
from .recorder import EpisodeRecorder
from .starts import Start, check_starts, open_slots

__all__ = [
    "AgentLike",
    "EnvLike",
    "agent_context_of",
    "collect",
    "open_agent",
    "open_envs",
    "rollout",
]

AgentLike = Agent | str | Mapping[str, Any] | Callable[[str, dict[str, Any]], str]
"""An agent, a registered name, {"name": …, **options}, or a function (observation, info) -> action."""
EnvLike = str | gym.Env[str, str] | SearchVectorEnv
"""A registered id, a search environment, or a vector of them."""


class _Infos(Sequence[dict[str, Any]]):
    """The infos of some slots, each built when the agent reads it."""

    def __init__(self, sources: Sequence[InfoSource]) -> None:
        self._sources = sources
        self._built: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        positions = range(len(self._sources))[index]
        if isinstance(positions, range):
            return [self[position] for position in positions]
        if positions not in self._built:
            self._built[positions] = self._sources[positions].to_info()
        return self._built[positions]

    def act(self, index: int) -> Act:
        """See `agent.played_act`; most agents read nothing else of an info."""
        source = self._sources[index]
        return source.action if isinstance(source, RoundRecord) else Act(**self[index]["action"])


def agent_context_of(env_config: EnvConfig) -> AgentContext:
    """What agents may know of an environment with these arguments."""
    return AgentContext(
        dialect=env_config.dialect,
        system_prompt=env_config.system_prompt,
        corpus=env_config.corpus,
        max_rounds=env_config.max_rounds,
        feedback_calls=env_config.feedback_calls,
        max_queries=env_config.max_queries,
    )


def collect(
    envs: SearchVectorEnv,
    agent: Agent,
    task_ids: Sequence[str] | None = None,
    *,
    starts: Sequence[Start] | None = None,
    group_ids: Sequence[str] | None = None,
    ids: random.Random | None = None,
    seeds: Sequence[int] | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play one episode per task or start, refilling slots as they become free.

    Args:
        envs: its slots are started as needed, whatever its `autoreset_mode`.
        agent: answers all running slots in one call per step.
        task_ids: the questions; repeats are allowed.
        starts: in place of `task_ids`: where each episode begins. An episode that continues another one (a branch) shares
            the rounds up to the fork with it: the same records with the same uids, and the same tokens.
        group_ids: one per episode; episodes of a group share it. Default: a branch is in its parent's group, any other
            episode in a group of its own.
        ids: source of episode ids; pass a seeded one for reproducible records.
        seeds: one per episode, below 2**64: an episode's samples then depend on its seed alone, not on the episodes that
            run at the same time (except for rounding in batched arithmetic). The seeds are also the episodes' ids.
        on_episode: called with each episode as it ends, before verdicts of judges that run after the episodes.

    Returns:
        Episodes in the order of `task_ids` or `starts`, judged.

    Raises:
        ConfigError: an unknown task, an episode that cannot be continued in these environments, or a judge that cannot
            work; no episode was played.
    """
    if (task_ids is None) == (starts is None):
        raise ConfigError("give either task_ids or starts")
    begins = [Start(task_id) for task_id in task_ids or ()] if starts is None else list(starts)
    if group_ids is not None and len(group_ids) != len(begins):
        raise ConfigError(f"{len(group_ids)} group ids for {len(begins)} tasks: give one per task")
    if seeds is not None and len(seeds) != len(begins):
        raise ConfigError(f"{len(seeds)} seeds for {len(begins)} tasks: give one per task")
    states = check_starts(envs.config, begins)
    check_judge(envs.config.judge)
    source = ids or random.Random(secrets.randbits(64))
    agent.bind(agent_context_of(envs.config))
    waiting = deque(range(len(begins)))
    finished: dict[int, Episode] = {}
    recorders: dict[int, EpisodeRecorder] = {}  # by slot
    positions: dict[int, int] = {}  # slot -> position in `begins`
    observations: dict[int, str] = {}
    latest: dict[int, InfoSource] = {}
    rounds_left: dict[int, int] = {}  # by slot, where a start limits the rounds

    def fill(free: list[int]) -> None:
        slots = free[: len(waiting)]
        if not slots:
            return
        for slot in slots:
            positions[slot] = waiting.popleft()
        opened = open_slots(
            envs, {slot: (begins[positions[slot]], states[positions[slot]]) for slot in slots}
        )
        for slot, (observation, info_source) in opened.items():
            number = source.getrandbits(64) if seeds is None else seeds[positions[slot]]
            episode_id, start = f"{number:016x}", begins[positions[slot]]
            group_id = episode_id if start.prefix is None else start.prefix.group_id
            if group_ids is not None:
                group_id = group_ids[positions[slot]]
            question = envs.config.corpus.question(start.task_id)
            recorders[slot] = EpisodeRecorder(episode_id, group_id, question, start.prefix, start.fork_round)
            observations[slot], latest[slot] = observation, info_source
            if start.rounds is not None:
                rounds_left[slot] = start.rounds
        agent.begin(slots)
        seed(slots)
        siblings: dict[tuple[int, int], list[int]] = {}
        for slot in slots:
            start = begins[positions[slot]]
            if start.prefix is not None and start.fork_round:
                siblings.setdefault((id(start.prefix), start.fork_round), []).append(slot)
        for first, *others in siblings.values():
            start = begins[positions[first]]
            assert start.prefix is not None
            agent.resume(first, start.prefix, start.fork_round)
            if others:
                agent.fork(first, others)
                seed(others)

    def seed(slots: list[int]) -> None:
        if seeds is not None:
            agent.seed(slots, [seeds[positions[slot]] for slot in slots])

    def take(turns: dict[int, Turn], records: dict[int, RoundRecord]) -> None:
        for slot, record in records.items():
            recorders[slot].add(turns[slot], record)
            observations[slot], latest[slot] = record.observation, record
            if slot in rounds_left:
                rounds_left[slot] -= 1
            if record.outcome is not None:
                rounds_left.pop(slot, None)
                episode = recorders.pop(slot).finish(envs.config, agent.name)
                finished[positions.pop(slot)] = episode
                if on_episode is not None:
                    on_episode(episode)

    fill(list(range(envs.num_envs)))
    while recorders:
        slots = sorted(recorders)
        acts = agent.act_some(slots, [observations[s] for s in slots], _Infos([latest[s] for s in slots]))
        if len(acts) != len(slots):
            raise ConfigError(f"agent {agent.name!r} gave {len(acts)} acts for {len(slots)} observations")
        turns = {s: turn for s, turn in zip(slots, acts, strict=True) if turn is not None}
        if not turns:
            raise ConfigError(f"agent {agent.name!r} answered none of {len(slots)} observations")
        stops = {s: turn.stop for s, turn in turns.items() if turn.stop is not None}
        if stops:
            take(turns, envs.end(stops))
        playing = {s: turn.text for s, turn in turns.items() if s not in stops}
        if playing:
            take(turns, envs.play(playing))
        if over := [slot for slot, rounds in rounds_left.items() if rounds == 0]:
            take(dict.fromkeys(over, Turn("")), envs.end(dict.fromkeys(over, StopReason.TOKEN_BUDGET)))
        if waiting:
            fill([slot for slot in range(envs.num_envs) if slot not in recorders])
    episodes = [finished[i] for i in range(len(begins))]
    if envs.config.judge is not None and not envs.config.judges_steps:
        judge_episodes(envs.config.judge, episodes, envs.config.judge_when, envs.judge_costs)
    return episodes


def open_agent(agent: AgentLike) -> Agent:
    """Open an agent.

    Args:
        agent: an `Agent`, a registered name, {"name": …, **options}, or a function (observation, info) -> action.

    Raises:
        UnknownIdError: the name is not registered.
        ConfigError: options that the agent does not take, or not an agent.
    """
    from ..specs import call_factory

    if isinstance(agent, Agent):
        return agent
    if isinstance(agent, str | Mapping):
        options = {"name": agent} if isinstance(agent, str) else mapping("agent", agent)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f'agent is {agent!r}: give a name, or a dict like {{"name": …, "option": …}}')
        opened = call_factory("agent", name, plugins.load("agents", name), (), options)
        if not isinstance(opened, Agent):
            raise ConfigError(f"agent {name!r} gave a {type(opened).__name__}, not a searchgym.Agent")
        return opened
    if callable(agent):
        return FunctionAgent(agent)
    raise ConfigError(f"agent is {agent!r}: give an Agent, a name, or a function (observation, info) -> str")


def open_envs(
    env: EnvLike, agent: Agent, num_envs: int, split: str | None = None, **arguments: Any
) -> SearchVectorEnv:
    """A vector environment for an agent. Gold data is revealed only to the controls that need it.

    Args:
        env: a registered id, a search environment, or a vector of them.
        agent: who is to play.
        num_envs: number of slots, if `env` is not a vector.
        split: the split to be played: a corpus need not have the split that an id plays by default.
        **arguments: environment arguments (only with an id).

    Raises:
        ConfigError: an argument that cannot be used, or a wrapped environment.
    """
    if agent.needs_gold:
        arguments["reveal_gold"] = True
    if isinstance(env, str):
        if split is not None:
            arguments["split"] = split
        return make_vec(env, num_envs, **arguments)
    if isinstance(env, SearchVectorEnv):
        env_config, num_envs = env.config, env.num_envs
    else:
        env_config = _unwrapped_config(env)
    unknown = set(arguments) - {"reveal_gold"}
    if unknown:
        raise ConfigError(f"{sorted(unknown)} cannot change a ready environment: pass its id instead")
    return SearchVectorEnv.from_config(
        dataclasses.replace(env_config, **arguments) if arguments else env_config, num_envs
    )


def _unwrapped_config(env: gym.Env[str, str]) -> EnvConfig:
    """The arguments of a search environment, with the rewards that its wrappers make of its own."""
    layer: Any = env
    harmless = (gym.wrappers.PassiveEnvChecker, gym.wrappers.OrderEnforcing)
    wrappers = []  # from the outermost to the innermost
    while isinstance(layer, gym.Wrapper):
        if type(layer) in EXACT_WRAPPERS:
            wrappers.append(layer)
        elif not isinstance(layer, harmless):
            raise ConfigError(
                f"the environment is wrapped in {type(layer).__name__}, which a batched rollout would skip: "
                "pass the id or the unwrapped environment, or step it yourself"
            )
        layer = layer.env
    if not isinstance(layer, SearchEnv):
        raise ConfigError(f"{env!r} is not a search environment: pass an id like 'SearchQA-v0'")
    reward = layer.config.reward
    for wrapper in reversed(wrappers):
        reward = reward.wrapped(wrapper)
    return dataclasses.replace(layer.config, reward=reward) if wrappers else layer.config


def choose_tasks(env_config: EnvConfig, split: str | None, count: int | None, seed: int | None) -> list[str]:
    """Task ids: the first `count` of the split in corpus order, or of a seeded permutation; cycled if few."""
    ids = [q.id for q in env_config.tasks(split or env_config.split)]
    if seed is not None:
        check_count("seed", seed, 0)
        ids = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    if count is None:
        return ids
    check_count("episodes", count, 1)
    return [ids[i % len(ids)] for i in range(count)]


def rollout(
    env: EnvLike,
    agent: AgentLike,
    episodes: int | None = 1,
    *,
    split: str | None = None,
    task_ids: Sequence[str] | None = None,
    seed: int | None = None,
    num_envs: int = 32,
    **arguments: Any,
) -> list[Episode]:
    """Play episodes and return their records.

    Args:
        env: registered id, search environment, or vector environment.
        agent: an `Agent`, a registered name, or a function (observation, info) -> action.
        episodes: number of episodes; None plays the whole split once.
        split: default: the environment's.
        task_ids: play exactly these questions instead.
        seed: draws the questions; None takes them in corpus order.
        num_envs: episodes played at once.
        **arguments: environment arguments (only with an id).

    Raises:
        ConfigError: an argument that cannot be used; no episode was played.
    """
    opened = open_agent(agent)
    envs = open_envs(env, opened, num_envs, split, **arguments)
    tasks = list(task_ids) if task_ids is not None else choose_tasks(envs.config, split, episodes, seed)
    return collect(envs, opened, tasks)
