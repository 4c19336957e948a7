"""Has this print been seen before?

The venue's key is (instrument, time, tid): `tid` alone recurs, and the hash is shared by many prints of one
transaction. After every subscription the venue resends its most recent prints, so the first batch is neither new
nor to be thrown away: it is told apart print by print.
"""

from __future__ import annotations

from typing import Final, Literal

# The venue resends 30 prints; a socket that lags behind its twin resends what the twin sent since. The tables'
# own key catches what is older than this memory.
MEMORY_PRINTS: Final = 16_384

Verdict = Literal["new", "seen", "conflict"]
Content = tuple[float, float, str]


class SeenPrints:
    """Remembers the last prints of each instrument."""

    def __init__(self, memory_prints: int = MEMORY_PRINTS) -> None:
        self._memory_prints = memory_prints
        self._by_instrument: dict[str, dict[tuple[int, int], Content]] = {}

    def judge(self, instrument: str, ts_ms: int, tid: int, content: Content) -> Verdict:
        """Say whether a print is new, seen, or contradicts one seen under the same key; remember a new one.

        Args:
            instrument: whose print it is.
            ts_ms: the venue's time in milliseconds.
            tid: the venue's trade id.
            content: price, size and aggressor as sent.
        """
        seen = self._by_instrument.setdefault(instrument, {})
        held = seen.get((ts_ms, tid))
        if held is not None:
            return "seen" if held == content else "conflict"
        seen[(ts_ms, tid)] = content
        if len(seen) > self._memory_prints:
            del seen[next(iter(seen))]
        return "new"
