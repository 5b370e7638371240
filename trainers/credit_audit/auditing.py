"""The audit: sample episodes, compute their true credit, and score what each trainer gives them.

Trainers that play in the same environment are scored on the same episodes. A trainer that changes the environment (CAPF
adds the feedback act, MT-PPO pays every round) or plays in its own way (Tree-GRPO) is scored on episodes that it collects
itself, and says so. Where these cannot be enumerated, their values are estimated by continuations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig, env_fingerprint
from searchgym.env.judging import judge_episodes
from searchgym.errors import ConfigError
from searchgym.judges.corrupted import CorruptedJudge
from searchgym.records.verdict import no_verdict
from searchgym.statistics import Interval

from ..core.algorithm import Algorithm
from ..core.groups import Group
from .costs import MethodCost, judge_calls
from .graph import StateGraphs
from .monte_carlo import check_can_continue
from .sampling import AuditSettings, Sampled, open_graphs, sample_episodes
from .scores import credit_scores, score_intervals
from .trainer_credit import Given, trainer_credit

__all__ = [
    "REFERENCES",
    "AuditSettings",
    "CreditAudit",
    "NoiseScore",
    "RuleScore",
    "audit_credit",
    "configure_for",
]

REFERENCES = ("true advantage", "reversed", "return − V(s)", "random")
"""Rows that calibrate the scores: the truth, its opposite, an unbiased estimate of it, and noise."""


@dataclass(frozen=True)
class NoiseScore:
    """A rule's scores where some verdicts of its judge are flipped.

    Attributes:
        rate: the probability that a verdict is flipped.
        scores: see `scores.SCORES`.
    """

    rate: float
    scores: dict[str, float]


@dataclass(frozen=True)
class RuleScore:
    """What the audit says of one rule.

    Attributes:
        label: the trainer, or one of `REFERENCES`.
        scores: see `scores.SCORES`, with intervals.
        gradient: "cosine" and "snr", see `gradients`; empty where there is no true gradient.
        shared: whether it was scored on the episodes that all others share.
        sampled: the episodes on which it was scored.
        credit_R: its credit of each round.
        unit: what it gives one value to: "episode", "round" or "token"; "round" for references.
        cost: what its credit takes.
        noise: scores with a judge that errs; empty for rules that read no verdicts, or read them while they play.
        note: what qualifies the figures; "" if nothing does.
    """

    label: str
    scores: dict[str, Interval]
    gradient: dict[str, float]
    shared: bool
    sampled: Sampled
    credit_R: NDArray[np.float64]
    unit: str = "round"
    cost: MethodCost = field(default_factory=MethodCost)
    noise: tuple[NoiseScore, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class CreditAudit:
    """The result of an audit.

    Attributes:
        settings: how it was made.
        env: the environment's arguments, as recorded in episodes.
        policy: what played, see `Policy.describe`.
        rules: one entry per rule, references first.
        floor: the scores of one replica of the true credit against the other: no rule can be seen to do better.
        sampled: the shared episodes and their truth.
        kinds: question -> its type and its hops.
        left_out: trainer -> why it could not be scored on episodes of its own.
    """

    settings: AuditSettings
    env: dict[str, Any]
    policy: dict[str, Any]
    rules: list[RuleScore]
    floor: dict[str, float]
    sampled: Sampled
    kinds: dict[str, tuple[str, int]]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def trainers(self) -> list[RuleScore]:
        """The rules without the references."""
        return [rule for rule in self.rules if rule.label not in REFERENCES]


def configure_for(algorithm: Algorithm, config: EnvConfig) -> EnvConfig:
    """The environment in which a trainer is audited: with what its method consists of, e.g. a reward for every round.

    Args:
        algorithm: the trainer.
        config: the environment of the audit.

    Raises:
        ConfigError: it cannot learn there either.
    """
    return algorithm.configure_env(replace(config, **algorithm.audit_env))


def audit_credit(
    policy: Policy,
    config: EnvConfig,
    trainers: Mapping[str, Algorithm],
    settings: AuditSettings,
    on_progress: Callable[[str], None] = lambda text: None,
    directory: Path | None = None,
    recorded: Sequence[Group] | None = None,
    graphs: StateGraphs | None = None,
) -> CreditAudit:
    """Score the credit of trainers against the truth.

    Args:
        policy: plays; its weights are not changed.
        config: the environment; with a judge if a trainer needs verdicts.
        trainers: label -> algorithm, not set up yet.
        settings: how many episodes and which method.
        on_progress: called with what is being done.
        directory: keeps the continuations (monte-carlo), so that an interrupted audit can be repeated and continues.
        recorded: episodes to audit, by question, in place of new ones; the policy plays their continuations.
        graphs: the states of this environment, from an audit of a policy of the same kind (exact); see `open_graphs`.

    Raises:
        ConfigError: a trainer that cannot learn in this environment, a policy that never answers or cannot be enumerated or
            continued, or too many states; before any trainer is scored. What is wrong with the episodes of a single
            trainer that plays its own only leaves that one out, unless it is the only one.
    """
    if settings.method == "monte-carlo":
        settings.precision.check()
        check_can_continue(policy)
    configs = {label: configure_for(algorithm, config) for label, algorithm in trainers.items()}
    on_progress("episodes of all trainers")
    place = directory and directory / "continuations.jsonl"
    if settings.method == "exact" and graphs is None:
        graphs = open_graphs(config, settings)
    shared = sample_episodes(policy, config, settings, on_progress, place, recorded, graphs)
    rules = [_reference(label, shared, settings.seed) for label in REFERENCES]
    left_out: dict[str, str] = {}
    # In another environment (the feedback act, a reward that remembers) states multiply: unless there are few, estimate.
    few = replace(settings, max_states=min(settings.max_states, int(shared.counts["states"]) // 4))
    for label, algorithm in trainers.items():
        on_progress(f"trainer {label}")
        differs = _differs(configs[label], config)
        own = differs or _plays_alone(algorithm)
        place = directory and directory / f"continuations-{label}.jsonl"
        try:
            if own and recorded is not None:
                raise ConfigError("it plays episodes of its own, and these are recorded")
            sampled = shared
            if own:
                how = few if differs else settings
                known = None if differs else graphs
                sampled = _own_episodes(policy, configs[label], how, on_progress, place, algorithm, known)
            rules.append(_score_trainer(label, algorithm, policy, configs[label], sampled, not own, settings))
        except ConfigError as error:
            if len(trainers) == 1:
                raise
            left_out[label] = str(error)
    halves = [np.concatenate([t.replicas_2R[half] for t in shared.truth]) for half in (0, 1)]
    floor = credit_scores(replace(shared.rounds, true_R=halves[0]), halves[1])
    questions = [
        config.corpus.question(task)
        for task in dict.fromkeys(e.task_id for rule in rules for e in rule.sampled.episodes)
    ]
    kinds = {question.id: (question.type, question.hops) for question in questions}
    return CreditAudit(
        settings, env_fingerprint(config), policy.describe(), rules, floor, shared, kinds, left_out
    )


# -- parts ---------------------------------------------------------------------------------------------


def _own_episodes(
    policy: Policy,
    config: EnvConfig,
    settings: AuditSettings,
    on_progress: Callable[[str], None],
    place: Path | None,
    algorithm: Algorithm,
    graphs: StateGraphs | None,
) -> Sampled:
    """The episodes that a trainer collects; what cannot be enumerated (the feedback act gives a policy many more states) is
    estimated."""
    try:
        return sample_episodes(policy, config, settings, on_progress, place, algorithm, graphs)
    except ConfigError as refused:
        if settings.method != "exact":
            raise
        estimated = replace(settings, method="monte-carlo")
        try:
            estimated.precision.check()
        except ConfigError as unreachable:
            raise ConfigError(f"{refused}; by continuations, {unreachable}") from refused
        return sample_episodes(policy, config, estimated, on_progress, place, algorithm)


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
    scores = score_intervals(rounds, credit_R, seed=seed)
    return RuleScore(label, scores, sampled.gradient_scores(credit_R), True, sampled, credit_R)


def _score_trainer(
    label: str,
    algorithm: Algorithm,
    policy: Policy,
    config: EnvConfig,
    sampled: Sampled,
    shared: bool,
    settings: AuditSettings,
) -> RuleScore:
    def credit(groups: Sequence[Group]) -> Given:
        return trainer_credit(algorithm, policy, groups, np.random.default_rng([settings.seed, 3]))

    started = time.process_time()
    given = credit(sampled.groups)
    seconds = time.process_time() - started
    notes = []
    if algorithm.extra_modules():
        notes.append(f"untrained {', '.join(algorithm.extra_modules())}")
    if not shared:
        notes.append("episodes of its own")
    if algorithm.settings.group_size != settings.group_size:
        notes.append(f"groups of {algorithm.settings.group_size}")
    if sampled.method != settings.method:
        notes.append(f"values by {sampled.method}")
    if not given.credit_R.any():
        notes.append("no credit at all")
    calls = judge_calls(sampled.groups, config) if _reads_verdicts(algorithm, config) else 0
    noise = []
    for rate in settings.judge_noise if calls and not config.verdict_pays else ():
        noisy_R = credit(_with_noise(sampled.groups, config, rate, settings.seed)).credit_R
        if rate and not shared and np.array_equal(noisy_R, given.credit_R):
            break  # it reads verdicts while it plays, so flips of the recorded ones do not reach it
        noise.append(NoiseScore(rate, credit_scores(sampled.rounds, noisy_R)))
    return RuleScore(
        label,
        score_intervals(sampled.rounds, given.credit_R, seed=settings.seed),
        sampled.gradient_scores(given.credit_R),
        shared,
        sampled,
        given.credit_R,
        given.unit,
        MethodCost(
            episodes=int(sampled.played["episodes"]),
            tokens=int(sampled.played["tokens"]),
            restores=int(sampled.played["restores"]),
            pass_tokens=given.pass_tokens,
            judge_calls=calls,
            feedback_calls=sum(r.action.kind == "feedback" for e in sampled.episodes for r in e.rounds),
            seconds=seconds,
        ),
        tuple(noise),
        "; ".join(notes),
    )


def _reads_verdicts(algorithm: Algorithm, config: EnvConfig) -> bool:
    """Whether a trainer refuses an environment without a judge."""
    try:
        algorithm.configure_env(replace(config, judge=None, judge_spec=None))
    except ConfigError:
        return True
    return False


def _with_noise(groups: Sequence[Group], config: EnvConfig, rate: float, seed: int) -> list[Group]:
    """The episodes with the verdicts of a judge that errs."""
    assert config.judge is not None
    judge = CorruptedJudge(judge=config.judge, rate=rate, seed=seed)
    copies = [
        [
            replace(
                episode,
                rounds=[
                    replace(record, judge=no_verdict("pending")) if record.judge.status == "ok" else record
                    for record in episode.rounds
                ],
            )
            for episode in group
        ]
        for group in groups
    ]
    judge_episodes(judge, [episode for group in copies for episode in group])
    return copies
