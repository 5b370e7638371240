"""The true credit of recorded rounds, whatever method computed it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TrueCredit"]


@dataclass(frozen=True, slots=True)
class TrueCredit:
    """The true values of one episode under the policy that played it.

    Attributes:
        episode_id: the episode.
        values_R: V(s_t), the expected return before each round, [R].
        advantages_R: A(s_t, a_t) = Q(s_t, a_t) − V(s_t) of each round's act, [R].
        errors_R: standard error of each advantage, [R]; 0 where values were enumerated.
        replicas_2R: the advantages from each half of the continuations, [2, R]; equal where values were enumerated.
    """

    episode_id: str
    values_R: NDArray[np.float64]
    advantages_R: NDArray[np.float64]
    errors_R: NDArray[np.float64]
    replicas_2R: NDArray[np.float64]

    @classmethod
    def exact(
        cls, episode_id: str, values_R: NDArray[np.float64], advantages_R: NDArray[np.float64]
    ) -> TrueCredit:
        """True credit without error."""
        return cls(
            episode_id,
            values_R,
            advantages_R,
            np.zeros(len(advantages_R)),
            np.stack([advantages_R, advantages_R]),
        )
