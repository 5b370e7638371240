"""The order of the training questions: a seeded permutation of the split, epoch after epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchgym.errors import ConfigError

__all__ = ["TaskSampler"]


class TaskSampler:
    """Gives the task ids of each iteration; every question occurs once before any occurs a second time.

    The order depends on (seed, epoch) alone, so `drawn`, the number of tasks given so far, is the entire state.

    Args:
        task_ids: the questions to draw from.
        count: questions per iteration.
        seed: of the permutations.
    """

    def __init__(self, task_ids: Sequence[str], count: int, seed: int) -> None:
        if not task_ids:
            raise ConfigError(
                "no training questions: check the split and the question filters of the environment"
            )
        self.task_ids, self.count, self.seed = list(task_ids), count, seed
        self.drawn = 0
        self._epoch = -1
        self._order = np.arange(0)

    def draw(self, count: int | None = None) -> list[str]:
        """The next task ids.

        Args:
            count: how many; default: those of an iteration.
        """
        drawn = [self._task(self.drawn + i) for i in range(self.count if count is None else count)]
        self.drawn += len(drawn)
        return drawn

    def _task(self, position: int) -> str:
        epoch, offset = divmod(position, len(self.task_ids))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.task_ids))
            self._epoch = epoch
        return self.task_ids[int(self._order[offset])]
