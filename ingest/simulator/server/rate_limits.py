"""How much does the simulated venue take from a client: weight of requests, new connections?"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final

from storage.clock import NS

_MINUTE_NS: Final = 60 * NS
_LIGHT: Final = frozenset({"l2Book", "allMids", "exchangeStatus"})
_ROWS_A_WEIGHT: Final = {"recentTrades": 20, "fundingHistory": 20, "candleSnapshot": 60}


class RequestLimit:
    """What was taken within the last minute, by weight."""

    def __init__(self) -> None:
        self._taken: deque[tuple[int, float]] = deque()

    def take(self, now_ns: int, weight: float, most: float) -> int:
        """Take a weight and return 0, or return after how many seconds (at least 1) there is room again."""
        while self._taken and self._taken[0][0] <= now_ns - _MINUTE_NS:
            self._taken.popleft()
        held = sum(weight for _, weight in self._taken)
        if held + weight <= most:
            self._taken.append((now_ns, weight))
            return 0
        for taken_ns, part in self._taken:
            held -= part
            if held + weight <= most:
                return max(1, math.ceil((taken_ns + _MINUTE_NS - now_ns) / NS))
        return 60

    def add(self, now_ns: int, weight: float) -> None:
        """Charge a weight that is known only afterwards."""
        self._taken.append((now_ns, weight))


def weight_of(kind: object) -> int:
    """Return the weight of a request before its rows are counted (venue docs, rate limits, read 2026-08-22)."""
    return 2 if kind in _LIGHT else 20


def weight_of_rows(kind: object, answer: Any) -> int:
    """Return what the rows of an answer weigh on top."""
    if not isinstance(answer, list) or not isinstance(kind, str) or kind not in _ROWS_A_WEIGHT:
        return 0
    return len(answer) // _ROWS_A_WEIGHT[kind]
