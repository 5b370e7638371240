"""The audit: sample episodes, compute their true credit, and score what each trainer gives them.

Trainers that play in the same environment are scored on the same episodes. A trainer that changes the environment (CAPF
adds the feedback act) or plays in its own way (Tree-GRPO) is scored on episodes that it collects itself, and says so.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig, env_fingerprint
from searchgym.env.vector import SearchVectorEnv
from searchgym.episode import Episode
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import agent_context_of
from searchgym.statistics import Interval

from ..algorithm import Algorithm, TrainContext
from ..groups import Group, Groups, drop_invalid
from ..tasks import TaskSampler
from .exact import ExactValues
from .gradients import gradient_scores, score_vectors
from .monte_carlo import check_reachable, continue_episodes
from .scores import NEGLIGIBLE, Rounds, credit_scores, gather_rounds, score_intervals
from .store import ContinuationStore
from .truth import TrueCredit

__all__ = ["AuditSettings", "CreditAudit", "RuleScore", "Sampled", "audit_credit", "trainer_credit"]

Method = Literal["exact", "monte-carlo"]
_TASKS_AT_ONCE = 16  # questions whose states are held in memory together
REFERENCES = ("true advantage", "reversed", "return − V(s)", "random")
"""Rows that calibrate the scores: the truth, its opposite, an unbiased estimate of it, and noise."""


@dataclass(frozen=True)
class AuditSettings:
    """How to audit.

    Attributes:
        questions: number of questions.
        group_size: episodes per question.
        method: "exact" enumerates every state, "monte-carlo" continues from restored states.
        error: standard error of an advantage (monte-carlo).
        continuations: of each state at most (monte-carlo).
        max_states: states of `_TASKS_AT_ONCE` questions at most (exact).
        negligible: an advantage up to this size counts as zero.
        num_envs: episodes played at once.
        seed: of questions, episodes and continuations.
    """

    questions: int = 64
    group_size: int = 8
    method: Method = "exact"
    error: float = 0.05
    continuations: int = 200
    max_states: int = 300_000
    negligible: float = NEGLIGIBLE
    num_envs: int = 256
    seed: int = 0


@dataclass
class Sampled:
    """Episodes with their true credit.

    Attributes:
        groups: the episodes of each question.
        truth: the true credit of each episode, in order.
        rounds: the same, flat.
        vectors_RP: see `score_vectors`; None where values are estimated.
        gradient_P: the true policy gradient; None where values are estimated.
        counts: states, environment steps or continuations it took, and "seconds".
    """

    groups: list[Group]
    truth: list[TrueCredit]
    rounds: Rounds
    vectors_RP: NDArray[np.float32] | None = None
    gradient_P: NDArray[np.float32] | None = None
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def episodes(self) -> list[Episode]:
        """All episodes in order."""
        return [episode for group in self.groups for episode in group]


@dataclass(frozen=True)
class RuleScore:
    """What the audit says of one rule.

    Attributes:
        label: the trainer, or one of `REFERENCES`.
        scores: see `scores.SCORES`, with intervals.
        gradient: "cosine" and "snr", see `gradients`; empty where there is no true gradient.
        shared: whether it was scored on the episodes that all others share.
        seconds: processor time of its credit.
        credit_R: its credit of each round.
        note: what qualifies the figures; "" if nothing does.
    """

    label: str
    scores: dict[str, Interval]
    gradient: dict[str, float]
    shared: bool
    seconds: float
    credit_R: NDArray[np.float64]
    note: str = ""


@dataclass(frozen=True)
class CreditAudit:
    """The result of an audit.

    Attributes:
        settings: how it was made.
        env: the environment's arguments, as recorded in episodes.
        rules: one entry per rule, references first.
        floor: the scores of one replica of the true credit against the other: no rule can be seen to do better.
        sampled: the shared episodes and their truth.
        left_out: trainer -> why it could not be scored on episodes of its own.
    """

    settings: AuditSettings
    env: dict[str, Any]
    rules: list[RuleScore]
    floor: dict[str, float]
    sampled: Sampled
    left_out: dict[str, str] = field(default_factory=dict)


def audit_credit(
    policy: Policy,
    config: EnvConfig,
    trainers: Mapping[str, Algorithm],
    settings: AuditSettings,
    on_progress: Callable[[str], None] = lambda text: None,
    directory: Path | None = None,
) -> CreditAudit:
    """Score the credit of trainers against the truth.

    Args:
        policy: plays; its weights are not changed.
        config: the environment; with a judge if a trainer needs verdicts.
        trainers: label -> algorithm, not set up yet.
        settings: how many episodes and which method.
        on_progress: called with what is being done.
        directory: keeps the continuations (monte-carlo), so that an interrupted audit can be repeated and continues.

    Raises:
        ConfigError: a trainer that cannot learn in this environment, a policy that cannot be enumerated or continued, or
            too many states; before any trainer is scored. What is wrong with the episodes of a single trainer that
            plays its own only leaves that one out, unless it is the only one.
    """
    if settings.method == "monte-carlo":
        check_reachable(settings.error, settings.continuations)
    configs = {label: algorithm.configure_env(config) for label, algorithm in trainers.items()}
    on_progress("episodes of all trainers")
    shared = _sample(policy, config, settings, on_progress, directory and directory / "continuations.jsonl")
    rules = [_reference(label, shared, settings.seed) for label in REFERENCES]
    left_out: dict[str, str] = {}
    for label, algorithm in trainers.items():
        on_progress(f"trainer {label}")
        own = _plays_alone(algorithm) or _differs(configs[label], config)
        place = directory and directory / f"continuations-{label}.jsonl"
        sampled = shared
        if own:
            try:
                sampled = _sample(policy, configs[label], settings, on_progress, place, algorithm)
            except ConfigError as error:  # e.g. the feedback act gives a policy many more states
                if len(trainers) == 1:
                    raise
                left_out[label] = str(error)
                continue
        rules.append(_score_trainer(label, algorithm, policy, sampled, not own, settings))
    halves = [np.concatenate([t.replicas_2R[half] for t in shared.truth]) for half in (0, 1)]
    floor = credit_scores(replace(shared.rounds, true_R=halves[0]), halves[1])
    return CreditAudit(settings, env_fingerprint(config), rules, floor, shared, left_out)


def trainer_credit(
    algorithm: Algorithm, policy: Policy, groups: Sequence[Group], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The credit that an algorithm gives each round, [R]: the mean over the round's tokens.

    Rounds of episodes that the algorithm does not learn from get 0, because they do not move the policy.

    Args:
        algorithm: not set up yet, or set up with this policy.
        policy: played the episodes.
        groups: the episodes.
        rng: the algorithm's source of randomness.
    """
    algorithm.setup(TrainContext(policy, rng))
    algorithm.extra_modules()
    valid, _ = drop_invalid(groups)
    rewarded = Groups(valid, [algorithm.rewards(group) for group in valid])
    chosen = algorithm.select(rewarded)
    kept = Groups(
        [group for group, keep in zip(rewarded, chosen, strict=True) if keep],
        [r_G for r_G, keep in zip(rewarded.rewards, chosen, strict=True) if keep],
    )
    episodes = [episode for group in groups for episode in group]
    first = dict(
        zip(map(id, episodes), np.cumsum([0, *(len(e.rounds) for e in episodes)]).tolist(), strict=False)
    )
    credit_R = np.zeros(sum(len(episode.rounds) for episode in episodes))
    if not kept.samples:
        return credit_R
    algorithm.prepare(policy, kept)
    given = algorithm.credit(kept)
    tokens, values_N = kept.tokens, given.to_tokens(kept)
    if given.loss_mask_N is not None:
        values_N = np.where(given.loss_mask_N, values_N, 0.0)
    owner_E = np.array([first[id(episode)] for episode in kept.episodes])
    place_N = owner_E[tokens.episode_N] + tokens.round_N
    counts_R = np.bincount(place_N, minlength=len(credit_R))
    sums_R = np.bincount(place_N, values_N, minlength=len(credit_R))
    return np.where(counts_R > 0, sums_R / np.maximum(counts_R, 1), 0.0)


# -- parts ---------------------------------------------------------------------------------------------


def _plays_alone(algorithm: Algorithm) -> bool:
    """Whether an algorithm collects episodes in another way than playing every question `group_size` times."""
    from ..algorithms.grpo import GRPO

    if isinstance(algorithm, GRPO):
        return type(algorithm).play is not GRPO.play or type(algorithm).collect is not GRPO.collect
    return type(algorithm).collect is not Algorithm.collect


def _differs(config: EnvConfig, other: EnvConfig) -> bool:
    """Whether episodes of one environment could not have been played in the other."""
    ignored = {"judge", "judge_when"}
    one, two = ({k: v for k, v in env_fingerprint(c).items() if k not in ignored} for c in (config, other))
    return one != two


def _sample(
    policy: Policy,
    config: EnvConfig,
    settings: AuditSettings,
    on_progress: Callable[[str], None],
    place: Path | None = None,
    algorithm: Algorithm | None = None,
) -> Sampled:
    """Play episodes and compute their true credit.

    Args:
        policy: plays.
        config: the environment.
        settings: how many and how.
        on_progress: see `audit_credit`.
        place: the file of the continuations.
        algorithm: collects in its own way; None: every question is played `group_size` times.
    """
    envs = SearchVectorEnv.from_config(config, settings.num_envs)
    rng = np.random.default_rng([settings.seed, 1])
    tasks = TaskSampler(envs.task_ids(), settings.questions, settings.seed)
    policy.generator.manual_seed(settings.seed)
    if algorithm is None:
        groups = TrainContext(policy, rng).play(policy, envs, tasks.draw(), settings.group_size, rng)
    else:
        algorithm.setup(TrainContext(policy, rng))
        groups = [list(group) for group in algorithm.collect(policy, envs, tasks)]
    groups, _ = drop_invalid(groups)
    if not groups:
        raise ConfigError("no valid episode was played: there is nothing to audit")
    # Values do not depend on a judge whose verdicts earn nothing; without it states are smaller and steps are free.
    if config.verdict_pays or config.grades:
        plain = envs
    else:
        plain = SearchVectorEnv.from_config(replace(config, judge=None, judge_spec=None), settings.num_envs)
    started = time.process_time()
    sampled = (
        _enumerate(policy, plain, groups, settings)
        if settings.method == "exact"
        else _continue(policy, plain, groups, settings, on_progress, place)
    )
    sampled.counts["seconds"] = time.process_time() - started
    return sampled


def _enumerate(
    policy: Policy, envs: SearchVectorEnv, groups: list[Group], settings: AuditSettings
) -> Sampled:
    policy.bind(agent_context_of(envs.config))
    exact = ExactValues(policy, envs, settings.max_states)
    by_task: dict[str, list[Episode]] = {}
    for group in groups:
        by_task.setdefault(group[0].task_id, []).extend(group)
    tasks = list(by_task)
    total = sum(map(len, by_task.values()))
    truth: dict[int, TrueCredit] = {}
    gradient = torch.zeros(())
    states = 0
    for begin in range(0, len(tasks), _TASKS_AT_ONCE):
        chunk = tasks[begin : begin + _TASKS_AT_ONCE]
        exact.solve(chunk, [len(by_task[task]) / total for task in chunk])
        states += exact.states
        for task in chunk:
            for episode in by_task[task]:
                truth[id(episode)] = TrueCredit.exact(episode.episode_id, *exact.true_credit(episode))
        gradient = gradient + exact.policy_gradient()
    episodes = [episode for group in groups for episode in group]
    ordered = [truth[id(episode)] for episode in episodes]
    return Sampled(
        groups,
        ordered,
        gather_rounds(episodes, ordered, settings.negligible),
        score_vectors(policy, episodes),
        gradient.numpy(),
        {"states": states, "environment steps": exact.transitions},
    )


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
    played = 0

    def note(done: int, planned: int) -> None:
        nonlocal played
        played = done
        on_progress(f"{done:,} of {planned:,} continuations")

    with ExitStack() as stack:
        store = None
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            made_with = {"policy": _weights_digest(policy), "environment": here, "seed": settings.seed}
            store = stack.enter_context(ContinuationStore(place, made_with))
        truth = continue_episodes(
            policy, envs, recorded, settings.error, settings.continuations, settings.seed, note, store
        )
    rounds = gather_rounds(recorded, truth, settings.negligible)
    return Sampled(groups, truth, rounds, counts={"continuations": played})


def _weights_digest(policy: Policy) -> str:
    """Digest of what the policy plays with."""
    digest = hashlib.blake2b(json.dumps(policy.describe(), sort_keys=True).encode(), digest_size=16)
    digest.update(f"{policy.temperature} {policy.top_p}".encode())
    for name, value in policy.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _reference(label: str, sampled: Sampled, seed: int) -> RuleScore:
    rounds = sampled.rounds
    if label == "true advantage":
        credit_R = rounds.true_R
    elif label == "reversed":
        credit_R = -rounds.true_R
    elif label == "random":
        credit_R = np.random.default_rng([seed, 2]).standard_normal(len(rounds.true_R))
    else:
        credit_R = np.concatenate(
            [
                np.cumsum([record.reward for record in reversed(episode.rounds)])[::-1] - truth.values_R
                for episode, truth in zip(sampled.episodes, sampled.truth, strict=True)
            ]
        )
    return _score(label, credit_R, sampled, True, 0.0, seed)


def _score_trainer(
    label: str,
    algorithm: Algorithm,
    policy: Policy,
    sampled: Sampled,
    shared: bool,
    settings: AuditSettings,
) -> RuleScore:
    started = time.process_time()
    credit_R = trainer_credit(algorithm, policy, sampled.groups, np.random.default_rng([settings.seed, 3]))
    seconds = time.process_time() - started
    notes = []
    if algorithm.extra_modules():
        notes.append(f"untrained {', '.join(algorithm.extra_modules())}")
    if not shared:
        notes.append("episodes of its own")
    if not credit_R.any():
        notes.append("no credit at all")
    return _score(label, credit_R, sampled, shared, seconds, settings.seed, "; ".join(notes))


def _score(
    label: str,
    credit_R: NDArray[np.float64],
    sampled: Sampled,
    shared: bool,
    seconds: float,
    seed: int,
    note: str = "",
) -> RuleScore:
    gradient: dict[str, float] = {}
    if sampled.vectors_RP is not None and sampled.gradient_P is not None:
        gradient = gradient_scores(sampled.vectors_RP, credit_R, sampled.rounds.episode_R, sampled.gradient_P)
    scores = score_intervals(sampled.rounds, credit_R, seed=seed)
    return RuleScore(label, scores, gradient, shared, seconds, credit_R, note)
