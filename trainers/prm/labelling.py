"""Makes labels from what `searchgym prm label` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.agents.enumerable import EnumerablePolicy
from searchgym.agents.policy import Policy
from searchgym.audit.auditing import ready_judge
from searchgym.env.config import EnvConfig, env_fingerprint
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError

from ..components.search_tree import TreeOptions, grow_trees
from ..core.groups import Group, drop_invalid
from ..core.rollouts import load_groups, play_groups
from ..core.tasks import TaskSampler
from ..credit_audit.opening import open_policy
from ..credit_audit.sampling import AuditSettings, sample_episodes
from .labels import StepLabels

__all__ = ["LabelRequest", "make_labels"]

_CONTINUATIONS = "continuations.jsonl"


@dataclass(frozen=True)
class LabelRequest:
    """What to label, and how.

    Attributes:
        method: "exact", "monte-carlo", "mcts", "judge" or "preferences"; None: exact where the agent lists its acts, else monte-carlo.
        agent: registered agent that plays.
        agent_options: its options.
        env: registered environment.
        env_options: its arguments.
        judge: spec of the judge (judge).
        episodes: file of recorded episodes; None: they are played.
        preferences: file of preferences (preferences).
        tree: how the search tree of a question is grown (mcts).
        questions: number of questions.
        group_size: episodes per question.
        error: standard error of an advantage (monte-carlo).
        continuations: of each state at most (monte-carlo).
        num_envs: episodes played at once.
        seed: of questions, episodes and continuations.
    """

    method: str | None = None
    agent: str = "candidate"
    agent_options: Mapping[str, Any] = field(default_factory=dict)
    env: str = "SearchQA-v0"
    env_options: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] | None = None
    episodes: Path | None = None
    preferences: Path | None = None
    tree: TreeOptions | None = None
    questions: int = 64
    group_size: int = 4
    error: float = 0.25
    continuations: int = 8
    num_envs: int = 256
    seed: int = 0


def make_labels(
    request: LabelRequest, place: Path | None = None, on_progress: Callable[[str], None] = lambda doing: None
) -> StepLabels:
    """Play or read the episodes, and label them.

    Args:
        request: what to label.
        place: directory that keeps continuations, so that an interrupted call continues.
        on_progress: called with what is being done.

    Raises:
        ConfigError: a method without what it needs.
    """
    _check_request(request)
    recorded = None if request.episodes is None else load_groups(request.episodes)
    if request.method == "preferences":
        assert recorded is not None
        assert request.preferences is not None
        source = {"method": "preferences", "file": request.preferences.name}
        return StepLabels.from_preferences([e for g in recorded for e in g], request.preferences, source)
    config = make_vec(request.env, 1, **request.env_options).config
    if request.method == "judge":
        assert request.judge is not None
        judge = ready_judge(dict(request.judge), config.corpus)
        groups = (
            _play(open_policy(request.agent, request.agent_options), config, request)
            if recorded is None
            else recorded
        )
        on_progress("verdicts")
        episodes = [episode for group in drop_invalid(groups)[0] for episode in group]
        return StepLabels.from_verdicts(episodes, judge, {"method": "judge", "judge": dict(request.judge)})
    policy = open_policy(request.agent, request.agent_options)
    if request.method == "mcts":
        on_progress("search trees")
        return _search(policy, config, request)
    method = request.method or ("exact" if isinstance(policy, EnumerablePolicy) else "monte-carlo")
    settings = AuditSettings(
        questions=request.questions,
        group_size=request.group_size,
        method=method,  # type: ignore[arg-type]  # one of the two
        error=request.error,
        continuations=request.continuations,
        num_envs=request.num_envs,
        seed=request.seed,
    )
    on_progress("episodes")
    kept = None if place is None else place / _CONTINUATIONS
    sampled = sample_episodes(policy, config, settings, on_progress, kept, recorded)
    made_with: dict[str, Any] = {
        "method": method,
        "policy": policy.describe(),
        "environment": env_fingerprint(config),
        "error": request.error,
        "continuations": request.continuations,
        "seed": request.seed,
    }
    return StepLabels.from_truth(sampled.episodes, sampled.truth, made_with)


def _check_request(request: LabelRequest) -> None:
    if request.method == "judge" and request.judge is None:
        raise ConfigError("--method judge needs a judge: name one with --judge")
    if request.method != "judge" and request.judge is not None:
        raise ConfigError(f"--judge {request.judge['name']} only applies to --method judge: leave it out")
    if request.method == "preferences" and (request.episodes is None or request.preferences is None):
        raise ConfigError(
            "--method preferences needs the episodes and the preferences: give --episodes and --preferences"
        )
    if request.method == "mcts" and request.episodes is not None:
        raise ConfigError("--method mcts plays its own episodes: leave --episodes out")
    if request.method != "mcts" and request.tree is not None:
        raise ConfigError("--tree only applies to --method mcts: leave it out")
    if request.method != "preferences" and request.preferences is not None:
        raise ConfigError(
            f"--preferences {request.preferences} only applies to --method preferences: leave it out"
        )
    for path in (request.episodes, request.preferences):
        if path is not None and not path.is_file():
            raise ConfigError(f"there is no file {str(path)!r}")


def _play(policy: Policy, config: EnvConfig, request: LabelRequest) -> list[Group]:
    envs = SearchVectorEnv.from_config(config, request.num_envs)
    tasks = TaskSampler(envs.task_ids(), request.questions, request.seed)
    policy.generator.manual_seed(request.seed)
    rng = np.random.default_rng([request.seed, 1])
    return play_groups(policy, envs, tasks.draw(), request.group_size, rng)


def _search(policy: Policy, config: EnvConfig, request: LabelRequest) -> StepLabels:
    """Levels from search trees, one of each question; its simulations are the episodes."""
    options = request.tree or TreeOptions()
    envs = SearchVectorEnv.from_config(config, request.num_envs)
    tasks = TaskSampler(envs.task_ids(), request.questions, request.seed)
    policy.generator.manual_seed(request.seed)
    rng = np.random.default_rng([request.seed, 1])
    trees = grow_trees(play_groups, policy, envs, tasks.draw(), options, rng)
    made_with = {
        "method": "mcts",
        "policy": policy.describe(),
        "environment": env_fingerprint(config),
        "tree": asdict(options),
        "seed": request.seed,
    }
    episodes = [(tree, episode) for tree in trees for episode in tree.episodes]
    if not episodes:
        raise ConfigError("no valid episode was played: there is nothing to label")
    levels = [tree.levels(episode) for tree, episode in episodes]
    return StepLabels("values", [episode for _, episode in episodes], levels, made_with=made_with)
