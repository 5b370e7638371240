"""Where an episode begins: at its question, or after the first rounds of a recorded episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..env.config import EnvConfig
from ..env.episode_state import EpisodeState
from ..env.infos import InfoSource
from ..env.snapshots import check_fork, observation_after, restore, snapshot_after
from ..env.vector import SearchVectorEnv
from ..errors import ConfigError, SnapshotError
from ..judges import no_verdict
from ..options import check_count
from ..records.episode import Episode

__all__ = ["Start", "check_starts", "open_slots", "stopped_after_act"]

Snapshot = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of an episode.

    Attributes:
        task_id: the question.
        snapshot: the environment's state after the shared rounds. None: it is rebuilt from the records of `prefix`,
            without a search.
        prefix: the episode to continue; None: the episode begins with the question.
        fork_round: number of rounds of `prefix` that are kept. With 0 the branch shares no round, but belongs to the
            tree of `prefix`.
        rounds: number of rounds to play at most; None: to the end. An episode that is not over by then is ended with the
            stop reason TOKEN_BUDGET, in a last round without an act. It can be continued from the round before.

    Raises:
        ConfigError: a snapshot or `fork_round` without `prefix`, or a prefix of another task.
    """

    task_id: str
    snapshot: Snapshot | None = None
    prefix: Episode | None = None
    fork_round: int = 0
    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.rounds is not None:
            check_count("rounds", self.rounds, 1)
        if self.prefix is None and (self.snapshot is not None or self.fork_round):
            raise ConfigError(
                f"the start of task {self.task_id!r} has a snapshot or fork_round={self.fork_round!r}, but no prefix: give "
                "the recorded episode that it continues"
            )
        if self.prefix is not None and self.prefix.task_id != self.task_id:
            raise ConfigError(
                f"the start of task {self.task_id!r} continues an episode of task {self.prefix.task_id!r}: give "
                "task_id=prefix.task_id"
            )


def stopped_after_act(episode: Episode) -> bool:
    """Whether an episode played with `rounds=1` was stopped after its act, and not ended by it.

    It can then be continued with `Start(task_id, prefix=episode, fork_round=len(episode.rounds) - 1)`.
    """
    return len(episode.rounds) == (episode.fork_round or 0) + 2 and episode.rounds[-1].action.kind == "none"


def check_starts(config: EnvConfig, starts: list[Start]) -> list[Snapshot | None]:
    """The environment's state at each start; None for those that begin with the question.

    Args:
        config: the arguments of the environment.
        starts: the starts. Those that continue the same rounds share a snapshot.

    Raises:
        ConfigError: an unknown task, or an episode that cannot be continued here.
    """
    built: dict[tuple[int, int], Snapshot] = {}
    states: list[Snapshot | None] = []
    for start in starts:
        config.corpus.question(start.task_id)  # refuses an unknown id
        prefix, fork_round = start.prefix, start.fork_round
        if prefix is not None:
            check_fork(config, prefix, fork_round)
        if prefix is None or fork_round == 0:
            states.append(None)
        elif start.snapshot is not None:
            states.append(_checked(config, start, start.snapshot))
        else:
            key = id(prefix), fork_round
            if key not in built:
                built[key] = snapshot_after(config, prefix, fork_round)
            states.append(built[key])
    return states


def open_slots(
    envs: SearchVectorEnv, starts: Mapping[int, tuple[Start, Snapshot | None]]
) -> dict[int, tuple[str, InfoSource]]:
    """Start or continue an episode in each of some slots.

    Args:
        envs: the environments.
        starts: slot -> start and its state, see `check_starts`.

    Returns:
        slot -> the observation that the next act answers, and what its info is derived from; in the same order.
    """
    fresh = envs.start({slot: start.task_id for slot, (start, state) in starts.items() if state is None})
    opened: dict[int, tuple[str, InfoSource]] = {}
    for slot, (start, state) in starts.items():
        prefix = start.prefix
        if state is None or prefix is None:
            opened[slot] = fresh[slot].observation, fresh[slot]
            continue
        observation = observation_after(envs.config, prefix, start.fork_round)
        envs.restore(slot, state, observation)
        last = prefix.rounds[start.fork_round - 1]
        gold = envs.config.corpus.question(start.task_id) if envs.config.reveal_gold else None
        judge = last.judge
        if envs.config.judge is not None and not envs.config.judges_steps and last.action.kind != "feedback":
            judge = no_verdict("pending")  # the agent of the prefix did not see the later verdict either
        opened[slot] = observation, replace(last, gold=gold, judge=judge)
    return opened


def _checked(config: EnvConfig, start: Start, snapshot: Snapshot) -> Snapshot:
    """A snapshot that was given with a start, if it can be restored and belongs to it."""
    restore(EpisodeState(config), snapshot)
    if (snapshot["task_id"], snapshot["round"]) != (start.task_id, start.fork_round):
        raise SnapshotError(
            f"the snapshot is of task {snapshot['task_id']!r} after {snapshot['round']} rounds, the start is of task "
            f"{start.task_id!r} after {start.fork_round}: leave the snapshot out, and it is rebuilt"
        )
    return snapshot
