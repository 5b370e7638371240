"""What can happen on a question: every state that a policy can reach, and where each act leads.

The states and acts depend on the environment and on what the policy looks at, but not on its weights: a graph that was built
once serves every later version of the policy. Each act is played once in the real environment, from the restored state.
States are merged when neither the environment nor the policy can tell them apart from here on: environment states by the
parts of their snapshot that later rewards depend on, policy states by `state_key`.

Axis suffixes: _S states of one round; _K all their acts, state after state; _C the acts of one state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.enumerable import EnumerablePolicy
from searchgym.agents.policy import Policy
from searchgym.dialects import Act, Dialect
from searchgym.env.config import EnvConfig, env_fingerprint
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, TrainingError

__all__ = ["Level", "StateGraphs", "check_enumerable", "join_levels", "shared_graphs"]

STATES_AT_ONCE = 512  # per pass of the policy
_SHARED_ENVS = 128
_SHARED_STATES = 1_000_000
_shared: dict[str, StateGraphs] = {}
Snapshot = dict[str, Any]


class ActList:
    """The acts that can be chosen in some states.

    Args:
        acts: the acts, C of them; one may be listed more than once.
        dialect: writes their messages.

    Attributes:
        distinct: each act once.
        messages: their messages.
        which_C: for each listed act, its position among the distinct ones.
        column: message -> the first of its columns.
    """

    __slots__ = ("acts", "column", "distinct", "messages", "which_C")

    def __init__(self, acts: tuple[Act, ...], dialect: Dialect) -> None:
        place: dict[Act, int] = {}
        self.acts = acts
        self.which_C = np.array([place.setdefault(act, len(place)) for act in acts], dtype=np.int64)
        self.distinct = list(place)
        self.messages = [dialect.write(act) for act in self.distinct]
        self.column: dict[str, int] = {}
        for column, which in enumerate(self.which_C.tolist()):
            self.column.setdefault(self.messages[which], column)


@dataclass(slots=True)
class Level:
    """The states that can be reached after a number of rounds, S of them, with K acts in all.

    Attributes:
        states: what the policy acts on.
        acts: the acts of each state.
        first_S: position of each state's first act.
        rewards_K: reward of each act.
        child_K: position of the successor in the next level; -1 where the episode ends.
        new_gold_K: whether the act returns a gold page that no earlier search returned; all False unless gold is tracked.
    """

    states: list[Any]
    acts: list[ActList]
    first_S: NDArray[np.int64]
    rewards_K: NDArray[np.float64]
    child_K: NDArray[np.int64]
    new_gold_K: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.states)

    @property
    def counts_S(self) -> NDArray[np.int64]:
        """Number of acts of each state."""
        return np.diff(self.first_S, append=len(self.child_K))

    @property
    def owner_K(self) -> NDArray[np.int64]:
        """The state of each act."""
        return np.repeat(np.arange(len(self)), self.counts_S)


class _Outcome(NamedTuple):
    """What an act does in a state of the environment.

    Attributes:
        reward: of the step.
        observation: what the agent sees next; "" at the end.
        snapshot: the state after it; None at the end.
        key: equal for environment states with the same future.
        chars: characters of the act's message and the observation.
    """

    reward: float
    observation: str
    snapshot: Snapshot | None
    key: Hashable
    chars: int


class _Place(NamedTuple):
    """A state that is still to be expanded.

    Attributes:
        state: of the policy.
        snapshot: of the environment.
        key: of the environment.
    """

    state: Any
    snapshot: Snapshot
    key: Hashable


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


class StateGraphs:
    """The graphs of questions, built when they are needed.

    Args:
        envs: plays single steps from restored states; its slots are overwritten.
        max_states: refuse to hold more states than this at a time.
        track_gold: tell states apart by the gold pages found so far, so that `Level.new_gold_K` is known.
        keep: keep the graphs of questions that are no longer requested while `max_states` has room for them; for questions
            that are requested again, by other policies or with other episodes.

    Attributes:
        transitions: number of environment steps played for the latest request.
    """

    def __init__(
        self,
        envs: SearchVectorEnv,
        max_states: int = 300_000,
        track_gold: bool = False,
        keep: bool = False,
    ) -> None:
        self.envs, self.max_states, self.track_gold, self._keep = envs, max_states, track_gold, keep
        self._graphs: dict[str, list[Level]] = {}
        self._lists: dict[int, ActList] = {}  # by the identity of their tuple, which they hold
        self.transitions = 0

    def levels(self, policy: EnumerablePolicy, task_ids: Sequence[str]) -> list[Level]:
        """The states of some questions, round by round, in the order of the questions.

        Args:
            policy: lists the acts; always the same kind of policy with the same options, its weights may differ.
            task_ids: distinct questions.

        Raises:
            ConfigError: there are more states than `max_states`; the message estimates how many.
            TrainingError: a search or a judge failed.
        """
        self.transitions = 0
        if not self._keep:
            self._graphs = {task: self._graphs[task] for task in task_ids if task in self._graphs}
            self._lists = {}
        missing = [task for task in task_ids if task not in self._graphs]
        held = sum(len(level) for levels in self._graphs.values() for level in levels)
        old = [task for task in self._graphs if task not in set(task_ids)]
        for number, task in enumerate(missing):
            graph: list[Level] = []
            front = [self._start(policy, task)]
            chars = [0]
            while front:
                total = held + sum(map(len, graph)) + len(front)
                while total > self.max_states and old:
                    dropped = sum(map(len, self._graphs.pop(old.pop(0))))
                    held, total = held - dropped, total - dropped
                if total > self.max_states:
                    counts = [*map(len, graph), len(front)]
                    raise self._too_many(counts, total, len(task_ids), len(task_ids) - len(missing) + number)
                self._check_chars(max(chars))
                level, front, chars = self._expand(policy, front, chars)
                graph.append(level)
            held += sum(map(len, graph))
            self._graphs[task] = graph
        return join_levels([self._graphs[task] for task in task_ids])

    # -- parts -----------------------------------------------------------------------------------------

    def _start(self, policy: EnumerablePolicy, task_id: str) -> _Place:
        start = self.envs.start({0: task_id})[0]
        snapshot = self.envs.snapshot(0)
        state = policy.start_state(start.observation, self.envs.config.feedback_calls)
        return _Place(state, snapshot, _environment_key(snapshot, self.envs.config, self.track_gold))

    def _expand(
        self, policy: EnumerablePolicy, front: list[_Place], chars: list[int]
    ) -> tuple[Level, list[_Place], list[int]]:
        """Play every act of a level.

        Args:
            policy: lists the acts.
            front: the states.
            chars: the most characters with which an episode arrives in each.

        Returns:
            The level; the states after it, each once; and their characters.
        """
        listed = self._list_acts(policy, [place.state for place in front])
        outcomes = self._play(front, listed)
        below: list[_Place] = []
        below_chars: list[int] = []
        position: dict[Hashable, int] = {}
        rewards: list[NDArray[np.float64]] = []
        children: list[NDArray[np.int64]] = []
        gold: list[NDArray[np.bool_]] = []
        for place, acts, before in zip(front, listed, chars, strict=True):
            from_here = outcomes[place.key]
            played = [from_here[message] for message in acts.messages]
            child = [-1] * len(played)
            new_gold = np.zeros(len(played), dtype=bool)
            for i, (act, outcome) in enumerate(zip(acts.distinct, played, strict=True)):
                if outcome.snapshot is None:
                    continue
                state = policy.next_state(place.state, act, outcome.observation)
                key = outcome.key, policy.state_key(state)
                found = position.get(key)
                after = before + outcome.chars
                if found is None:
                    found = position[key] = len(below)
                    below.append(_Place(state, outcome.snapshot, outcome.key))
                    below_chars.append(after)
                elif after > below_chars[found]:
                    below_chars[found] = after
                child[i] = found
                if self.track_gold:
                    new_gold[i] = len(outcome.snapshot["found"]) > len(place.snapshot["found"])
            rewards.append(np.array([outcome.reward for outcome in played], dtype=np.float64)[acts.which_C])
            children.append(np.array(child, dtype=np.int64)[acts.which_C])
            gold.append(new_gold[acts.which_C])
        counts = np.array([len(acts.which_C) for acts in listed])
        level = Level(
            [place.state for place in front],
            listed,
            np.cumsum(counts) - counts,
            np.concatenate(rewards),
            np.concatenate(children),
            np.concatenate(gold),
        )
        return level, below, below_chars

    def _list_acts(self, policy: EnumerablePolicy, states: Sequence[Any]) -> list[ActList]:
        found = []
        for begin in range(0, len(states), STATES_AT_ONCE):
            for acts in policy.act_logprobs(states[begin : begin + STATES_AT_ONCE])[0]:
                if not acts:
                    raise ConfigError(
                        "the policy lists no act in a state: it must have at least one everywhere"
                    )
                if id(acts) not in self._lists:
                    self._lists[id(acts)] = ActList(acts, self.envs.config.dialect)
                found.append(self._lists[id(acts)])
        return found

    def _play(
        self, front: Sequence[_Place], listed: Sequence[ActList]
    ) -> dict[Hashable, dict[str, _Outcome]]:
        """Play each act from its restored state, once for each state of the environment; by state and message."""
        places: dict[Hashable, _Place] = {}
        wanted: dict[Hashable, dict[str, None]] = {}
        for place, acts in zip(front, listed, strict=True):
            places[place.key] = place
            wanted.setdefault(place.key, {}).update(dict.fromkeys(acts.messages))
        outcomes: dict[Hashable, dict[str, _Outcome]] = {key: {} for key in wanted}
        todo = [(key, message) for key, messages in wanted.items() for message in messages]
        width = self.envs.num_envs
        for begin in range(0, len(todo), width):
            batch = dict(enumerate(todo[begin : begin + width]))
            for slot, (key, _) in batch.items():
                self.envs.restore(slot, places[key].snapshot)
            records = self.envs.play({slot: message for slot, (_, message) in batch.items()})
            for slot, (key, message) in batch.items():
                record = records[slot]
                if not record.valid_for_training:
                    raise TrainingError(
                        f"message {message!r:.80} could not be scored ({record.outcome and record.outcome.stop_reason}): "
                        "values need an environment that does not fail; check the retriever and the judge"
                    )
                after = None if record.outcome is not None else self.envs.snapshot(slot)
                outcomes[key][message] = _Outcome(
                    record.reward,
                    record.observation,
                    after,
                    None if after is None else _environment_key(after, self.envs.config, self.track_gold),
                    len(message) + len(record.observation),
                )
        self.transitions += len(todo)
        return outcomes

    def _check_chars(self, chars: int) -> None:
        limit = self.envs.config.max_chars
        if limit is not None and chars > limit:
            raise ConfigError(
                f"episodes of {chars:,} characters exist and max_chars is {limit:,}: states that differ in their "
                "characters alone are not told apart; use max_chars=null or the method monte-carlo"
            )

    def _too_many(self, counts: list[int], held: int, questions: int, done: int) -> ConfigError:
        rounds = self.envs.config.max_rounds
        growth = counts[-1] / max(1, counts[-2]) if len(counts) > 1 else counts[-1]
        one = sum(counts) + sum(counts[-1] * growth**i for i in range(1, rounds - len(counts) + 1))
        total = (held - sum(counts)) + one * (questions - done)
        return ConfigError(
            f"{questions} questions have {held:,} states after {done} questions and {len(counts) - 1} of {rounds} rounds "
            f"of the next, about {total:.2g} in all, and max_states is {self.max_states:,}: use fewer rounds, a policy "
            "with memory=false, the method monte-carlo, or a larger max_states"
        )


def shared_graphs(policy: Policy, config: EnvConfig) -> StateGraphs:
    """The graphs of an environment's questions, kept by this process for all policies that differ in their weights alone.

    Args:
        policy: see `StateGraphs.levels`.
        config: the environment; its judge is left out, and must not be paid for.
    """
    plain = replace(config, judge=None, judge_spec=None)
    asked = hashlib.blake2b(digest_size=16)
    for split in plain.corpus.splits:
        for question in plain.corpus.questions(split):
            asked.update(f"{question.id}\0{question.text}\0{question.answers}\n".encode())
    parts = [env_fingerprint(plain), asked.hexdigest(), policy.name, policy.describe()]
    key = json.dumps(parts, sort_keys=True)
    if key not in _shared:
        envs = SearchVectorEnv.from_config(plain, _SHARED_ENVS)
        _shared[key] = StateGraphs(envs, _SHARED_STATES, keep=True)
    return _shared[key]


def join_levels(graphs: Sequence[Sequence[Level]]) -> list[Level]:
    """Graphs side by side as one.

    Args:
        graphs: of each question, round by round.
    """
    joined = []
    for depth in range(max(map(len, graphs), default=0)):
        parts = [graph[depth] for graph in graphs if depth < len(graph)]
        below = [
            len(graph[depth + 1]) if depth + 1 < len(graph) else 0 for graph in graphs if depth < len(graph)
        ]
        joined.append(
            Level(
                [state for part in parts for state in part.states],
                [acts for part in parts for acts in part.acts],
                np.concatenate(
                    [part.first_S + k for part, k in _offsets(parts, [len(p.child_K) for p in parts])]
                ),
                np.concatenate([part.rewards_K for part in parts]),
                np.concatenate(
                    [np.where(part.child_K < 0, -1, part.child_K + k) for part, k in _offsets(parts, below)]
                ),
                np.concatenate([part.new_gold_K for part in parts]),
            )
        )
    return joined


def _offsets(parts: Sequence[Level], sizes: Sequence[int]) -> Iterator[tuple[Level, int]]:
    return zip(parts, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True)


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
