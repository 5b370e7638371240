"""Random numbers that depend on the round: continuations that come by the same state go on alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from searchgym.agent import Agent, Turn
from searchgym.agents.wrapping import WrappingAgent
from searchgym.records.episode import Episode

__all__ = ["AlignedAgent"]


class AlignedAgent(WrappingAgent):
    """Plays like an agent, and draws the act of round t from a random stream of the episode's seed and t alone.

    So two episodes with the same seed that are in the same state in round t do the same from there on, wherever they began.

    Args:
        agent: acts.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._seeds: dict[int, int] = {}
        self._rounds: dict[int, int] = {}

    def begin(self, slots: Sequence[int]) -> None:
        super().begin(slots)
        self._rounds.update((slot, 0) for slot in slots)

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        self._seeds.update(zip(slots, seeds, strict=True))
        super().seed(slots, seeds)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        super().resume(slot, prefix, fork_round)
        self._rounds[slot] = fork_round

    def fork(self, source: int, targets: Sequence[int]) -> None:
        super().fork(source, targets)
        self._rounds.update((target, self._rounds[source]) for target in targets)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        self.agent.seed(slots, [_mix(self._seeds[slot], self._rounds[slot]) for slot in slots])
        for slot in slots:
            self._rounds[slot] += 1
        return self.agent.act(slots, observations, infos)


def _mix(seed: int, round_: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{round_}".encode(), digest_size=8).digest(), "big")
