"""InT: intervention training. In a failed episode the first error is replaced by a better act, and that act is imitated.

Source: arXiv 2601.14209, known to us from its abstract and a third party's notes: with a reference solution the model finds the
first error of its own trace and writes a short intervention of one step; interventions with at least one success in 32
continuations are kept (1,076 of about 4,500 problems); SFT on prefix and intervention, without suffix; then GRPO.

In each iteration the policy plays; then, in up to `interventions` failed episodes of each question:

    first error       the first round that the judge calls useless: a search with u · v = 0, an answer with v = 0, an invalid act;
                      the last round if it likes all of them
    intervention      the act that `proposer` (an agent; by default the oracle, which reads gold data) takes in that state
    kept              if at least one of `continuations` episodes that the policy plays from there has `min_reward`
    L                 = −mean of log π_θ over the tokens of the kept prefixes and interventions

The policy writes the intervention in its own tokens (`Policy.encode`). What follows it is played by the policy itself: it tells
whether the policy can use the intervention, and is not learned from.

Departures from the paper:
1. [OURS] The error is found by the environment's judge, the intervention is taken by an agent, here by default with gold data;
   in the paper the model does both with the reference solution in its context.
2. [OURS] 4 continuations, 2 interventions per question, in every iteration. They count against the budget, and metrics of an
   iteration (EM, reward) include them, so these are higher than the policy's own.
3. The policy of each iteration is repaired, in a loop; the paper trains once (four epochs) and continues with GRPO. To do so
   here, start a run of grpo from the checkpoint.
4. An intervention that answers ends the episode: it is kept if the answer has `min_reward`, without continuations.
5. An intervention that equals the act it replaces, or that the policy cannot write, is dropped and counted (`unusable`).
6. Episodes of which no round has a verdict get no intervention.
7. The control `permute_rewards` is refused: interventions are kept by what their own continuations earned.
8. This file is longer than 180 lines: a collection in three stages (episodes, interventions, continuations) is one method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from searchgym.agent import Agent
from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, RoundRecord
from searchgym.rollouts.collection import agent_context_of, open_agent
from searchgym.rollouts.starts import Start

from ...components.evidence import require_judge
from ...components.one_act import play_one_act, written_act
from ...config import option
from ...core.algorithm import AlgorithmConfig
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.objective import Aggregation
from ...core.rollouts import check_can_branch, check_can_write
from ...core.tasks import TaskSampler
from ..sft import Imitation

__all__ = ["InT", "InTSettings", "first_error"]

REPAIRED = "intervention"
"""Key of `Episode.extra`: the index of the round that is a kept intervention."""
INTERVENED = "intervened"
"""Key of `Episode.extra` of a failed episode: what became of its intervention, "kept", "failed" or "unusable"."""


@dataclass(frozen=True)
class InTSettings(AlgorithmConfig):
    """Settings of `InT`; the inherited ones first."""

    aggregation: Aggregation = option("token-mean", "how token losses become one loss")
    proposer: str = option(
        "oracle", "agent that takes the intervening act; it must be able to continue an episode"
    )
    interventions: int = option(2, "failed episodes per question that get an intervention", low=1)
    continuations: int = option(4, "episodes that the policy plays after each intervention", low=1)
    min_reward: float = option(1.0, "an episode with at least this reward is a success")


class InT(Imitation):
    """Imitation of interventions at first errors; see the head of this file.

    Raises:
        ConfigError: the proposer cannot be opened, or cannot continue an episode.
    """

    settings_class: ClassVar[type[AlgorithmConfig]] = InTSettings
    settings: InTSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        if self.settings.permute_rewards:
            raise ConfigError(
                "int has no control permute_rewards: which interventions are kept is decided while episodes are played; leave it "
                "out"
            )
        self._proposer: Agent = open_agent(self.settings.proposer)
        if type(self._proposer).resume is Agent.resume:
            raise ConfigError(
                f"proposer is {self.settings.proposer!r}, which cannot continue an episode of another agent: use oracle or "
                "demonstrator, or an agent with Agent.resume"
            )

    @property
    def told(self) -> str:
        return "gold data, by its proposer" if self._proposer.needs_gold else ""

    @property
    def on_policy(self) -> bool:
        return False  # interventions are not sampled

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        require_judge(env_config, "int", "finds the first error of failed episodes")
        questions = env_config.tasks(env_config.split)
        if self.settings.proposer == "oracle" and questions and not questions[0].chain:
            raise ConfigError(
                f"proposer=oracle reads gold sub-queries, and corpus {env_config.corpus.name!r} has none: use "
                "--set proposer=demonstrator, or another agent"
            )
        longest = max((len(question.chain) for question in questions), default=0)
        if self.settings.proposer == "oracle" and env_config.max_rounds <= longest:
            raise ConfigError(
                f"max_rounds is {env_config.max_rounds}, and proposer=oracle needs {longest} searches and an answer: set max_rounds "
                f"to at least {longest + 1}"
            )
        return env_config

    def check_policy(self, policy: Policy) -> None:
        check_can_branch(policy)
        check_can_write(policy, "int learns from another agent's acts")

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        s, play, rng = self.settings, self.context.play, self.context.rng
        groups = [list(group) for group in super().collect(policy, envs, tasks)]
        cases: list[tuple[Group, Episode, int]] = []
        for group in groups:
            failed = [
                (episode, error)
                for episode in group
                if episode.valid_for_training and episode.reward < s.min_reward
                if (error := first_error(episode)) is not None
            ]
            cases += [(group, *failed[i]) for i in rng.permutation(len(failed))[: s.interventions]]
        starts = [Start(e.task_id, prefix=e, fork_round=t) for _, e, t in cases]
        policy.bind(agent_context_of(envs.config))
        usable: list[tuple[Group, Episode, int, Episode]] = []
        for (group, failed_episode, t), stub in zip(
            cases, play_one_act(self._proposer, envs, starts, rng), strict=True
        ):
            written = written_act(policy, stub, failed_episode, t)
            failed_episode.extra[INTERVENED] = "failed" if written else "unusable"
            if written is not None:
                usable.append((group, failed_episode, t, written))
        # A stub that its act did not end has one more round, without an act.
        goes_on = [len(stub.rounds) > t + 1 for _, _, t, stub in usable]
        branches = [
            Start(stub.task_id, prefix=stub, fork_round=t + 1)
            for (_, _, t, stub), open_ in zip(usable, goes_on, strict=True)
            for _ in range(s.continuations if open_ else 0)
        ]
        played = iter(play.branch(policy, envs, branches, rng) if branches else ())
        for (group, failed_episode, t, stub), open_ in zip(usable, goes_on, strict=True):
            added = [next(played) for _ in range(s.continuations)] if open_ else [stub]
            added[0].parent_id, added[0].fork_round = failed_episode.episode_id, t
            for other in added[1:]:
                other.parent_id = added[0].episode_id
            if any(e.valid_for_training and e.reward >= s.min_reward for e in added):
                failed_episode.extra[INTERVENED], added[0].extra[REPAIRED] = "kept", t
            group += added
        return groups

    def select(self, groups: Groups) -> list[bool]:
        self._counts = Counter(e.extra.get(INTERVENED) for e in groups.episodes)
        return [any(REPAIRED in episode.extra for episode in group) for group in groups]

    def credit(self, groups: Groups) -> Credit:
        until_E = np.array([e.extra.get(REPAIRED, -1) for e in groups.episodes], dtype=np.int64)
        keep_N: NDArray[np.bool_] = groups.tokens.round_N <= until_E[groups.tokens.episode_N]
        counts = {
            f"interventions_{name}": float(self._counts[name]) for name in ("kept", "failed", "unusable")
        }
        return Credit.flat("token", keep_N.astype(np.float64), groups, counts, keep_N)


def first_error(episode: Episode) -> int | None:
    """The index of the first round that the judge calls useless; the last round if there is none.

    Args:
        episode: a failed episode.

    Returns:
        None if no round has a verdict.
    """
    judged = [t for t, record in enumerate(episode.rounds) if record.judge.contribution is not None]
    wrong = [t for t in judged if _useless(episode.rounds[t])]
    acted = [t for t, record in enumerate(episode.rounds) if record.action.kind != "none"]
    first = wrong[:1] or acted[-1:]
    return first[0] if judged and first else None


def _useless(record: RoundRecord) -> bool:
    verdict = record.judge.reasoning if record.action.kind == "answer" else record.judge.contribution
    return verdict == 0.0
