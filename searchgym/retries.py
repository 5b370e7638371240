"""When to send a request again, and after what pause; shared by everything that waits for a server."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Backoff", "is_transient"]

_random = random.SystemRandom()  # workers are often seeded alike, and would retry in step


def is_transient(status: int) -> bool:
    """Whether another attempt may succeed where an HTTP server answered with this status."""
    return status in (408, 409, 425, 429) or status >= 500


@dataclass(frozen=True, slots=True)
class Backoff:
    """Random pauses between attempts, with an upper bound that doubles ("full jitter").

    Attributes:
        first: seconds; the upper bound of the pause after the first attempt.
        longest: seconds; the upper bound of any pause.
        shortest: seconds; the lower bound of any pause, also for a server that asks for less.
    """

    first: float
    longest: float
    shortest: float = 0.05

    def bound(self, attempt: int) -> float:
        """The longest pause after the n-th attempt, n >= 1, in seconds."""
        return min(self.longest, self.first * 2.0 ** min(attempt - 1, 64))

    def pause(self, attempt: int, requested: float | None = None) -> float:
        """The pause after the n-th attempt, n >= 1, in seconds.

        Args:
            attempt: n.
            requested: seconds that the server asks for (Retry-After). Up to n times as much is added, since many
                clients are told the same and must not all come back at once.
        """
        if requested is not None:
            return min(self.longest, max(self.shortest, requested)) * _random.uniform(1, 1 + min(attempt, 4))
        return _random.uniform(self.shortest, max(self.shortest, self.bound(attempt)))
