"""What a training algorithm is. One algorithm, one file; the shared loop calls these hooks in this order:

    configure_env(env_config)       the environment configuration to collect under; once, before anything is played
    check_policy(policy)            may refuse the agent; once, before anything is played
    setup(context)                  once, with the policy at its initial weights
    extra_modules()                 modules to optimize with the policy; once, after setup

    collect(policy, envs, tasks)    groups of episodes                                     in every iteration
    rewards(group)                  one reward per episode
    select(groups)                  the groups worth learning from
    prepare(policy, groups)         extra forward passes and verdicts, stored as named columns
    credit(groups)                  Credit: per episode, per round or per token
    loss(batch, outputs)            Loss, once per micro-batch

`credit` and `loss` are abstract. Most papers change `credit` alone: subclass `algorithms.grpo.GRPO` and override it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from searchgym.agents.policy import Policy, Sample, TokenOutputs
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError

from ..config import option, parse_settings
from ..processes import World, world
from .batch import Batch, Sequences
from .credit import Credit
from .groups import Group, Groups
from .lookahead import Meter
from .objective import Aggregation
from .rollouts import Play, play_groups
from .tasks import TaskSampler

__all__ = [
    "Algorithm",
    "AlgorithmConfig",
    "Loss",
    "TrainContext",
    "each_token",
    "token_logprobs",
    "training_envs",
]


@dataclass(frozen=True)
class AlgorithmConfig:
    """Settings of every algorithm. Subclass it to add fields; each becomes an option and a configuration key.

    Raises:
        ConfigError: through `parse_settings`, for a field out of range.
    """

    group_size: int = option(8, "episodes per question", low=1)
    clip_low: float = option(0.2, "the ratio is clipped below at 1 - clip_low", low=0.0, high=1.0)
    clip_high: float = option(0.2, "the ratio is clipped above at 1 + clip_high", low=0.0)
    aggregation: Aggregation = option(
        "seq-mean-token-mean", "how token losses become one loss; see objective.token_weights"
    )
    sequence: Sequences = option(
        "episode",
        "unit of aggregation and minibatches: an episode, or each of its segments (one per round where the agent's "
        "context is rebuilt)",
    )
    loss_length: int = option(256, "the constant of seq-mean-token-sum-norm, in tokens", low=1)
    tis_cap: float = option(
        0.0,
        "truncated importance sampling: weight each token by min(trainer / engine, tis_cap), e.g. 2; 0: off. Costs a "
        "forward pass; for engines whose log-probabilities differ from the trainer's (see sampling_ess)",
        low=0.0,
    )
    permute_rewards: bool = option(
        False,
        "control: permute the rewards inside each group, so that they carry no information about the episodes",
    )


@dataclass(frozen=True)
class TrainContext:
    """What the loop gives an algorithm, once.

    Attributes:
        policy: the policy that is trained, at its initial weights.
        rng: the algorithm's source of randomness; its state is saved in checkpoints.
        token_budget: tokens per forward pass in `Algorithm.prepare`.
        play: plays tasks in groups and continues recorded episodes, in this process or in others. What it plays and the
            algorithm does not return counts as look-ahead (`lookahead.py`).
        meter: counts that; `meter.add` reports tokens that are sampled in another way.
        world: the processes of the run.
    """

    policy: Policy
    rng: np.random.Generator
    token_budget: int = 16384
    play: Play = play_groups
    meter: Meter = field(default_factory=Meter)
    world: World = field(default_factory=world)


@dataclass(slots=True)
class Loss:
    """A micro-batch's part of the loss.

    Attributes:
        total: scalar with gradients; the parts of a minibatch's micro-batches add up (use `Batch.total`).
        metrics: scalars that add up in the same way (use `Batch.mean`); the log shows their mean over minibatches.
    """

    total: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Algorithm(ABC):
    """Base class of trainers.

    The loop reads an algorithm and calls its hooks; it assigns none of its attributes. What an algorithm can do is
    declared by `uses_ratio`, `supports_tis`, `group_relative`, `on_policy`, `told` and `module_lr`; override them as class
    attributes or properties.

    Args:
        settings: some fields of `settings_class`.

    Attributes:
        settings_class: the dataclass of its settings (a class attribute).
        audit_env: arguments of the environment, as `EnvConfig` holds them, that the credit audit sets for this method,
            because it consists of them (a class attribute).
        settings: an instance of it.
        context: what `setup` was given.
        uses_ratio: whether the loss has an importance ratio to clip; if not, `clip_low` and `clip_high` are refused.
        supports_tis: whether each token's policy gradient is proportional to its advantage, so that `tis_cap` can
            weight it; if not, `tis_cap` is refused.

    Raises:
        ConfigError: a setting that is unknown, out of range, or has no effect on this algorithm.
    """

    settings_class: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    settings: AlgorithmConfig
    context: TrainContext
    uses_ratio: ClassVar[bool] = True
    supports_tis: ClassVar[bool] = True
    audit_env: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = settings or {}
        name = type(self).__name__.lower()
        for clip in () if self.uses_ratio else ("clip_low", "clip_high"):
            if clip in given:
                raise ConfigError(f"{name} has no ratio to clip: leave {clip} out, or use grpo or ppo")
        if given.get("tis_cap") and not self.supports_tis:
            raise ConfigError(
                f"{name} has no advantages that importance weights could correct: leave tis_cap out"
            )
        self.settings = parse_settings(self.settings_class, given)
        if self.settings.permute_rewards and self.settings.group_size == 1:
            raise ConfigError(
                "permute_rewards permutes inside groups, and group_size is 1: the control would be the run it is "
                "meant to check; set group_size to 2 or more"
            )
        if self.group_relative:
            self._refuse_single_episodes()

    def _refuse_single_episodes(self) -> None:
        """Refuse groups of one, for algorithms that compare the episodes of a group."""
        if self.settings.group_size == 1:
            raise ConfigError(
                f"group_size is 1, but {type(self).__name__} compares the episodes of a group, and one alone has nothing to be "
                "compared with: set group_size to 2 or more, or train with ppo or reinforce"
            )

    # -- capabilities ------------------------------------------------------------------------------------------

    @property
    def group_relative(self) -> bool:
        """Whether a group of equal rewards gets no credit; `check_trainer` holds algorithms that say so to it."""
        return False

    @property
    def on_policy(self) -> bool:
        """Whether the policy sampled the tokens itself; otherwise there is no step KL to measure."""
        return True

    @property
    def told(self) -> str:
        """What the algorithm itself reads of the gold data beyond the reward, e.g. "gold passages"; "" if nothing.

        Benchmarks say so beside its results: a difference from a trainer that is not told is what this knowledge is worth.
        """
        return ""

    @property
    def module_lr(self) -> Mapping[str, float]:
        """Learning rates of extra modules, as multiples of the run's; 1 for modules not named."""
        return {}

    # -- before training ---------------------------------------------------------------------------------------

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        """The configuration episodes are collected under, given the environment's. Called once.

        Override it to refuse an environment that lacks what the algorithm needs (a judge, a reward term), and to
        add what exists in training only (the feedback act); evaluations leave the latter out.

        Raises:
            ConfigError: the algorithm cannot learn in this environment.
        """
        return env_config

    def check_policy(self, policy: Policy) -> None:  # noqa: B027 (optional)
        """Refuse an agent that the algorithm cannot train. Called once, before `setup` and before anything is played.

        Raises:
            ConfigError: says which agent it needs.
        """

    def changes_memory(self, policy: Policy) -> bool:
        """Whether the algorithm changes what the policy remembers beside its weights; `rollout_lag` and `rollout_workers` are
        then refused, because agents that play elsewhere get the weights alone."""
        return False

    def setup(self, context: TrainContext) -> None:
        """Called once before training, with the policy at its initial weights (also when a run is resumed)."""
        self.context = context

    def extra_modules(self) -> dict[str, nn.Module]:
        """Modules optimized, saved and resumed with the policy, e.g. a critic. Called once, after `setup`."""
        return {}

    # -- one iteration -----------------------------------------------------------------------------------------

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        """Play an iteration's episodes: by default every question of `tasks.draw()`, `group_size` times.

        Play through `self.context.play`: the loop decides which processes and machines play.

        Args:
            policy: acts; records tokens and log-probabilities. It may be another agent than `context.policy`, with
                the same weights (`rollout_lag`).
            envs: a `SearchVectorEnv` under `configure_env`.
            tasks: gives the task ids of an iteration; draw again for more.
        """
        return self.context.play(policy, envs, tasks.draw(), self.settings.group_size, self.context.rng)

    def rewards(self, group: Group) -> NDArray[np.float64]:
        """The reward of each episode of a group, [G]; by default the sum of its step rewards."""
        return np.array([episode.reward for episode in group], dtype=np.float64)

    def select(self, groups: Groups) -> list[bool]:
        """Which groups to learn from, one truth value per group; by default all."""
        return [True] * len(groups)

    def prepare(self, policy: Policy, groups: Groups) -> None:  # noqa: B027 (optional)
        """Extra forward passes and verdicts: fill `groups.columns[name]` ([N] each) or the episodes' `extra`."""

    @abstractmethod
    def credit(self, groups: Groups) -> Credit:
        """The advantages of an iteration, per episode, per round or per sampled token; see `Credit`."""

    @abstractmethod
    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        """The loss of a micro-batch.

        Args:
            batch: samples and, for their N sampled tokens, credit, recorded log-probabilities and columns.
            outputs: log-probabilities and entropies of the same tokens under the current weights, with gradients.
        """


def training_envs(algorithm: Algorithm, envs: SearchVectorEnv) -> SearchVectorEnv:
    """The environments an algorithm collects in: the same ones, or others under its `configure_env`."""
    env_config = algorithm.configure_env(envs.config)
    return envs if env_config is envs.config else SearchVectorEnv.from_config(env_config, envs.num_envs)


def token_logprobs(policy: Policy, samples: Sequence[Sample], budget: int) -> Tensor:
    """Log-probabilities of all sampled tokens under the current weights, [N] on the CPU.

    Args:
        policy: evaluated without gradients.
        samples: the sequences.
        budget: tokens per forward pass.
    """
    return each_token(policy, samples, budget, lambda outputs: outputs.logprobs_N)


@torch.no_grad()
def each_token(
    policy: Policy, samples: Sequence[Sample], budget: int, value: Callable[[TokenOutputs], Tensor]
) -> Tensor:
    """One number per sampled token, or K of them, computed from the outputs of the current weights, [N] or [N, K] on the CPU.

    Args:
        policy: evaluated without gradients, in passes that the processes of the run divide.
        samples: the sequences.
        budget: tokens per forward pass.
        value: maps the outputs of one pass to its [N] or [N, K] numbers.
    """
    if not samples:
        return torch.empty(0)
    mine = world().assign(policy, samples)
    parts = policy.micro_batches([samples[i] for i in mine], budget) if mine else []
    values_S: dict[int, Tensor] = {}
    for indices, counts in world().pad_passes([[mine[j] for j in part] for part in parts], [0]):
        values_N = value(policy.evaluate_tokens([samples[i] for i in indices])).cpu()
        lengths = [sum(samples[i].segment.mask) for i in indices]
        if counts:
            values_S.update(zip(indices, torch.split(values_N, lengths), strict=True))
    gathered: dict[int, Tensor] = {}
    for others in world().gather(values_S):
        gathered |= others
    return torch.cat([gathered[i] for i in range(len(samples))])
