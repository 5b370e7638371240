"""True values by enumeration: every state a policy can reach, with its probability.

For a policy π that is an `EnumerablePolicy` and an environment that is deterministic given the acts,

    Q(s, a) = r(s, a) + V(s')        V(s) = Σ_a π(a|s) Q(s, a)        A(s, a) = Q(s, a) − V(s)

with s' what the environment's own step gives after restoring s, and V = 0 where the episode has ended. States are merged
when neither the environment nor the policy can tell them apart from here on: environment states by the parts of their
snapshot that later rewards depend on, policy states by `state_key`. So the whole tree is covered although only its
distinct states are computed; nothing is sampled or pruned.

Also exact is the policy gradient, from the probability d(s) of reaching each state:

    ∇J = Σ_s d(s) Σ_a π(a|s) A(s, a) ∇ log π(a|s)
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searchgym.agents.enumerable import EnumerablePolicy
from searchgym.agents.policy import Policy
from searchgym.dialects import Act
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.episode import Episode
from searchgym.errors import ConfigError, TrainingError

__all__ = ["Decision", "ExactValues", "check_enumerable"]

_BATCH = 512  # states per pass of the policy
Snapshot = dict[str, Any]


@dataclass(slots=True)
class _Transition:
    """What an act does in a state of the environment.

    Attributes:
        reward: of the step.
        observation: what the agent sees next; "" at the end.
        snapshot: the state after it; None at the end.
        key: equal for environment states with the same future.
    """

    reward: float
    observation: str
    snapshot: Snapshot | None
    key: Hashable


@dataclass(slots=True)
class _Node:
    """A state that the policy can reach.

    Attributes:
        state: what the policy acts on.
        snapshot: the environment.
        key: see `_Transition`.
        column: message -> the first of its columns.
        logprobs_C: log-probability of each act.
        rewards_C: reward of each act.
        child_C: position of the successor in the next level; -1 where the episode ends.
        value: V.
        q_C: Q of each act.
        reach: the probability that an episode passes through this state.
        chars: the most characters with which an episode arrives here.
    """

    state: Any
    snapshot: Snapshot
    key: Hashable
    column: dict[str, int] = field(default_factory=dict)
    logprobs_C: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rewards_C: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    child_C: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    value: float = 0.0
    q_C: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    reach: float = 0.0
    chars: int = 0

    @property
    def probs_C(self) -> NDArray[np.float64]:
        return np.exp(self.logprobs_C)


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


def check_enumerable(policy: Policy, config: EnvConfig) -> EnumerablePolicy:
    """The policy, if its values can be enumerated in such an environment.

    Raises:
        ConfigError: it does not list its acts, or an answer's reward is drawn at random or takes more than a step.
    """
    if not isinstance(policy, EnumerablePolicy):
        raise ConfigError(
            f"agent {policy.name!r} does not list its acts, so its values cannot be enumerated: use the method monte-carlo"
        )
    if config.max_queries != 1:
        raise ConfigError(
            f"max_queries is {config.max_queries}: values are enumerated for one query per search; use monte-carlo"
        )
    return policy


class ExactValues:
    """The values of all states that a policy can reach from some questions.

    Args:
        policy: an `EnumerablePolicy`; its weights and temperature must not change while this object is used.
        envs: plays single steps from restored states; its slots are overwritten.
        max_states: refuse to enumerate more states than this.
        track_gold: tell states apart by the gold pages found so far, so that `decisions` knows which acts find one. Values
            are the same; there are more states.

    Attributes:
        states: number of distinct states.
        transitions: number of environment steps that were played.

    Raises:
        ConfigError: see `check_enumerable`.
    """

    def __init__(
        self, policy: Policy, envs: SearchVectorEnv, max_states: int = 300_000, track_gold: bool = False
    ) -> None:
        self._policy, self._lister = policy, check_enumerable(policy, envs.config)
        self._envs, self._max_states, self._track_gold = envs, max_states, track_gold
        self._played: dict[tuple[Hashable, str], _Transition] = {}
        self._levels: list[list[_Node]] = []
        self._roots: dict[str, _Node] = {}
        self.states = self.transitions = 0

    @torch.no_grad()
    def solve(self, task_ids: Sequence[str], weights: Sequence[float] | None = None) -> None:
        """Enumerate everything that can happen on these questions; what was solved before is forgotten.

        Args:
            task_ids: distinct questions.
            weights: how likely each question is, for `policy_gradient`; default: equally.

        Raises:
            ConfigError: there are more states than `max_states`; the message estimates how many.
            TrainingError: a search or a judge failed.
        """
        self._played.clear()
        weights = [1.0 / len(task_ids)] * len(task_ids) if weights is None else weights
        level = self._start(task_ids, weights)
        self._roots = dict(zip(task_ids, level, strict=True))
        self._levels = []
        counts: list[int] = []
        while level:
            counts.append(len(level))
            if sum(counts) > self._max_states:
                raise self._too_many(counts, len(task_ids))
            chars, limit = max(node.chars for node in level), self._envs.config.max_chars
            if limit is not None and chars > limit:
                raise ConfigError(
                    f"episodes of {chars:,} characters exist and max_chars is {limit:,}: states that differ in their "
                    "characters alone are not told apart; use max_chars=null or the method monte-carlo"
                )
            self._levels.append(level)
            level = self._expand(level)
        self.states = sum(counts)
        for depth in reversed(range(len(self._levels))):
            self._back_up(depth)

    def value(self, task_id: str) -> float:
        """The expected return on a question."""
        return self._roots[task_id].value

    def true_credit(self, episode: Episode) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The values of an episode that the policy played on one of the solved questions.

        Returns:
            V before each round, and A of each round's act, both [R].

        Raises:
            ConfigError: the policy could not have played this episode.
        """
        values, advantages = [], []
        node = self._roots[episode.task_id]
        for depth, record in enumerate(episode.rounds):
            column = node.column.get(record.text)
            if column is None:
                raise ConfigError(
                    f"episode {episode.episode_id!r} was not played by this policy in this environment: its message "
                    f"{record.text!r:.80} of round {depth + 1} is not among the policy's acts there"
                )
            values.append(node.value)
            advantages.append(node.q_C[column] - node.value)
            child = int(node.child_C[column])
            if child < 0:
                break
            node = self._levels[depth + 1][child]
        return np.array(values), np.array(advantages)

    def decisions(self) -> Iterator[Decision]:
        """Every state that was enumerated, round by round."""
        for depth, level in enumerate(self._levels):
            for node in level:
                new_gold_C = np.zeros(len(node.child_C), bool)
                if self._track_gold:
                    before = len(node.snapshot["found"])
                    for column in np.flatnonzero(node.child_C >= 0):
                        child = self._levels[depth + 1][node.child_C[column]]
                        new_gold_C[column] = len(child.snapshot["found"]) > before
                yield Decision(
                    depth + 1,
                    node.reach,
                    node.value,
                    node.probs_C,
                    node.q_C,
                    node.child_C >= 0,
                    new_gold_C,
                )

    def policy_gradient(self) -> Tensor:
        """∇J with respect to the policy's trainable parameters, as one vector.

        J is the expected return over the solved questions.
        """
        parameters = [p for p in self._policy.module.parameters() if p.requires_grad]
        total = torch.zeros(sum(p.numel() for p in parameters))
        for level in self._levels:
            for begin in range(0, len(level), _BATCH):
                nodes = level[begin : begin + _BATCH]
                logprobs_BC = self._lister.act_logprobs([node.state for node in nodes])[1]
                weight_BC = torch.zeros(logprobs_BC.shape)
                for row, node in zip(weight_BC, nodes, strict=True):
                    advantage_C = node.reach * node.probs_C * (node.q_C - node.value)
                    row[: len(advantage_C)] = torch.from_numpy(advantage_C)
                objective = (weight_BC * logprobs_BC.masked_fill(logprobs_BC == -torch.inf, 0.0)).sum()
                gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
                total += torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for p, g in zip(parameters, gradients, strict=True)
                    ]
                )
        return total

    # -- parts -----------------------------------------------------------------------------------------

    def _start(self, task_ids: Sequence[str], weights: Sequence[float]) -> list[_Node]:
        nodes = []
        width = self._envs.num_envs
        for begin in range(0, len(task_ids), width):
            tasks = dict(enumerate(task_ids[begin : begin + width]))
            for slot, start in self._envs.start(tasks).items():
                state = self._lister.start_state(start.observation, self._envs.config.feedback_calls)
                snapshot = self._envs.snapshot(slot)
                key = _environment_key(snapshot, self._envs.config, self._track_gold)
                nodes.append(_Node(state, snapshot, key, reach=weights[begin + slot]))
        return nodes

    def _expand(self, level: list[_Node]) -> list[_Node]:
        """Fill in the acts of a level's states; returns their successors, each once."""
        config = self._envs.config
        listed: list[tuple[Act, ...]] = []
        for begin in range(0, len(level), _BATCH):
            nodes = level[begin : begin + _BATCH]
            acts, logprobs_BC = self._lister.act_logprobs([node.state for node in nodes])
            listed += acts
            for node, acts_C, logprobs_C in zip(nodes, acts, logprobs_BC.double().numpy(), strict=True):
                kept_C = logprobs_C[: len(acts_C)]
                node.logprobs_C = kept_C - np.logaddexp.reduce(kept_C)  # single precision sums to 1 ± 1e-7
        written: dict[tuple[Act, ...], list[str]] = {}
        for of_node in listed:
            if of_node not in written:
                written[of_node] = [config.dialect.write(act) for act in of_node]
        messages = [written[of_node] for of_node in listed]
        self._play(
            {
                (node.key, message): node.snapshot
                for node, texts in zip(level, messages, strict=True)
                for message in texts
            }
        )
        below: list[_Node] = []
        place: dict[Hashable, int] = {}
        for node, acts_C, texts in zip(level, listed, messages, strict=True):
            count = len(acts_C)
            node.rewards_C, node.child_C = np.zeros(count), np.full(count, -1)
            probs_C = node.probs_C
            for column, (act, message) in enumerate(zip(acts_C, texts, strict=True)):
                node.column.setdefault(message, column)
                transition = self._played[node.key, message]
                node.rewards_C[column] = transition.reward
                if transition.snapshot is None:
                    continue
                state = self._lister.next_state(node.state, act, transition.observation)
                child_key = transition.key, self._lister.state_key(state)
                child = place.get(child_key)
                if child is None:
                    child = place[child_key] = len(below)
                    below.append(_Node(state, transition.snapshot, transition.key))
                node.child_C[column] = child
                below[child].reach += node.reach * probs_C[column]
                chars = node.chars + len(message) + len(transition.observation)
                below[child].chars = max(below[child].chars, chars)
        return below

    def _play(self, wanted: dict[tuple[Hashable, str], Snapshot]) -> None:
        """Play each act from its restored state, unless that was done before."""
        missing = [(key, state) for key, state in wanted.items() if key not in self._played]
        width = self._envs.num_envs
        for begin in range(0, len(missing), width):
            batch = dict(enumerate(missing[begin : begin + width]))
            for slot, (_, state) in batch.items():
                self._envs.restore(slot, state)
            records = self._envs.play({slot: message for slot, ((_, message), _) in batch.items()})
            for slot, ((key, message), _) in batch.items():
                record = records[slot]
                if not record.valid_for_training:
                    raise TrainingError(
                        f"message {message!r:.80} could not be scored ({record.outcome and record.outcome.stop_reason}): "
                        "values need an environment that does not fail; check the retriever and the judge"
                    )
                ended = record.outcome is not None
                after = None if ended else self._envs.snapshot(slot)
                self._played[key, message] = _Transition(
                    record.reward,
                    record.observation,
                    after,
                    None if after is None else _environment_key(after, self._envs.config, self._track_gold),
                )
        self.transitions += len(missing)

    def _back_up(self, depth: int) -> None:
        for node in self._levels[depth]:
            node.q_C = node.rewards_C.copy()
            going_on_C = node.child_C >= 0
            if going_on_C.any():
                below = self._levels[depth + 1]
                node.q_C[going_on_C] += [below[child].value for child in node.child_C[going_on_C]]
            node.value = float(node.probs_C @ node.q_C)

    def _too_many(self, counts: list[int], questions: int) -> ConfigError:
        rounds = self._envs.config.max_rounds
        growth = counts[-1] / max(1, counts[-2]) if len(counts) > 1 else counts[-1]
        total = sum(counts) + sum(counts[-1] * growth**i for i in range(1, rounds - len(counts) + 1))
        return ConfigError(
            f"{questions} questions have {sum(counts):,} states after {len(counts) - 1} of {rounds} rounds, about "
            f"{total:.2g} in all, and max_states is {self._max_states:,}: use fewer rounds, a policy with "
            "memory=false, the method monte-carlo, or a larger max_states"
        )


def _environment_key(snapshot: Snapshot, config: EnvConfig, track_gold: bool) -> Hashable:
    """What the environment's future depends on."""
    ignored = {"schema", "index_hash", "anchor", "chars"}
    if config.max_searches is None:
        ignored.add("searches")
    if not config.has_feedback and not config.other_terms and "recall" not in config.reward:
        ignored |= {"invalid"} if track_gold else {"found", "invalid"}
    kept = {name: value for name, value in snapshot.items() if name not in ignored}
    # The checksum in the trace covers the ignored entries too.
    kept["trace"] = {name: value for name, value in snapshot["trace"].items() if name != "check"}
    return json.dumps(kept, sort_keys=True)
