"""The rollout loop: plays episodes with any agent, text or tokens, and records them.

There is one loop. A text agent returns strings; a token agent returns `Turn`s whose ids and log-probabilities
are stored as they are, so nothing is ever decoded and tokenised again.
"""

from __future__ import annotations

import dataclasses
import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from .. import plugins
from ..agent import Agent, AgentContext, FunctionAgent, Turn
from ..checks import check_count
from ..env.config import EnvConfig
from ..env.env import SearchEnv
from ..env.game import gold_record
from ..env.judging import judge_episodes
from ..env.vector import SearchVectorEnv, make_vec
from ..episode import Episode, Outcome, Round, Segment, StopReason
from ..errors import ConfigError
from ..judges.protocol import check_judge

__all__ = [
    "AgentLike",
    "EnvLike",
    "agent_context_of",
    "collect",
    "open_agent",
    "open_envs",
    "rollout",
    "slot_info",
]

AgentLike = Agent | str | dict[str, Any] | Callable[[str, dict[str, Any]], str]
"""An agent, a registered name, {"name": …, **options}, or a function (observation, info) -> action."""
EnvLike = str | gym.Env[str, str] | SearchVectorEnv
"""A registered id, a search environment, or a vector of them."""


def slot_info(infos: dict[str, Any], slot: int) -> dict[str, Any]:
    """The single-environment info of one slot of `SearchVectorEnv`'s infos."""
    return {k: v[slot] for k, v in infos.items() if k[0] != "_" and k != "active" and infos[f"_{k}"][slot]}


class _Record:
    """An episode while it is being played."""

    def __init__(self, episode_id: str, group_id: str, info: dict[str, Any]) -> None:
        self.episode_id, self.group_id, self.reset_info = episode_id, group_id, info
        self.anchor = info["anchor"]
        self.rounds: list[Round] = []
        self.segments: list[Segment] = []

    def add(self, turn: Turn, observation: str, reward: float, info: dict[str, Any]) -> None:
        index = len(self.rounds)
        self.rounds.append(
            Round(
                uid=f"{self.episode_id}/{index}",
                anchor=self.anchor,
                text=turn.text,
                action=info["action"],
                hits=info["hits"],
                retrieval=info["retrieval"],
                observation=observation,
                reward=reward,
                reward_terms=info["reward_terms"],
                judge=info["judge"],
                feedback=info["feedback"],
                policy_version=turn.policy_version,
                temperature=turn.temperature,
                top_p=turn.top_p,
            )
        )
        self.anchor = info["anchor"]
        self._add_tokens(turn, index)

    def _add_tokens(self, turn: Turn, index: int) -> None:
        for earlier in turn.earlier:
            self._add_tokens(earlier, index)
        if len(turn.logprobs) != len(turn.token_ids):
            raise ConfigError(
                f"the agent gave {len(turn.logprobs)} log-probabilities for {len(turn.token_ids)} sampled tokens: "
                "give one per token"
            )
        if not turn.prompt_ids and not turn.token_ids:
            return
        if turn.new_segment or not self.segments:
            self.segments.append(Segment())
        segment = self.segments[-1]
        given, sampled = len(turn.prompt_ids), len(turn.token_ids)
        segment.tokens += turn.prompt_ids
        segment.tokens += turn.token_ids
        segment.mask += [0] * given + [1] * sampled
        segment.logprobs += [0.0] * given
        segment.logprobs += turn.logprobs
        segment.rounds += [index] * (given + sampled)

    def finish(self, env_config: EnvConfig, agent: str, terminated: bool, info: dict[str, Any]) -> Episode:
        outcome = info["outcome"]
        question = env_config.corpus.question(self.reset_info["task_id"])
        return Episode(
            episode_id=self.episode_id,
            group_id=self.group_id,
            tree_id=self.episode_id,
            parent_id=None,
            fork_round=None,
            agent=agent,
            env=env_fingerprint(env_config),
            task_id=question.id,
            split=question.split,
            question=question.text,
            gold=gold_record(question),
            rounds=self.rounds,
            outcome=Outcome(**{**outcome, "stop_reason": StopReason(outcome["stop_reason"])}),
            terminated=terminated,
            truncated=not terminated,
            valid_for_training=info["valid_for_training"],
            segments=self.segments,
            extra={"type": question.type, "hops": question.hops},
        )


def env_fingerprint(env_config: EnvConfig) -> dict[str, Any]:
    """What must match for two episodes to be comparable."""
    return {
        "corpus": env_config.corpus.name,
        "corpus_hash": env_config.corpus.hash,
        "retriever": env_config.retriever.name,
        "index_hash": env_config.retriever.index_hash,
        "dialect": env_config.dialect_name,
        "top_k": env_config.top_k,
        "max_rounds": env_config.max_rounds,
        "max_searches": env_config.max_searches,
        "max_chars": env_config.max_chars,
        "max_action_chars": env_config.max_action_chars,
        "max_observation_chars": env_config.max_observation_chars,
        "max_queries": env_config.max_queries,
        "reward": dict(env_config.reward),
        "judge": env_config.judge_spec if env_config.judge is not None else "off",
        "judge_when": env_config.judge_when,
        "feedback": env_config.feedback_level or "off",
        "feedback_calls": env_config.feedback_calls,
    }


def agent_context_of(env_config: EnvConfig) -> AgentContext:
    """What agents may know of an environment with these rules."""
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
    task_ids: Sequence[str],
    *,
    group_ids: Sequence[str] | None = None,
    ids: random.Random | None = None,
    seeds: Sequence[int] | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play one episode per task, refilling slots as they become free.

    Args:
        envs: its slots are reset as needed.
        agent: answers all running slots in one call per step.
        task_ids: the questions, repeats allowed.
        group_ids: one per task; episodes of a group share it. Default: every episode is its own group.
        ids: source of episode ids; pass a seeded one for reproducible records.
        seeds: one per task, below 2**64: what an episode samples then depends on its seed alone, not on the episodes
            that run beside it (but for rounding in batched arithmetic). The seeds are the episodes' ids, too.
        on_episode: called with each episode as it ends, before any verdict that is given after the episodes.

    Returns:
        Episodes in the order of `task_ids`, judged.

    Raises:
        ConfigError: an unknown task, or a judge that cannot work, before any episode is played.
    """
    if group_ids is not None and len(group_ids) != len(task_ids):
        raise ConfigError(f"{len(group_ids)} group ids for {len(task_ids)} tasks: give one per task")
    if seeds is not None and len(seeds) != len(task_ids):
        raise ConfigError(f"{len(seeds)} seeds for {len(task_ids)} tasks: give one per task")
    for task_id in task_ids:
        envs.config.corpus.question(task_id)  # a wrong id stops here, before any episode is played
    check_judge(envs.config.judge)
    source = ids or random.Random(secrets.randbits(64))
    env_config = envs.config
    agent.bind(agent_context_of(env_config))
    waiting = deque(range(len(task_ids)))
    finished: dict[int, Episode] = {}
    records: dict[int, _Record] = {}  # by slot
    positions: dict[int, int] = {}  # slot -> position in task_ids
    observations: dict[int, str] = {}
    infos_by_slot: dict[int, dict[str, Any]] = {}

    def fill(free: list[int]) -> None:
        slots = free[: len(waiting)]
        if not slots:
            return
        mask = np.zeros(envs.num_envs, dtype=np.bool_)
        mask[slots] = True
        for slot in slots:
            positions[slot] = waiting.popleft()
        texts, infos = envs.reset(
            options={"reset_mask": mask, "task_ids": [task_ids[positions[slot]] for slot in slots]}
        )
        for slot in slots:
            info = slot_info(infos, slot)
            number = source.getrandbits(64) if seeds is None else seeds[positions[slot]]
            episode_id = f"{number:016x}"
            group_id = group_ids[positions[slot]] if group_ids is not None else episode_id
            records[slot] = _Record(episode_id, group_id, info)
            observations[slot], infos_by_slot[slot] = texts[slot], info
        agent.begin(slots)
        if seeds is not None:
            agent.seed(slots, [seeds[positions[slot]] for slot in slots])

    def take(slots: Sequence[int], turns: dict[int, Turn], result: Any) -> None:
        texts, rewards, terminations, truncations, infos = result
        for slot in slots:
            info = slot_info(infos, slot)
            records[slot].add(turns[slot], texts[slot], float(rewards[slot]), info)
            observations[slot], infos_by_slot[slot] = texts[slot], info
            if terminations[slot] or truncations[slot]:
                record = records.pop(slot)
                episode = record.finish(envs.config, agent.name, bool(terminations[slot]), info)
                finished[positions.pop(slot)] = episode
                if on_episode is not None:
                    on_episode(episode)

    fill(sorted(range(envs.num_envs)))
    while records:
        slots = sorted(records)
        acts = agent.act(slots, [observations[s] for s in slots], [infos_by_slot[s] for s in slots])
        if len(acts) != len(slots):
            raise ConfigError(f"agent {agent.name!r} gave {len(acts)} acts for {len(slots)} observations")
        turns = {s: a if isinstance(a, Turn) else Turn(a) for s, a in zip(slots, acts, strict=True)}
        stops = {s: t.stop for s, t in turns.items() if t.stop is not None}
        if stops:
            take(list(stops), turns, envs.truncate(stops))
        going = [s for s in slots if s not in stops]
        if going:
            actions = [""] * envs.num_envs
            for slot in going:
                actions[slot] = turns[slot].text
            take(going, turns, envs.step(actions))
        if waiting:
            fill([s for s in range(envs.num_envs) if s not in records])
    episodes = [finished[i] for i in range(len(task_ids))]
    if envs.config.judge is not None and not envs.config.judges_steps:
        judge_episodes(envs.config.judge, episodes, envs.config.judge_when, envs.judge_costs)
    return episodes


def open_agent(agent: AgentLike) -> Agent:
    """Turn whatever stands for an agent into one.

    Raises:
        UnknownIdError: nobody registered the name.
        ConfigError: options the agent does not take, or not an agent at all.
    """
    from ..specs import call_factory

    if isinstance(agent, Agent):
        return agent
    if isinstance(agent, str | dict):
        options = {"name": agent} if isinstance(agent, str) else dict(agent)
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
    """A vector environment for an agent; gold data is revealed to the controls that need it, and only to them.

    `split` is the one to be played: a corpus need not have the split an id plays by default.
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
        layer: Any = env
        harmless = (gym.wrappers.PassiveEnvChecker, gym.wrappers.OrderEnforcing)
        while isinstance(layer, gym.Wrapper):
            if not isinstance(layer, harmless):
                raise ConfigError(
                    f"the environment is wrapped in {type(layer).__name__}, which a batched rollout would skip: "
                    "pass the id or the unwrapped environment, or step it yourself"
                )
            layer = layer.env
        if not isinstance(layer, SearchEnv):
            raise ConfigError(f"{env!r} is not a search environment: pass an id like 'SearchQA-v0'")
        env_config = layer.config
    unknown = set(arguments) - {"reveal_gold"}
    if unknown:
        raise ConfigError(f"{sorted(unknown)} cannot change a ready environment: pass its id instead")
    return SearchVectorEnv.from_config(
        dataclasses.replace(env_config, **arguments) if arguments else env_config, num_envs
    )


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
        episodes: how many; None plays the whole split once.
        split: default: the environment's.
        task_ids: play exactly these instead.
        seed: draws the questions; None takes them in corpus order.
        num_envs: episodes played at once.
        **arguments: environment arguments (only with an id).

    Raises:
        ConfigError: an argument that cannot be used, before any episode is played.
    """
    opened = open_agent(agent)
    envs = open_envs(env, opened, num_envs, split, **arguments)
    tasks = list(task_ids) if task_ids is not None else choose_tasks(envs.config, split, episodes, seed)
    return collect(envs, opened, tasks)
