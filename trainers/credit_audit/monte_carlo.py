"""True values by restored continuations: the mean return of many ways to go on from a state.

The state before round t of a recorded episode is restored from its records and the policy plays on, n times:

    V̂(s_t) = mean of the returns from s_t           Â(s_t, a_t) = r_t + V̂(s_{t+1}) − V̂(s_t)

with V̂ = 0 after the last round. The environment is deterministic given the acts, so Q needs no continuations of its own.
States that several episodes share (the same acts before them) are continued once. Continuation i has the same random
stream at every state of a question (common random numbers), so the standard error of Â counts the covariance of the two
means. Variances are taken with two more returns at each end of the range of returns (Agresti and Coull's rule), because a
few equal returns do not prove that all are equal; otherwise continuing until the error is small would stop too early
where success is rare. Continuations are added to the states whose advantages miss the requested error. Two replicas, the
even and the odd continuations, give the noise floor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.episode import Episode
from searchgym.errors import ConfigError, TrainingError
from searchgym.rollouts.collection import collect
from searchgym.rollouts.starts import Start

from .store import ContinuationStore
from .truth import TrueCredit

__all__ = ["check_reachable", "continue_episodes", "needed_continuations"]

_FIRST = 16  # continuations of every state before the first estimate of its error
_PART = 4096  # continuations played in one go; after an interruption at most these are played again
Key = tuple[str, tuple[str, ...]]


@dataclass(slots=True)
class _State:
    """A state to continue from.

    Attributes:
        start: how to get there.
        name: digest of the question and the acts before it.
        returns: what the continuations returned.
    """

    start: Start
    name: str
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
    """Covariance of the means of two states, whose continuations with the same number share a random stream."""
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


def check_reachable(error: float, most: int) -> None:
    """Refuse an error that the continuations cannot reach.

    Raises:
        ConfigError: with the number of continuations that it takes.
    """
    if not error > 0.0:
        raise ConfigError(f"the standard error is {error!r}: give a positive number, e.g. 0.05")
    needed = needed_continuations(error)
    if most < min(needed, _FIRST):
        raise ConfigError(f"{most} continuations of each state: give at least {min(needed, _FIRST)}")
    if most < needed:
        raise ConfigError(
            f"a standard error of {error:g} may take {needed:,} continuations of each state, and at most {most:,} are "
            f"allowed: allow more, or request {np.sqrt(0.5 / most):.3g}"
        )


def continue_episodes(
    policy: Policy,
    envs: SearchVectorEnv,
    episodes: Sequence[Episode],
    error: float = 0.05,
    most: int = 200,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    store: ContinuationStore | None = None,
) -> list[TrueCredit]:
    """The true credit of episodes, estimated by continuing each from each of its rounds.

    Args:
        policy: played the episodes, and plays the continuations; it must be able to resume and fork.
        envs: environments with the arguments of the episodes.
        episodes: recorded episodes.
        error: the standard error that the advantages should have.
        most: continuations of each state at most.
        seed: of the continuations.
        on_progress: called with the number of continuations played and planned so far.
        store: keeps the continuations, and gives those that were played before an interruption.

    Returns:
        One entry per episode.

    Raises:
        ConfigError: the policy cannot continue an episode, or the error cannot be reached; nothing was played.
        TrainingError: a search or a judge failed during a continuation.
    """
    check_reachable(error, most)
    states: dict[Key, _State] = {}
    paths: list[list[Key]] = []
    for episode in episodes:
        texts = [record.text for record in episode.rounds]
        path = [(episode.task_id, tuple(texts[:t])) for t in range(len(texts))]
        for t, key in enumerate(path):
            if key not in states:
                start = Start(episode.task_id, prefix=episode, fork_round=t) if t else Start(episode.task_id)
                states[key] = _State(start, _digest(key))
                if store is not None:
                    states[key].returns += store.returns(states[key].name)[:most]
        paths.append(path)
    wanted = {key: n for key, s in states.items() if (n := min(_FIRST, most) - len(s.returns)) > 0}
    wanted = wanted or _unsure(states, paths, error, most)
    while wanted:
        planned = sum(wanted.values()) + sum(len(state.returns) for state in states.values())
        for part in _parts(wanted):
            _play(policy, envs, [(states[key], count) for key, count in part], seed, store)
            if on_progress is not None:
                on_progress(sum(len(state.returns) for state in states.values()), planned)
        wanted = _unsure(states, paths, error, most)
    extremes = _extremes(states.values())
    return [
        _true_credit(episode, [states[key] for key in path], extremes)
        for episode, path in zip(episodes, paths, strict=True)
    ]


def _parts(wanted: dict[Key, int]) -> Iterator[list[tuple[Key, int]]]:
    """Divide continuations into parts of about `_PART`; a part that was played is stored."""
    part: list[tuple[Key, int]] = []
    for item in wanted.items():
        part.append(item)
        if sum(count for _, count in part) >= _PART:
            yield part
            part = []
    if part:
        yield part


def _play(
    policy: Policy,
    envs: SearchVectorEnv,
    wanted: Sequence[tuple[_State, int]],
    seed: int,
    store: ContinuationStore | None,
) -> None:
    """Add continuations to states."""
    starts, seeds, owners = [], [], []
    for state, count in wanted:
        for i in range(len(state.returns), len(state.returns) + count):
            starts.append(state.start)
            seeds.append(_seed(seed, state.start.task_id, i))
            owners.append(state)
    try:
        continued = collect(envs, policy, starts=starts, seeds=seeds)
    except NotImplementedError as missing:
        raise ConfigError(f"{missing}: its true values cannot be estimated") from missing
    fresh: dict[str, list[float]] = {}
    for state, episode in zip(owners, continued, strict=True):
        if not episode.valid_for_training:
            raise TrainingError(
                f"a continuation of task {episode.task_id!r} ended with {episode.outcome.stop_reason}: values need an "
                "environment that does not fail; check the retriever and the judge"
            )
        fresh.setdefault(state.name, []).append(
            sum(record.reward for record in episode.rounds[state.start.fork_round :])
        )
    for state, _ in wanted:
        state.returns += fresh[state.name]
    if store is not None:
        store.add(fresh)


def _extremes(states: Iterable[_State]) -> tuple[float, float]:
    """The smallest and the largest return; rewards of 0 and 1 are assumed until others are seen."""
    returns = [0.0, 1.0]
    for state in states:
        returns += (min(state.returns), max(state.returns))
    return min(returns), max(returns)


def _unsure(
    states: dict[Key, _State], paths: Sequence[Sequence[Key]], error: float, most: int
) -> dict[Key, int]:
    """How many more continuations the states get whose advantages miss the error, none beyond `most`."""
    extremes = _extremes(states.values())
    wanted: dict[Key, int] = {}
    for path in paths:
        for key, after in zip(path, [*path[1:], None], strict=True):
            ends = [key] if after is None else [key, after]
            if _error(states[key], None if after is None else states[after], extremes) <= error:
                continue
            for end in ends:
                state, have = states[end], len(states[end].returns)
                # Each end may contribute an equal part of the variance.
                enough = int(np.ceil(have * len(ends) * state.variance(extremes) / error**2))
                more = min(max(enough, have + have // 8 + 2), most, 2 * have + _FIRST) - have
                if more > 0:
                    wanted[end] = max(more, wanted.get(end, 0))
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
