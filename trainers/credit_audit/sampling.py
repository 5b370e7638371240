"""Episodes with their true credit: played or recorded, valued by enumeration or by continuations."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig, env_fingerprint
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import agent_context_of

from ..core.algorithm import Algorithm, TrainContext
from ..core.groups import Group, drop_invalid, new_tokens
from ..core.lookahead import Meter, MeteredPlay, Spent
from ..core.rollouts import play_groups
from ..core.tasks import TaskSampler
from .exact import ExactValues
from .gradients import gradient_scores, score_vectors
from .graph import StateGraphs
from .monte_carlo import Precision, continue_episodes
from .scores import NEGLIGIBLE, Rounds, gather_rounds
from .store import ContinuationStore
from .truth import TrueCredit

__all__ = ["AuditSettings", "Method", "Sampled", "open_graphs", "sample_episodes"]

Method = Literal["exact", "monte-carlo"]
_TASKS_AT_ONCE = 16  # questions whose states are held in memory together


@dataclass(frozen=True)
class AuditSettings:
    """How to audit.

    Attributes:
        questions: number of questions.
        group_size: episodes per question.
        method: "exact" enumerates every state, "monte-carlo" continues from restored states.
        error: standard error of an advantage (monte-carlo).
        continuations: of each state at most (monte-carlo).
        budget: continuations of all states together at most (monte-carlo); None: no limit.
        max_states: states of `_TASKS_AT_ONCE` questions at most (exact).
        negligible: an advantage up to this size counts as zero.
        judge_noise: rates at which verdicts are flipped, each for one more score of the trainers that read them.
        num_envs: episodes played at once.
        seed: of questions, episodes and continuations.
    """

    questions: int = 64
    group_size: int = 8
    method: Method = "exact"
    error: float = 0.05
    continuations: int = 200
    budget: int | None = None
    max_states: int = 300_000
    negligible: float = NEGLIGIBLE
    judge_noise: tuple[float, ...] = ()
    num_envs: int = 256
    seed: int = 0

    @property
    def precision(self) -> Precision:
        """Of continuations."""
        return Precision(self.error, self.continuations, self.budget)


@dataclass
class Sampled:
    """Episodes with their true credit.

    Attributes:
        groups: the episodes of each question.
        truth: the true credit of each episode, in order.
        rounds: the same, flat.
        method: how it was computed.
        vectors_RP: see `score_vectors`; None where values are estimated.
        gradient_P: the true policy gradient; None where values are estimated.
        counts: states, environment steps or continuations it took, and "seconds".
        played: what the episodes took: "episodes", "tokens" that were sampled, "restores" of their environment.
    """

    groups: list[Group]
    truth: list[TrueCredit]
    rounds: Rounds
    method: Method
    vectors_RP: NDArray[np.float32] | None = None
    gradient_P: NDArray[np.float32] | None = None
    counts: dict[str, float] = field(default_factory=dict)
    played: dict[str, float] = field(default_factory=dict)

    @property
    def episodes(self) -> list[Episode]:
        """All episodes in order."""
        return [episode for group in self.groups for episode in group]

    def gradient_scores(self, credit_R: NDArray[np.float64]) -> dict[str, float]:
        """See `gradients.gradient_scores`; {} where values are estimated."""
        if self.vectors_RP is None or self.gradient_P is None:
            return {}
        return gradient_scores(self.vectors_RP, credit_R, self.rounds.episode_R, self.gradient_P)


def sample_episodes(
    policy: Policy,
    config: EnvConfig,
    settings: AuditSettings,
    on_progress: Callable[[str], None] = lambda text: None,
    place: Path | None = None,
    source: Algorithm | Sequence[Group] | None = None,
    graphs: StateGraphs | None = None,
) -> Sampled:
    """Play episodes, or take recorded ones, and compute their true credit.

    Args:
        policy: plays the episodes, unless they are recorded, and whatever values need.
        config: the environment.
        settings: how many and how.
        on_progress: called with what is being done.
        place: the file of the continuations.
        source: an algorithm that collects in its own way, or recorded episodes; None: every question is played
            `group_size` times.
        graphs: the states of this environment as far as they are known (exact); None: they are built, and forgotten.

    Raises:
        ConfigError: no episode ends with an answer, or their values cannot be computed; nothing but the episodes was played.
    """
    envs = SearchVectorEnv.from_config(config, settings.num_envs)
    ahead = Spent()
    if source is None or isinstance(source, Algorithm):
        groups, ahead = _play(policy, envs, settings, source)
    else:
        groups = [list(group) for group in source]
    groups, _ = drop_invalid(groups)
    _check_ends(policy, groups, config)
    if settings.method == "exact":
        sampled = _enumerate(policy, groups, settings, graphs or open_graphs(config, settings))
    else:
        sampled = _continue(policy, _open_plain(config, settings), groups, settings, on_progress, place)
    episodes = sampled.episodes
    sampled.played = {
        "episodes": len(episodes),
        "tokens": sum(map(new_tokens, episodes)) + ahead.tokens,
        "restores": sum(bool(episode.fork_round) for episode in episodes),
    }
    return sampled


def open_graphs(config: EnvConfig, settings: AuditSettings) -> StateGraphs:
    """The states of an environment for `sample_episodes`, none of them built yet; they serve policies of one kind.

    Args:
        config: the environment.
        settings: how many states may be held.
    """
    return StateGraphs(_open_plain(config, settings), settings.max_states, keep=True)


def _open_plain(config: EnvConfig, settings: AuditSettings) -> SearchVectorEnv:
    """The environment that values are computed in.

    They do not depend on a judge whose verdicts earn nothing; without it states are smaller and steps are free.
    """
    if not config.verdict_pays and not config.grades:
        config = replace(config, judge=None, judge_spec=None)
    return SearchVectorEnv.from_config(config, settings.num_envs)


def _play(
    policy: Policy, envs: SearchVectorEnv, settings: AuditSettings, algorithm: Algorithm | None
) -> tuple[list[Group], Spent]:
    """The groups, and what collecting them cost beyond them."""
    rng = np.random.default_rng([settings.seed, 1])
    tasks = TaskSampler(envs.task_ids(), settings.questions, settings.seed)
    policy.generator.manual_seed(settings.seed)
    meter = Meter()
    context = TrainContext(policy, rng, play=MeteredPlay(play_groups, meter), meter=meter)
    if algorithm is None:
        return context.play(policy, envs, tasks.draw(), settings.group_size, rng), Spent()
    algorithm.setup(context)
    groups = [list(group) for group in algorithm.collect(policy, envs, tasks)]
    return groups, meter.beyond(groups)


def _check_ends(policy: Policy, groups: Sequence[Group], config: EnvConfig) -> None:
    """Refuse episodes that decide nothing because the policy never ends one.

    Raises:
        ConfigError: there is no valid episode, or none that ends with an answer.
    """
    episodes = [episode for group in groups for episode in group]
    if not episodes:
        raise ConfigError("no valid episode was played: there is nothing to audit")
    if not any(episode.terminated for episode in episodes):
        reasons = sorted({str(episode.outcome.stop_reason) for episode in episodes})
        raise ConfigError(
            f"agent {policy.name!r} never answers: all {len(episodes)} episodes ended with {', '.join(reasons)} after "
            f"{np.mean([len(e.rounds) for e in episodes]):.0f} rounds on average (max_rounds is {config.max_rounds}), so "
            "there is no credit to assign: let a policy play that ends its episodes"
        )


def _enumerate(policy: Policy, groups: list[Group], settings: AuditSettings, graphs: StateGraphs) -> Sampled:
    started = time.process_time()
    policy.bind(agent_context_of(graphs.envs.config))
    exact = ExactValues(policy, graphs.envs, graphs=graphs)
    by_task: dict[str, list[Episode]] = {}
    for group in groups:
        by_task.setdefault(group[0].task_id, []).extend(group)
    tasks = list(by_task)
    total = sum(map(len, by_task.values()))
    truth: dict[int, TrueCredit] = {}
    gradient = torch.zeros(())
    states = steps = 0
    for begin in range(0, len(tasks), _TASKS_AT_ONCE):
        chunk = tasks[begin : begin + _TASKS_AT_ONCE]
        exact.solve(chunk, [len(by_task[task]) / total for task in chunk])
        states += exact.states
        steps += exact.transitions
        for task in chunk:
            for episode in by_task[task]:
                truth[id(episode)] = TrueCredit.exact(episode.episode_id, *exact.true_credit(episode))
        gradient = gradient + exact.policy_gradient()
    episodes = [episode for group in groups for episode in group]
    ordered = [truth[id(episode)] for episode in episodes]
    rounds = gather_rounds(episodes, ordered, settings.negligible)
    vectors = score_vectors(policy, episodes)
    counts = {
        "states": states,
        "environment steps": steps,
        "seconds": time.process_time() - started,
    }
    return Sampled(groups, ordered, rounds, "exact", vectors, gradient.numpy(), counts)


def _continue(
    policy: Policy,
    envs: SearchVectorEnv,
    groups: list[Group],
    settings: AuditSettings,
    on_progress: Callable[[str], None],
    place: Path | None,
) -> Sampled:
    here = env_fingerprint(envs.config)
    recorded = [replace(episode, env=here) for group in groups for episode in group]

    def note(done: int, planned: int) -> None:
        on_progress(f"{done:,} of {planned:,} continuations")

    with ExitStack() as stack:
        store = None
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            made_with = {"policy": _weights_digest(policy), "environment": here, "seed": settings.seed}
            store = stack.enter_context(ContinuationStore(place, made_with))
        found = continue_episodes(policy, envs, recorded, settings.precision, settings.seed, note, store)
    rounds = gather_rounds(recorded, found.truth, settings.negligible)
    return Sampled(groups, found.truth, rounds, "monte-carlo", counts=found.counts)


def _weights_digest(policy: Policy) -> str:
    """Digest of what the policy plays with."""
    digest = hashlib.blake2b(json.dumps(policy.describe(), sort_keys=True).encode(), digest_size=16)
    digest.update(f"{policy.temperature} {policy.top_p}".encode())
    for name, value in policy.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
