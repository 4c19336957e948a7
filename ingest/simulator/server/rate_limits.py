"""Limit of the simulated venue on what a client sends within a minute."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from storage.clock import NS

_MINUTE_NS: Final = 60 * NS


class RequestLimit:
    """Weights charged within the last minute, against a limit."""

    def __init__(self) -> None:
        self._charged: deque[tuple[int, float]] = deque()

    def charge(self, now_ns: int, weight: float, most: float) -> int:
        """Charge a weight and return 0, or return after how many seconds (at least 1) it would fit."""
        while self._charged and self._charged[0][0] <= now_ns - _MINUTE_NS:
            self._charged.popleft()
        total = sum(weight for _, weight in self._charged)
        if total + weight <= most:
            self._charged.append((now_ns, weight))
            return 0
        for charged_ns, part in self._charged:
            total -= part
            if total + weight <= most:
                return max(1, math.ceil((charged_ns + _MINUTE_NS - now_ns) / NS))
        return 60

    def add(self, now_ns: int, weight: float) -> None:
        """Charge a weight that is known only afterwards."""
        self._charged.append((now_ns, weight))
