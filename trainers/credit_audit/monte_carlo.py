"""True values by restored continuations: the mean return of many ways to go on from a state.

The state before round t of a recorded episode is restored from its records and the agent plays on, n times:

    V̂(s_t) = mean of the returns from s_t           Â(s_t, a_t) = r_t + V̂(s_{t+1}) − V̂(s_t)

with V̂ = 0 after the last round. The environment is deterministic given the acts, so Q needs no continuations of its own.
States that several episodes share (the same acts before them) are continued once.

Continuation i of a question draws the act of round t from a random stream of (i, t) alone, wherever it began (common random
numbers). So continuation i of s_t that comes by s_{t+1} *is* continuation i of s_{t+1}: it is played once, from the earlier
state, and counts for both. The standard error of Â takes the covariance of the two means into account. Variances are taken
with two more returns at each end of the range of returns (Agresti and Coull's rule), because a few equal returns do not
prove that all are equal; otherwise continuing until the error is small would stop too early where success is rare.
Continuations are added to the states whose advantages miss the requested error. Two replicas, the even and the odd
continuations, give the noise floor.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from searchgym.agent import Agent
from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, TrainingError
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import Start

from .aligned import AlignedAgent
from .store import ContinuationStore
from .truth import TrueCredit

__all__ = ["Continued", "Precision", "check_can_continue", "continue_episodes", "needed_continuations"]

_FIRST = 16  # continuations of every state before the first estimate of its error
_PART = 2048  # continuations played in one go; after an interruption at most these are played again
Key = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Precision:
    """How precise the values should be, and what that may cost.

    Attributes:
        error: the standard error that every advantage should have.
        continuations: of each state at most.
        budget: continuations of all states together at most; None: no limit.
    """

    error: float = 0.05
    continuations: int = 200
    budget: int | None = None

    def check(self) -> None:
        """Refuse an error that the continuations of a state cannot reach.

        Raises:
            ConfigError: with the number of continuations that it takes.
        """
        if not self.error > 0.0:
            raise ConfigError(f"the standard error is {self.error!r}: give a positive number, e.g. 0.05")
        needed = needed_continuations(self.error)
        if self.continuations < min(needed, _FIRST):
            raise ConfigError(
                f"{self.continuations} continuations of each state: give at least {min(needed, _FIRST)}"
            )
        if self.continuations < needed:
            raise ConfigError(
                f"a standard error of {self.error:g} may take {needed:,} continuations of each state, and at most "
                f"{self.continuations:,} are allowed: allow more, or request {np.sqrt(0.5 / self.continuations):.3g}"
            )

    def check_budget(self, states: int, known: int) -> None:
        """Refuse an error that the budget may not reach.

        Args:
            states: number of states to continue from.
            known: continuations that were played before an interruption.

        Raises:
            ConfigError: with the number of continuations that it may take.
        """
        worst = states * needed_continuations(self.error) - known
        if self.budget is not None and worst > self.budget:
            raise ConfigError(
                f"a standard error of {self.error:g} may take {worst:,} continuations of {states:,} states, and the budget "
                f"is {self.budget:,}: raise it, request an error of {np.sqrt(0.5 * states / (self.budget + known)):.3g}, or "
                "audit fewer questions"
            )


@dataclass(frozen=True, slots=True)
class Continued:
    """What continuing episodes gave.

    Attributes:
        truth: the true credit of each episode.
        counts: what it took, before an interruption, too: "states", "continuations" that were played, "restores" (those
            that did not begin with the question), "shared" (returns that another state's continuation gave), "rounds" and
            "tokens" that were sampled, and the processor time in "seconds".
    """

    truth: list[TrueCredit]
    counts: dict[str, float]


@dataclass(slots=True)
class _State:
    """A state to continue from.

    Attributes:
        start: how to get there.
        name: digest of the question and the acts before it.
        tokens: tokens that were sampled before it.
        returns: what its first continuations returned.
    """

    start: Start
    name: str
    tokens: int
    returns: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    def variance(self, extremes: tuple[float, float]) -> float:
        """Variance of the mean."""
        return float(np.var([*self.returns, *extremes, *extremes])) / (len(self.returns) + 4)

    def replica(self, half: int) -> float:
        return float(np.mean(self.returns[half::2]))


def _covariance(one: _State, other: _State) -> float:
    """Covariance of the means of two states, whose continuations with the same number share their random streams."""
    pairs = min(len(one.returns), len(other.returns))
    x, y = np.array(one.returns[:pairs]), np.array(other.returns[:pairs])
    shrunk = float(np.mean((x - x.mean()) * (y - y.mean()))) * pairs / (pairs + 4)
    return shrunk / max(len(one.returns), len(other.returns))


def _error(before: _State, after: _State | None, extremes: tuple[float, float]) -> float:
    """Standard error of an advantage: of the difference of two means, or of one where the episode ends."""
    variance = before.variance(extremes)
    if after is not None:
        variance += after.variance(extremes) - 2 * _covariance(before, after)
    return float(np.sqrt(max(variance, 0.0)))


def needed_continuations(error: float, spread: float = 0.5) -> int:
    """How many continuations of each of two states give their difference a standard error.

    Args:
        error: the standard error.
        spread: standard deviation of the return of a continuation; 0.5 is the largest for returns of 0 and 1.
    """
    return int(np.ceil(2 * spread**2 / error**2))


def check_can_continue(agent: Agent) -> None:
    """Refuse an agent that lacks what continuations need.

    Raises:
        ConfigError: it has no random stream per episode, or cannot resume or fork.
    """
    for method, lacks in (
        ("resume", "cannot continue a recorded episode"),
        ("fork", "cannot fork an episode"),
        ("seed", "has no random stream per episode"),
    ):
        if getattr(type(agent), method) is getattr(Agent, method):
            raise ConfigError(
                f"agent {agent.name!r} {lacks}, so its true values cannot be estimated: implement Agent.{method}"
            )


def continue_episodes(
    agent: Agent,
    envs: SearchVectorEnv,
    episodes: Sequence[Episode],
    precision: Precision = Precision(),
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    store: ContinuationStore | None = None,
) -> Continued:
    """The true credit of episodes, estimated by continuing each from each of its rounds.

    Args:
        agent: plays the continuations, and played the episodes; a policy's weights must not change meanwhile.
        envs: environments with the arguments of the episodes.
        episodes: recorded episodes.
        precision: when to stop.
        seed: of the continuations.
        on_progress: called with the number of continuations played and planned so far.
        store: keeps the continuations, and gives those that were played before an interruption.

    Raises:
        ConfigError: the agent cannot continue an episode, or the error cannot be reached; nothing was played.
        TrainingError: a search or a judge failed during a continuation.
    """
    precision.check()
    check_can_continue(agent)
    states: dict[Key, _State] = {}
    paths: list[list[Key]] = []
    for episode in episodes:
        texts = [record.text for record in episode.rounds]
        path = [(episode.task_id, tuple(texts[:t])) for t in range(len(texts))]
        for t, key in enumerate(path):
            if key not in states:
                start = Start(episode.task_id, prefix=episode, fork_round=t) if t else Start(episode.task_id)
                states[key] = _State(start, _digest(key), _sampled(episode, t))
        paths.append(path)
    player = _Player(agent, envs, states, seed, store, on_progress)
    precision.check_budget(len(states), player.known)
    with agent.remembering(episodes) if isinstance(agent, Policy) else nullcontext():
        wanted = dict.fromkeys(states, min(_FIRST, precision.continuations))
        while wanted:
            player.play(wanted)
            wanted = _unsure(states, paths, precision)
    extremes = _extremes(states.values())
    truth = [
        _true_credit(episode, [states[key] for key in path], extremes)
        for episode, path in zip(episodes, paths, strict=True)
    ]
    return Continued(truth, {"states": len(states), **player.counts})


class _Player:
    """Plays continuations that are not known yet.

    Args:
        agent: plays.
        envs: the environments.
        states: all states.
        seed: of the continuations.
        store: see `continue_episodes`.
        on_progress: see `continue_episodes`.

    Attributes:
        counts: see `Continued`, without "states".
        known: returns that the store had.
    """

    def __init__(
        self,
        agent: Agent,
        envs: SearchVectorEnv,
        states: Mapping[Key, _State],
        seed: int,
        store: ContinuationStore | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._agent, self._envs, self._states, self._seed = AlignedAgent(agent), envs, states, seed
        self._store, self._on_progress = store, on_progress
        self._pool = {
            s.name: {} if store is None else store.returns(s.name) for s in states.values()
        }  # name -> number of the continuation -> return
        self.known = sum(map(len, self._pool.values()))
        names = ("continuations", "restores", "shared", "rounds", "tokens", "seconds")
        self._since = time.process_time()
        self.counts = dict.fromkeys(names, 0.0) | ({} if store is None else store.cost)

    def play(self, wanted: Mapping[Key, int]) -> None:
        """Bring states to some number of continuations, those first that come first in their episodes.

        Args:
            wanted: state -> number.
        """
        by_round: dict[int, list[Key]] = {}
        for key in wanted:
            by_round.setdefault(len(key[1]), []).append(key)
        for _, keys in sorted(by_round.items()):
            missing = [
                (key, i)
                for key in keys
                for i in range(len(self._states[key].returns), wanted[key])
                if i not in self._pool[self._states[key].name]
            ]
            for begin in range(0, len(missing), _PART):
                self._play_part(missing[begin : begin + _PART])
                if self._on_progress is not None:
                    done = sum(map(len, self._pool.values()))
                    self._on_progress(done, done + len(missing) - begin - len(missing[begin : begin + _PART]))
            for key in keys:
                state = self._states[key]
                state.returns = [self._pool[state.name][i] for i in range(wanted[key])]

    def _play_part(self, part: Sequence[tuple[Key, int]]) -> None:
        starts = [self._states[key].start for key, _ in part]
        seeds = [_seed(self._seed, task_id, i) for (task_id, _), i in part]
        fresh: dict[str, dict[int, float]] = {}
        rounds = tokens = 0
        continued = collect(self._envs, self._agent, starts=starts, seeds=seeds)
        for (key, i), episode in zip(part, continued, strict=True):
            if not episode.valid_for_training:
                raise TrainingError(
                    f"a continuation of task {episode.task_id!r} ended with {episode.outcome.stop_reason}: values need an "
                    "environment that does not fail; check the retriever and the judge"
                )
            state = self._states[key]
            for later, reward_to_go in self._visited(episode, state.start.fork_round):
                if i not in self._pool[later.name]:
                    self._pool[later.name][i] = reward_to_go
                    fresh.setdefault(later.name, {})[i] = reward_to_go
            rounds += len(episode.rounds) - state.start.fork_round
            tokens += _sampled(episode, len(episode.rounds)) - state.tokens
        now = time.process_time()  # with what was done between the parts
        cost = {
            "continuations": len(part),
            "restores": sum(start.fork_round > 0 for start in starts),
            "shared": sum(map(len, fresh.values())) - len(part),
            "rounds": rounds,
            "tokens": tokens,
            "seconds": now - self._since,
        }
        self._since = now
        self.counts = {name: self.counts[name] + amount for name, amount in cost.items()}
        if self._store is not None:
            self._store.add(fresh, cost)

    def _visited(self, episode: Episode, first: int) -> Iterator[tuple[_State, float]]:
        """The known states that an episode comes by from round `first` on, each with the return from there."""
        to_go = np.cumsum([record.reward for record in reversed(episode.rounds)])[::-1]
        texts = tuple(record.text for record in episode.rounds)
        for t in range(first, len(texts)):
            state = self._states.get((episode.task_id, texts[:t]))
            if state is None:  # nor is any later one known
                return
            yield state, float(to_go[t])


def _sampled(episode: Episode, rounds: int) -> int:
    """Number of tokens that were sampled in the first rounds of an episode."""
    if rounds >= len(episode.rounds):
        return sum(sum(segment.mask) for segment in episode.segments)
    return sum(
        sampled
        for segment in episode.segments
        for sampled, round_ in zip(segment.mask, segment.rounds, strict=True)
        if round_ < rounds
    )


def _extremes(states: Iterable[_State]) -> tuple[float, float]:
    """The smallest and the largest return; rewards of 0 and 1 are assumed until others are seen."""
    returns = [0.0, 1.0]
    for state in states:
        returns += (min(state.returns), max(state.returns))
    return min(returns), max(returns)


def _unsure(
    states: Mapping[Key, _State], paths: Sequence[Sequence[Key]], precision: Precision
) -> dict[Key, int]:
    """How many continuations the states get next whose advantages miss the error."""
    extremes = _extremes(states.values())
    wanted: dict[Key, int] = {}
    for path in paths:
        for key, after in zip(path, [*path[1:], None], strict=True):
            ends = [key] if after is None else [key, after]
            error = _error(states[key], None if after is None else states[after], extremes)
            if error <= precision.error:
                continue
            for end in ends:
                have = len(states[end].returns)
                # The error falls with the square root of the number; a little more, so that few passes are needed.
                enough = int(np.ceil(have * (error / precision.error) ** 2)) + 2
                target = min(enough, 2 * have + _FIRST, precision.continuations)
                if target > have:
                    wanted[end] = max(target, wanted.get(end, 0))
    return wanted


def _true_credit(episode: Episode, states: Sequence[_State], extremes: tuple[float, float]) -> TrueCredit:
    rewards_R = np.array([record.reward for record in episode.rounds])

    def advantages(values: list[float]) -> NDArray[np.float64]:
        gained_R: NDArray[np.float64] = np.diff([*values, 0.0])
        return rewards_R + gained_R

    return TrueCredit(
        episode.episode_id,
        np.array([state.mean for state in states]),
        advantages([state.mean for state in states]),
        np.array(
            [_error(state, after, extremes) for state, after in zip(states, [*states[1:], None], strict=True)]
        ),
        np.stack([advantages([state.replica(half) for state in states]) for half in (0, 1)]),
    )


def _digest(key: Key) -> str:
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()


def _seed(seed: int, task_id: str, index: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{task_id}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
