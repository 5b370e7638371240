"""What requests to an endpoint cost, and the two limits on it: a rate per minute and a budget in total."""

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
    """US dollars per million tokens; 0 for an unknown price."""

    usd_per_million_input: float = 0.0
    usd_per_million_output: float = 0.0

    def usd(self, usage: Usage) -> float:
        """The price of some usage, in US dollars."""
        return (
            usage.input_tokens * self.usd_per_million_input
            + usage.output_tokens * self.usd_per_million_output
        ) / 1e6


class Meter:
    """Counts usage, and keeps it within a budget that is never exceeded.

    Before a request is sent, its worst case is reserved: one token per byte of the prompt, and the longest reply.
    If that does not fit in addition to what other requests have reserved, the request waits for them; if it does
    not fit in addition to what was used, the budget is spent. Use a meter on one event loop only.

    Args:
        prices: what tokens cost.
        max_usd: the budget in US dollars; None for no limit.
        max_total_tokens: the budget in tokens; None for no limit.

    Attributes:
        calls: requests that were answered.
        used: the tokens they took.
        last_refusal: why the last request that was refused was not sent; "" if none was refused.
    """

    def __init__(self, prices: Prices, max_usd: float | None, max_total_tokens: int | None) -> None:
        self.prices = prices
        self.max_usd = max_usd
        self.max_total_tokens = max_total_tokens
        self.calls = 0
        self.used = Usage()
        self.last_refusal = ""
        self._reserved: list[Usage] = []
        self._settled: asyncio.Condition | None = None

    @property
    def usd(self) -> float:
        """The price of what was used, in US dollars."""
        return self.prices.usd(self.used)

    @property
    def counts(self) -> dict[str, float]:
        """The totals so far: calls, input_tokens, output_tokens, usd."""
        return {
            "calls": self.calls,
            "input_tokens": self.used.input_tokens,
            "output_tokens": self.used.output_tokens,
            "usd": self.usd,
        }

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.max_usd is not None or self.max_total_tokens is not None

    def budget_error(self, most: Usage) -> str:
        """Why a request must not be sent, even if no other is under way; "" if it may.

        Args:
            most: the most tokens the request can take.
        """
        used = self.used.input_tokens + self.used.output_tokens
        tokens = most.input_tokens + most.output_tokens
        if self.max_total_tokens is not None and used + tokens > self.max_total_tokens:
            return (
                f"budget spent: max_total_tokens={self.max_total_tokens}, {used} used, "
                f"and the next request may take {tokens}"
            )
        usd = self.prices.usd(most)
        if self.max_usd is not None and self.usd + usd > self.max_usd:
            return (
                f"budget spent: max_usd={self.max_usd:g}, {self.usd:.6g} used, "
                f"and the next request may take {usd:.6g}"
            )
        return ""

    async def reserve(self, most: Usage) -> None:
        """Wait until a request fits into the budget.

        Args:
            most: the most tokens the request can take.

        Raises:
            BudgetSpentError: it will never fit.
        """
        if not self.limited:
            return
        if self._settled is None:
            self._settled = asyncio.Condition()
        async with self._settled:
            while reason := self.budget_error(total([*self._reserved, most])):
                if not self._reserved:
                    self.last_refusal = reason
                    raise BudgetSpentError(reason)
                await self._settled.wait()
            self._reserved.append(most)

    async def settle(self, most: Usage, usage: Usage, *, answered: bool) -> None:
        """Replace a reservation by what the request took.

        Args:
            most: what was reserved.
            usage: what the request took.
            answered: whether it was answered.
        """
        self.calls += answered
        self.used = total([self.used, usage])
        if self._settled is not None:
            async with self._settled:
                self._reserved.remove(most)
                self._settled.notify_all()

    def forget_reservations(self) -> None:
        """Drop all reservations, after a fork: the requests under way and the event loop are the parent's."""
        self._reserved, self._settled = [], None


def total(usages: Sequence[Usage]) -> Usage:
    """The sum of usages."""
    return Usage(sum(u.input_tokens for u in usages), sum(u.output_tokens for u in usages))


class RateLimit:
    """Limits a rate, evenly: a burst is at most one second's worth, or one unit.

    Args:
        per_minute: units per minute at most; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._limiter: AsyncLimiter | None = None
        if per_minute is not None:
            seconds = max(1.0, 60.0 / per_minute)
            self._limiter = AsyncLimiter(per_minute * seconds / 60.0, seconds)

    async def take(self, amount: float) -> None:
        """Wait until `amount` may be taken; an amount larger than a burst is taken in parts."""
        if self._limiter is None:
            return
        burst = self._limiter.max_rate
        for _ in range(math.ceil(amount / burst) - 1):
            await self._limiter.acquire(burst)
            amount -= burst
        await self._limiter.acquire(min(amount, burst))
