"""Step DPO: at a state, the best of several next acts is made more likely than the others. RAG-Gym's step supervision.

Source: RAG-Gym, arXiv 2502.13957, and its code at 2abbdd4: an outer decision process, whose steps are rounds. At each state ten
acts are sampled at temperature 1, a language model ranks them, and the rankings train step DPO (the best against each other
act) or, as its control, SFT on the best act:

    h_sj = β [ log π_θ(a*|s)/π_ref(a*|s) − log π_θ(a_j|s)/π_ref(a_j|s) ]
    L    = mean over states of  mean over the worse acts a_j of  −log σ(h_sj)            objective=dpo
    L    = mean over states of  −log π_θ(a*|s)                                          objective=sft

log π(a|s) is the sum over the tokens of the round. π_ref is the policy at the start of the run.

How the acts of a state come about: for each question the policy plays chains; then `states` states of every chain are drawn, and
from each the policy plays `actions` − 1 branches to the end. So the group of a question has chains × (1 + states × (actions −
1)) = `group_size` episodes. All rounds of the group that follow the same messages are acts of one state: that includes the
first rounds of all chains, and with states=0 it is all there is (no branch is played).

    score=value    the mean reward of the group's episodes that took the act in this state (a Monte Carlo value)
    score=judge    u · v of the judge's verdict for a search, the episode's reward for an act that answers

Departures from the paper and its code:
1. [OURS] The score by value; the released rankings are a language model's. Its order of criteria (sufficiency, utility,
   redundancy) is the judge's business; only who is best counts here, as for the released DPO.
2. [OURS] The acts come from branches played to the end, by the current policy in each iteration; the code samples acts, executes
   the best one, and trains once on what it has collected.
3. [OURS] States are drawn at random from a chain, each once, and then again. Every state weighs the same.
4. [OURS] Equal messages are one act; its tokens are those of the episode that comes first by id. Where several acts are best,
   each is preferred to each worse one; a state in which all are equal is left out.
5. Rounds without tokens (another agent's, or cut off) are no acts. Acts without a verdict are left out and counted (`unjudged`).
6. The gradient is exact at every optimizer step; see pairwise.py.
7. Sizes are the kit's: the released runs have 10 acts per state, LoRA with rank 256 and a learning rate of 2e-6.
8. The control `permute_rewards` is refused with score=judge: verdicts would still tell acts apart.
9. This file is longer than 180 lines: it holds the method and its control, SFT on the same acts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.rollouts.starts import Start

from ...components.compared_acts import acts_of, count_unjudged, score_acts
from ...components.evidence import require_judge
from ...components.preference import Pairs
from ...config import option
from ...core.algorithm import AlgorithmConfig
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.rollouts import check_can_branch
from ...core.tasks import TaskSampler
from .pairwise import PairwiseAlgorithm, PairwiseSettings, sequence_count

__all__ = ["StepDPO", "StepDPOSettings"]


@dataclass(frozen=True)
class StepDPOSettings(PairwiseSettings):
    """Settings of `StepDPO`; the inherited ones first."""

    objective: Literal["dpo", "sft"] = option("dpo", "prefer the best act to the others, or imitate it alone")
    score: Literal["value", "judge"] = option(
        "value", "acts are scored by rewards that followed, or by a judge"
    )
    states: int = option(1, "states of each chain from which branches are played; 0: none", low=0)
    actions: int = option(4, "acts per such state, the chain's own included", low=2)


class StepDPO(PairwiseAlgorithm):
    """Direct preference optimization, or imitation, of single acts; see the head of this file."""

    settings_class: ClassVar[type[AlgorithmConfig]] = StepDPOSettings
    settings: StepDPOSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        s = self.settings
        size = 1 + s.states * (s.actions - 1)
        if s.group_size % size:
            raise ConfigError(
                f"group_size is {s.group_size}, but a chain and its branches have {size} episodes (1 + states x (actions - 1)): "
                f"give a multiple of {size}"
            )
        if s.objective == "sft" and "beta" in (settings or {}):
            raise ConfigError("objective=sft has no reference: leave beta out, or use objective=dpo")
        if s.group_size == 1:
            self._refuse_single_episodes()
        if s.score == "judge" and s.permute_rewards:
            raise ConfigError(
                "score=judge has no control permute_rewards: verdicts would still tell acts apart; use score=value, or leave it out"
            )

    @property
    def group_relative(self) -> bool:
        return self.settings.score == "value"

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self.settings.score == "judge":
            require_judge(env_config, "step-dpo", "with score=judge compares acts")
        return env_config

    def check_policy(self, policy: Policy) -> None:
        if self.settings.states:
            check_can_branch(policy)

    @property
    def uses_reference(self) -> bool:
        return self.settings.objective == "dpo"

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        s, play, rng = self.settings, self.context.play, self.context.rng
        branches = s.states * (s.actions - 1)
        groups = play(policy, envs, tasks.draw(), s.group_size // (branches + 1), rng)
        chains = list(chain.from_iterable(groups))
        starts = [
            Start(episode.task_id, prefix=episode, fork_round=int(state))
            for episode in chains
            for state in _drawn(len(episode.rounds), s.states, rng)
            for _ in range(s.actions - 1)
        ]
        played = iter(play.branch(policy, envs, starts, rng) if starts else ())
        return [[*group, *(next(played) for _ in range(len(group) * branches))] for group in groups]

    def select(self, groups: Groups) -> list[bool]:
        if self.settings.score == "judge":
            return [True] * len(groups)
        return [bool(r_G.min() < r_G.max()) for r_G in groups.rewards]

    def sides(self, groups: Groups) -> tuple[NDArray[np.int64], Pairs]:
        """The sides are rounds, in order; see `PairwiseAlgorithm`."""
        triples = [
            (best, other, 1.0 / (len(bests) * len(others)))
            for bests, others in self._compared(groups)
            for best in bests
            for other in others
        ]
        columns = list(zip(*triples, strict=True)) or [(), (), ()]
        pairs = Pairs(
            torch.tensor(columns[0]).long(),
            torch.tensor(columns[1]).long(),
            torch.tensor(columns[2], dtype=torch.float64),
        )
        return groups.round_of_token_N.copy(), pairs

    def credit(self, groups: Groups) -> Credit:
        given = super().credit(groups) if self.uses_reference else self._imitation(groups)
        if self.settings.score == "judge":
            given.metrics["unjudged"] = float(count_unjudged(groups))
        return given

    def _imitation(self, groups: Groups) -> Credit:
        """1 / (number of best acts) for each best act of a state, over the number of states."""
        states = list(self._compared(groups))
        weight_R = np.zeros(len(groups.episode_R))
        for bests, _ in states:
            weight_R[bests] = 1.0 / (len(bests) * len(states))
        weight_N = weight_R[groups.round_of_token_N]
        mask_N = weight_N > 0.0
        scale = sequence_count(groups, mask_N, self.settings.sequence)
        return Credit.flat("token", scale * weight_N, groups, {"compared": float(len(states))}, mask_N)

    def _compared(self, groups: Groups) -> Iterator[tuple[list[int], list[int]]]:
        """For each state with a preference: the rounds (counted over all episodes) of its best acts and of the others."""
        tokens_R = np.bincount(groups.round_of_token_N, minlength=len(groups.episode_R))
        first_E = np.cumsum(groups.round_counts_E) - groups.round_counts_E
        rewards_E = np.concatenate(groups.rewards) if len(groups) else np.zeros(0)
        for acts in acts_of(groups):
            scored = score_acts(groups, acts, rewards_E, by_judge=self.settings.score == "judge")
            placed = [(first_E[e] + t, score) for (e, t), score in scored]
            placed = [(place, score) for place, score in placed if tokens_R[place]]
            if placed and min(s for _, s in placed) < (top := max(s for _, s in placed)):
                yield [int(p) for p, s in placed if s == top], [int(p) for p, s in placed if s < top]


def _drawn(rounds: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` states of an episode, each once while there are others."""
    orders = [rng.permutation(rounds) for _ in range(-(-count // rounds))]
    return np.concatenate([*orders, np.zeros(0, dtype=np.int64)])[:count].astype(np.int64)
