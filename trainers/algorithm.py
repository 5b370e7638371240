"""What a training algorithm is. One algorithm, one file; the shared loop calls these hooks in this order:

    configure_env(rules)        -> the rules to collect under     once, before anything is played
    collect(policy, envs, tasks) -> groups of episodes            play
    rewards(group)               -> one reward per episode
    select(groups)               -> the groups worth learning from
    prepare(policy, groups)         extra forward passes and verdicts, stored as named columns
    credit(groups)               -> Credit, per episode, per round or per token
    loss(batch, outputs)         -> Loss, once per micro-batch

The defaults here are plain GRPO with nothing else: subclass `Algorithm` and override what differs (most
papers: `credit` alone), or subclass `grpo.GRPO` to keep its KL term, clipping variants and controls too.
"""

from __future__ import annotations

import random
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
from searchgym.rollouts.collection import collect

from .batch import Batch, Sequences
from .config import option, parse_settings
from .credit import Credit
from .groups import Group, Groups
from .objective import Aggregation, clipped_surrogate, group_advantages
from .processes import world
from .rollouts import Play
from .tasks import TaskSampler

__all__ = [
    "Algorithm",
    "AlgorithmConfig",
    "Loss",
    "each_token",
    "play_groups",
    "token_logprobs",
    "training_envs",
]


@dataclass(frozen=True)
class AlgorithmConfig:
    """What every algorithm can be told. Subclass it to add fields; each becomes an option and a config key.

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
        "what is one sequence for aggregation and minibatches: an episode, or each of its segments (one per "
        "round where the agent's context is rebuilt)",
    )
    loss_length: int = option(256, "the constant of seq-mean-token-sum-norm, in tokens", low=1)
    tis_cap: float = option(
        0.0,
        "truncated importance sampling: weigh each token with min(trainer / engine, tis_cap), e.g. 2; 0: off. Costs a "
        "forward pass; for engines whose log-probabilities differ from the trainer's (see sampling_ess)",
        low=0.0,
    )
    permute_rewards: bool = option(
        False, "control: permute the rewards inside each group, so that they say nothing about the episodes"
    )


@dataclass(slots=True)
class Loss:
    """A micro-batch's part of the loss.

    Attributes:
        total: scalar with gradients; the parts of a minibatch's micro-batches add up (use `Batch.total`).
        metrics: scalars that add up in the same way (use `Batch.mean`); the log shows their mean over
            minibatches.
    """

    total: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Algorithm:
    """Base class of trainers, and plain GRPO.

    Attributes:
        settings_class: the dataclass of its settings (a class attribute).
        settings: an instance of it.
        rng: the one source of randomness of the algorithm; saved in checkpoints. Set by `setup`.
        token_budget: tokens per forward pass in `prepare`; the loop sets what its configuration says.
        group_relative: whether a group whose rewards are all equal gets no credit; `check_trainer` holds those that
            declare it to it.
        module_lr: learning rates of extra modules, as multiples of the run's; 1 for those not named.
        on_policy: whether the policy sampled the tokens itself; if not, there are no log-probabilities to compare with
            (no step KL).
        play: plays tasks in groups; the loop puts another in its place where several processes or workers play.
        uses_ratio: whether its loss has a ratio to clip; if not, `clip_low` and `clip_high` are refused.
        supports_tis: whether each token's policy gradient is proportional to its advantage, so that `tis_cap` can
            weigh that; if not, it is refused.
    """

    settings_class: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    settings: AlgorithmConfig
    rng: np.random.Generator
    token_budget: int = 16384
    group_relative: bool = False
    module_lr: Mapping[str, float] = {}
    on_policy: bool = True
    uses_ratio: bool = True
    supports_tis: bool = True

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = settings or {}
        for name in () if self.uses_ratio else ("clip_low", "clip_high"):
            if name in given:
                raise ConfigError(
                    f"{type(self).__name__.lower()} has no ratio to clip: leave {name} out, or use grpo or ppo"
                )
        if given.get("tis_cap") and not self.supports_tis:
            raise ConfigError(
                f"{type(self).__name__.lower()} has no advantages that importance weights could correct: leave tis_cap out"
            )
        self.settings = parse_settings(self.settings_class, given)
        self.play: Play = play_groups
        if self.settings.permute_rewards and self.settings.group_size == 1:
            raise ConfigError(
                "permute_rewards permutes inside groups, and group_size is 1: the control would be the run it is "
                "meant to check; set group_size to 2 or more"
            )

    def setup(self, policy: Policy, rng: np.random.Generator) -> None:
        """Called once before training, with the policy at its initial weights (also when resuming)."""
        self.rng = rng

    def extra_modules(self) -> dict[str, nn.Module]:
        """Modules optimised, saved and resumed with the policy, e.g. a critic. Asked once, after `setup`."""
        return {}

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        """The rules episodes are collected under, given the environment's: these by default.

        Override it to refuse an environment that lacks what the algorithm needs (a judge, a reward term), and to
        add what exists for training only (the feedback act): evaluations leave that out again. It may be asked
        more than once, so its own answer must satisfy it.

        Raises:
            ConfigError: the algorithm cannot learn under these rules.
        """
        return env_config

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        """Play an iteration's episodes: every question of `tasks.draw()`, `group_size` times.

        Call `self.play` for it: who plays, and on which machine, is the loop's to say.

        Args:
            policy: acts; records tokens and log-probabilities.
            envs: a `SearchVectorEnv` under `configure_env`.
            tasks: gives the task ids of an iteration; draw again for more.
        """
        return self.play(policy, envs, tasks.draw(), self.settings.group_size, self.rng)

    def rewards(self, group: Group) -> NDArray[np.float64]:
        """The reward of each episode of a group; the sum of its step rewards by default."""
        return np.array([episode.reward for episode in group], dtype=np.float64)

    def select(self, groups: Groups) -> list[bool]:
        """Which groups to learn from. By default those with unequal rewards: the others have no advantage."""
        return [len(r_G) == 1 or bool(r_G.min() < r_G.max()) for r_G in groups.rewards]

    def prepare(self, policy: Policy, groups: Groups) -> None:
        """Extra forward passes and verdicts: fill `groups.columns[name]` or the episodes' `extra`."""

    def credit(self, groups: Groups) -> Credit:
        """Who gets how much: by default (r - mean) / std inside each group, for every token of an episode."""
        return Credit.per_episode([group_advantages(r_G) for r_G in groups.rewards])

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        """The loss of a micro-batch: by default the clipped surrogate, aggregated as the settings say."""
        loss_N, clipped_N = clipped_surrogate(
            outputs.logprobs_N,
            batch.old_logprobs_N,
            batch.advantages_N,
            self.settings.clip_low,
            self.settings.clip_high,
        )
        return Loss(batch.total(loss_N), {"clip_fraction": batch.mean(clipped_N)})


def play_groups(
    policy: Policy, envs: SearchVectorEnv, task_ids: Sequence[str], group_size: int, rng: np.random.Generator
) -> list[Group]:
    """Play every task `group_size` times; one group each, with a freshly drawn group id."""
    group_ids = [f"g{rng.integers(2**63):016x}" for _ in task_ids]
    episodes = collect(
        envs,
        policy,
        [task for task in task_ids for _ in range(group_size)],
        group_ids=[group for group in group_ids for _ in range(group_size)],
        ids=random.Random(int(rng.integers(2**63))),
    )
    return [episodes[i : i + group_size] for i in range(0, len(episodes), group_size)]


def training_envs(algorithm: Algorithm, envs: SearchVectorEnv) -> SearchVectorEnv:
    """The environments an algorithm collects in: the same ones, or others under its `configure_env`."""
    if not hasattr(envs, "config"):  # a stand-in: an algorithm whose own `collect` plays elsewhere
        return envs
    env_config = algorithm.configure_env(envs.config)
    return envs if env_config is envs.config else SearchVectorEnv.from_config(env_config, envs.num_envs)


def token_logprobs(policy: Policy, samples: Sequence[Sample], budget: int) -> Tensor:
    """Log-probabilities of all sampled tokens under the current weights, [N] on the CPU, in passes of `budget`."""
    return each_token(policy, samples, budget, lambda outputs: outputs.logprobs_N)


@torch.no_grad()
def each_token(
    policy: Policy, samples: Sequence[Sample], budget: int, value: Callable[[TokenOutputs], Tensor]
) -> Tensor:
    """One number per sampled token from what the current weights say of it, [N] on the CPU.

    Args:
        policy: is evaluated without gradients.
        samples: the sequences.
        budget: tokens per forward pass.
        value: makes [N] numbers of the outputs of one pass.
    """
    if not samples:
        return torch.empty(0)
    mine = world().assign(policy, samples)
    passes = (
        [[mine[j] for j in part] for part in policy.micro_batches([samples[i] for i in mine], budget)]
        if mine
        else []
    )
    parts: dict[int, Tensor] = {}
    for indices, counts in world().pad_passes(passes, [0]):
        values = value(policy.evaluate_tokens([samples[i] for i in indices])).cpu()
        lengths = [sum(samples[i].segment.mask) for i in indices]
        if counts:
            parts.update(zip(indices, torch.split(values, lengths), strict=True))
    everybodys: dict[int, Tensor] = {}
    for others in world().gather(parts):
        everybodys |= others
    return torch.cat([everybodys[i] for i in range(len(samples))])
