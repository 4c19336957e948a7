"""Rate limits over sliding windows, kept as the venue keeps them.

A venue counts what we spend (requests by weight, messages, handshakes) over the last second or minute. A `RateLimiter`
keeps the same account: no window of a limit's length ever holds more than the limit, whatever the order.

Why not a library (looked at on 2026-11-23): aiolimiter 1.3 and limits 5.8 read a clock themselves; pyrate-limiter
4.5 takes the time as an argument, but cannot be charged afterwards for what an answer turned out to weigh.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from storage.errors import SettingsError


@dataclass(frozen=True, slots=True)
class RateLimitRule:
    """At most `most` units in any `per_s` seconds."""

    most: int
    per_s: float

    def __post_init__(self) -> None:
        if self.most < 1 or not self.per_s > 0:
            raise SettingsError(f"a limit of {self.most} in {self.per_s} s lets nothing pass")


class RateLimiter:
    """Recent spending under one or more limits. Times are seconds of any monotonic clock."""

    def __init__(self, *limits: RateLimitRule) -> None:
        self._limits = limits
        self._spent: list[deque[tuple[float, int]]] = [deque() for _ in limits]
        self._sums = [0] * len(limits)
        self._lock = asyncio.Lock()

    def take(self, weight: int, now_s: float) -> float:
        """Spend `weight` if every limit allows it now.

        A weight above a limit passes when the window is empty: it could never pass otherwise.

        Returns:
            0.0 if it was spent; else the seconds after which to try again, with nothing spent.
        """
        wait_s = max((self._wait_s(at, weight, now_s) for at in range(len(self._limits))), default=0.0)
        if wait_s <= 0.0:
            self.charge(weight, now_s)
            return 0.0
        return wait_s

    def charge(self, weight: int, now_s: float) -> None:
        """Spend `weight` even above the limit, since the venue has counted it already."""
        for at, spent in enumerate(self._spent):
            spent.append((now_s, weight))
            self._sums[at] += weight

    def spent(self, now_s: float) -> int:
        """Return what was spent in the window of the first limit."""
        self._expire(0, now_s)
        return self._sums[0]

    async def spend(self, weight: int = 1) -> None:
        """Wait until `weight` fits, then spend it; callers are served in order."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            wait_s = self.take(weight, loop.time())
            while wait_s > 0.0:
                await asyncio.sleep(wait_s)
                wait_s = self.take(weight, loop.time())

    def _wait_s(self, at: int, weight: int, now_s: float) -> float:
        self._expire(at, now_s)
        limit, over = self._limits[at], self._sums[at] + weight - self._limits[at].most
        wait_s = 0.0
        for then_s, spent in self._spent[at]:
            if over <= 0:
                break
            over -= spent
            wait_s = then_s + limit.per_s - now_s
        return wait_s

    def _expire(self, at: int, now_s: float) -> None:
        spent, per_s = self._spent[at], self._limits[at].per_s
        # The same sum as in `_wait_s`, so that rounding does not reject a caller after its wait.
        while spent and spent[0][0] + per_s - now_s <= 0.0:
            self._sums[at] -= spent.popleft()[1]
