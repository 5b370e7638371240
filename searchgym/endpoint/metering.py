"""What requests to an endpoint cost, and the two ways to bound it: a rate per minute and a ceiling in all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from ..errors import BudgetSpentError

__all__ = ["Meter", "Prices", "RateLimit", "Usage", "total"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the endpoint counts them."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens; 0 where nobody said."""

    usd_per_million_input: float = 0.0
    usd_per_million_output: float = 0.0

    def usd(self, usage: Usage) -> float:
        return (
            usage.input_tokens * self.usd_per_million_input
            + usage.output_tokens * self.usd_per_million_output
        ) / 1e6


class Meter:
    """Counts usage, and holds a ceiling that is never passed.

    Before a request its dearest outcome is reserved: a token per byte of the prompt, and the longest reply. While
    that does not fit beside what other requests have reserved, it waits for them; when it does not fit beside
    what was used, the budget is spent. Used on one event loop only.

    Args:
        prices: what tokens cost.
        max_usd: ceiling in dollars, or None.
        max_total_tokens: ceiling in tokens, or None.

    Attributes:
        calls: requests that were answered.
        used: what they took.
        refused: why a request was not let through, the last time one was not; "" before.
    """

    def __init__(self, prices: Prices, max_usd: float | None, max_total_tokens: int | None) -> None:
        self.prices = prices
        self.max_usd = max_usd
        self.max_total_tokens = max_total_tokens
        self.calls = 0
        self.used = Usage()
        self.refused = ""
        self._reserved: list[Usage] = []
        self._settled: asyncio.Condition | None = None

    @property
    def usd(self) -> float:
        return self.prices.usd(self.used)

    @property
    def counts(self) -> dict[str, float]:
        """calls, input_tokens, output_tokens and usd so far."""
        return {
            "calls": self.calls,
            "input_tokens": self.used.input_tokens,
            "output_tokens": self.used.output_tokens,
            "usd": self.usd,
        }

    @property
    def limited(self) -> bool:
        return self.max_usd is not None or self.max_total_tokens is not None

    def refusal(self, dearest: Usage) -> str:
        """Why a request must not be sent, even if no other were under way; "" if it may."""
        used = self.used.input_tokens + self.used.output_tokens
        most = dearest.input_tokens + dearest.output_tokens
        if self.max_total_tokens is not None and used + most > self.max_total_tokens:
            return (
                f"budget spent: max_total_tokens={self.max_total_tokens}, {used} used, "
                f"and the next request may take {most}"
            )
        usd = self.prices.usd(dearest)
        if self.max_usd is not None and self.usd + usd > self.max_usd:
            return (
                f"budget spent: max_usd={self.max_usd:g}, {self.usd:.6g} used, "
                f"and the next request may take {usd:.6g}"
            )
        return ""

    async def reserve(self, dearest: Usage) -> None:
        """Wait until a request fits under the ceiling; raises `BudgetSpentError` if it never will."""
        if not self.limited:
            return
        if self._settled is None:
            self._settled = asyncio.Condition()
        async with self._settled:
            while reason := self.refusal(total([*self._reserved, dearest])):
                if not self._reserved:
                    self.refused = reason
                    raise BudgetSpentError(reason)
                await self._settled.wait()
            self._reserved.append(dearest)

    async def settle(self, dearest: Usage, usage: Usage, *, answered: bool) -> None:
        """Exchange a reservation for what the request took."""
        self.calls += answered
        self.used = total([self.used, usage])
        if self._settled is not None:
            async with self._settled:
                self._reserved.remove(dearest)
                self._settled.notify_all()

    def forget_reservations(self) -> None:
        """After a fork: the requests under way are the parent's, and so is the event loop."""
        self._reserved, self._settled = [], None


def total(usages: Sequence[Usage]) -> Usage:
    """The sum of usages."""
    return Usage(sum(u.input_tokens for u in usages), sum(u.output_tokens for u in usages))


class RateLimit:
    """At most so many per minute, evenly: a burst is no more than a second's worth, or one.

    Args:
        per_minute: how many; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._limiter: AsyncLimiter | None = None
        if per_minute is not None:
            seconds = max(1.0, 60.0 / per_minute)
            self._limiter = AsyncLimiter(per_minute * seconds / 60.0, seconds)

    async def take(self, amount: float) -> None:
        """Wait until `amount` may be taken; what is more than a burst is taken piece by piece."""
        if self._limiter is None:
            return
        burst = self._limiter.max_rate
        for _ in range(math.ceil(amount / burst) - 1):
            await self._limiter.acquire(burst)
            amount -= burst
        await self._limiter.acquire(min(amount, burst))
