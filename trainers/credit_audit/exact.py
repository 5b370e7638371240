"""True values by enumeration: every state a policy can reach, with its probability.

For a policy π that is an `EnumerablePolicy` and an environment that is deterministic given the acts,

    Q(s, a) = r(s, a) + V(s')        V(s) = Σ_a π(a|s) Q(s, a)        A(s, a) = Q(s, a) − V(s)

with s' what the environment's own step gives after restoring s, and V = 0 where the episode has ended. The whole tree is
covered although only its distinct states are computed (`graph`); nothing is sampled or pruned.

Also exact is the policy gradient, from the probability d(s) of reaching each state:

    ∇J = Σ_s d(s) Σ_a π(a|s) A(s, a) ∇ log π(a|s)

Axis suffixes: those of `graph`; _B states of one pass of the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode

from .graph import STATES_AT_ONCE, Level, StateGraphs, check_enumerable

__all__ = ["Decision", "ExactValues"]


@dataclass(slots=True)
class _Values:
    """What a policy makes of a level.

    Attributes:
        probs_K: probability of each act.
        q_K: Q of each act.
        value_S: V of each state.
        reach_S: the probability that an episode passes through each state.
    """

    probs_K: NDArray[np.float64]
    q_K: NDArray[np.float64]
    value_S: NDArray[np.float64]
    reach_S: NDArray[np.float64]


class Decision(NamedTuple):
    """A state and what can be chosen there, C acts.

    Attributes:
        round: number of the round, from 1.
        reach: the probability that an episode passes through this state.
        value: V.
        probs_C: probability of each act.
        q_C: Q of each act.
        continues_C: whether the episode goes on after it.
        new_gold_C: whether it returns a gold page that no earlier search returned; False everywhere unless gold is tracked.
    """

    round: int
    reach: float
    value: float
    probs_C: NDArray[np.float64]
    q_C: NDArray[np.float64]
    continues_C: NDArray[np.bool_]
    new_gold_C: NDArray[np.bool_]


class ExactValues:
    """The values of all states that a policy can reach from some questions.

    Args:
        policy: an `EnumerablePolicy`; its weights and temperature must not change between `solve` and what is read after it.
        envs: plays single steps from restored states; its slots are overwritten.
        max_states: refuse to enumerate more states than this.
        track_gold: tell states apart by the gold pages found so far, so that `decisions` knows which acts find one. Values
            are the same; there are more states.
        graphs: the graphs of earlier policies that differ from this one in weights alone; replaces `max_states` and
            `track_gold`.

    Attributes:
        states: number of distinct states.
        transitions: number of environment steps that were played.

    Raises:
        ConfigError: see `check_enumerable`.
    """

    def __init__(
        self,
        policy: Policy,
        envs: SearchVectorEnv,
        max_states: int = 300_000,
        track_gold: bool = False,
        graphs: StateGraphs | None = None,
    ) -> None:
        self._policy, self._lister = policy, check_enumerable(policy, envs.config)
        self._graphs = graphs or StateGraphs(envs, max_states, track_gold)
        self._levels: list[Level] = []
        self._values: list[_Values] = []
        self._roots: dict[str, int] = {}
        self.states = self.transitions = 0

    @torch.no_grad()
    def solve(self, task_ids: Sequence[str], weights: Sequence[float] | None = None) -> None:
        """Compute the values of everything that can happen on these questions.

        Args:
            task_ids: distinct questions.
            weights: how likely each question is, for `policy_gradient`; default: equally.

        Raises:
            ConfigError: there are more states than `max_states`; the message estimates how many.
            TrainingError: a search or a judge failed.
        """
        self._levels = self._graphs.levels(self._lister, task_ids)
        self._roots = {task: i for i, task in enumerate(task_ids)}
        self.states, self.transitions = sum(map(len, self._levels)), self._graphs.transitions
        given = [1.0 / len(task_ids)] * len(task_ids) if weights is None else weights
        reach_S: NDArray[np.float64] = np.array(given, dtype=np.float64)
        self._values = []
        for depth, level in enumerate(self._levels):
            probs_K = self._probabilities(level)
            self._values.append(_Values(probs_K, level.rewards_K.copy(), np.zeros(len(level)), reach_S))
            if depth + 1 < len(self._levels):
                onward_K = level.child_K >= 0
                reach_K = reach_S[level.owner_K] * probs_K
                reach_S = np.zeros(len(self._levels[depth + 1]))
                np.add.at(reach_S, level.child_K[onward_K], reach_K[onward_K])
        below_S = np.zeros(0)
        for level, values in zip(reversed(self._levels), reversed(self._values), strict=True):
            onward_K = level.child_K >= 0
            values.q_K[onward_K] += below_S[level.child_K[onward_K]]
            values.value_S[:] = np.bincount(level.owner_K, values.probs_K * values.q_K, minlength=len(level))
            below_S = values.value_S

    def value(self, task_id: str) -> float:
        """The expected return on a question."""
        return float(self._values[0].value_S[self._roots[task_id]])

    def true_credit(self, episode: Episode) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The values of an episode that the policy played on one of the solved questions.

        Returns:
            V before each round, and A of each round's act, both [R].

        Raises:
            ConfigError: the policy could not have played this episode.
        """
        found, advantages = [], []
        state = self._roots[episode.task_id]
        for depth, (record, level, values) in enumerate(
            zip(episode.rounds, self._levels, self._values, strict=False)
        ):
            if record.action.kind == "none":  # a look-ahead was stopped here: there is no act to value
                found.append(values.value_S[state])
                advantages.append(0.0)
                break
            column = level.acts[state].column.get(record.text)
            if column is None:
                raise ConfigError(
                    f"episode {episode.episode_id!r} was not played by this policy in this environment: its message "
                    f"{record.text!r:.80} of round {depth + 1} is not among the policy's acts there"
                )
            chosen = level.first_S[state] + column
            found.append(values.value_S[state])
            advantages.append(values.q_K[chosen] - values.value_S[state])
            state = int(level.child_K[chosen])
            if state < 0:
                break
        return np.array(found), np.array(advantages)

    def decisions(self) -> Iterator[Decision]:
        """Every state that was enumerated, round by round."""
        for depth, (level, values) in enumerate(zip(self._levels, self._values, strict=True)):
            for state, (first, count) in enumerate(zip(level.first_S, level.counts_S, strict=True)):
                part = slice(first, first + count)
                yield Decision(
                    depth + 1,
                    float(values.reach_S[state]),
                    float(values.value_S[state]),
                    values.probs_K[part],
                    values.q_K[part],
                    level.child_K[part] >= 0,
                    level.new_gold_K[part],
                )

    def policy_gradient(self) -> Tensor:
        """∇J with respect to the policy's trainable parameters, as one vector.

        J is the expected return over the solved questions.
        """
        parameters = [p for p in self._policy.module.parameters() if p.requires_grad]
        total = torch.zeros(sum(p.numel() for p in parameters))
        for level, values in zip(self._levels, self._values, strict=True):
            owner_K, counts_S = level.owner_K, level.counts_S
            weight_K = values.reach_S[owner_K] * values.probs_K * (values.q_K - values.value_S[owner_K])
            for begin in range(0, len(level), STATES_AT_ONCE):
                states = level.states[begin : begin + STATES_AT_ONCE]
                logprobs_BC = self._lister.act_logprobs(states)[1]
                inside_BC = _inside(counts_S[begin : begin + len(states)], logprobs_BC.shape[1])
                first = int(level.first_S[begin])
                weight_BC = torch.zeros(logprobs_BC.shape)
                part_K = weight_K[first : first + int(inside_BC.sum())]
                weight_BC[torch.from_numpy(inside_BC)] = torch.from_numpy(part_K).float()
                objective = (weight_BC * logprobs_BC.masked_fill(logprobs_BC == -torch.inf, 0.0)).sum()
                gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
                total += torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for p, g in zip(parameters, gradients, strict=True)
                    ]
                )
        return total

    def _probabilities(self, level: Level) -> NDArray[np.float64]:
        """Of each act, [K]."""
        logprobs = [np.zeros(0)]
        counts_S = level.counts_S
        for begin in range(0, len(level), STATES_AT_ONCE):
            states = level.states[begin : begin + STATES_AT_ONCE]
            logprobs_BC = self._lister.act_logprobs(states)[1].double().numpy()
            logprobs.append(logprobs_BC[_inside(counts_S[begin : begin + len(states)], logprobs_BC.shape[1])])
        logprobs_K = np.concatenate(logprobs)
        # Single precision sums to 1 ± 1e-7.
        probs_K: NDArray[np.float64] = np.exp(
            logprobs_K - np.logaddexp.reduceat(logprobs_K, level.first_S)[level.owner_K]
        )
        return probs_K


def _inside(counts_B: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Which columns of padded rows are acts, [B, width]."""
    inside_BC: NDArray[np.bool_] = np.arange(width) < counts_B[:, None]
    return inside_BC
