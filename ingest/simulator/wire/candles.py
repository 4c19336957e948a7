"""Candles of the simulated venue: the trades of a coin in every interval."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ingest.simulator.wire.encoder import SimulatedPrint, decimal_text

MINUTE_MS: Final = 60_000
KEPT: Final = 5_000
"""The venue serves the newest 5000 candles of an interval (docs, candle snapshot, read 2026-08-22)."""

_DAY: Final = 1_440
INTERVAL_MINUTES: Final = {
    "1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "8h": 480, "12h": 720,
    "1d": _DAY, "3d": 3 * _DAY, "1w": 7 * _DAY, "1M": 0,
}  # fmt: skip
"""Length of each interval in minutes; a month has no fixed one."""

_MONDAY_MS: Final = 4 * _DAY * MINUTE_MS  # 1970-01-05, the first Monday


@dataclass(slots=True)
class SimulatedCandle:
    """One interval of one coin; `end_ms` is the last millisecond in it."""

    open_ms: int
    end_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    trades: int = 0

    def fold(self, other: SimulatedCandle) -> None:
        """Merge the next candle; one without trades changes nothing."""
        if not other.trades:
            return
        if not self.trades:
            self.open, self.high, self.low = other.open, other.high, other.low
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        self.close = other.close
        self.volume += other.volume
        self.trades += other.trades


class CandleBook:
    """The candles of one coin.

    A minute without trades becomes a flat candle of volume 0 once a later minute has begun; before the first
    trade there are none.
    """

    def __init__(self, coin: str, price_decimals: int, size_decimals: int) -> None:
        self._coin = coin
        self._price_decimals = price_decimals
        self._size_decimals = size_decimals
        self._minute: SimulatedCandle | None = None
        self._open: dict[str, SimulatedCandle] = {}
        self._closed: dict[str, deque[SimulatedCandle]] = {
            name: deque(maxlen=KEPT) for name in INTERVAL_MINUTES
        }

    def add(self, prints: Iterable[SimulatedPrint]) -> None:
        """Add trades, oldest first; one older than the open minute counts towards that minute."""
        for item in prints:
            minute = self._minute
            if minute is None or item.time_ms > minute.end_ms:
                self.advance(item.time_ms)
                minute = self._minute
            price = item.price
            if minute is None:
                open_ms = item.time_ms - item.time_ms % MINUTE_MS
                minute = self._minute = SimulatedCandle(
                    open_ms, open_ms + MINUTE_MS - 1, price, price, price, price
                )
            elif not minute.trades:
                minute.open = minute.high = minute.low = price
            minute.high = max(minute.high, price)
            minute.low = min(minute.low, price)
            minute.close = price
            minute.volume += item.size
            minute.trades += 1

    def advance(self, now_ms: int) -> None:
        """Close the minutes that have passed."""
        while self._minute is not None and now_ms > self._minute.end_ms:
            done = self._minute
            self._close(done)
            flat, open_ms = done.close, done.end_ms + 1
            self._minute = SimulatedCandle(open_ms, open_ms + MINUTE_MS - 1, flat, flat, flat, flat)

    def current(self, interval: str) -> SimulatedCandle | None:
        """Return the open candle, or None before the first trade."""
        minute = self._minute
        if minute is None:
            return None
        whole = _begin(minute, interval)
        partial = self._open.get(interval)
        if partial is not None:
            whole = SimulatedCandle(
                partial.open_ms, partial.end_ms, partial.open, partial.high, partial.low, partial.close,
                partial.volume, partial.trades,
            )  # fmt: skip
            whole.fold(minute)
        return whole

    def between(self, interval: str, start_ms: int, end_ms: int) -> list[str]:
        """Return candles that open in `start_ms .. end_ms`, oldest first, as wire text."""
        rows = [*self._closed[interval]]
        current = self.current(interval)
        if current is not None:
            rows.append(current)
        chosen = [row for row in rows if start_ms <= row.open_ms <= end_ms][-KEPT:]
        return [self.text(interval, row) for row in chosen]

    def text(self, interval: str, candle: SimulatedCandle) -> str:
        """Return a candle in the venue's format."""
        px = self._price_decimals
        return (
            f'{{"t":{candle.open_ms},"T":{candle.end_ms},"s":"{self._coin}","i":"{interval}",'
            f'"o":"{decimal_text(candle.open, px)}","c":"{decimal_text(candle.close, px)}",'
            f'"h":"{decimal_text(candle.high, px)}","l":"{decimal_text(candle.low, px)}",'
            f'"v":"{decimal_text(candle.volume, self._size_decimals)}","n":{candle.trades}}}'
        )

    def _close(self, minute: SimulatedCandle) -> None:
        for interval in INTERVAL_MINUTES:
            partial = self._open.get(interval)
            if partial is None:
                partial = self._open[interval] = _begin(minute, interval)
            else:
                partial.fold(minute)
            if minute.end_ms == partial.end_ms:
                self._closed[interval].append(self._open.pop(interval))


def _begin(minute: SimulatedCandle, interval: str) -> SimulatedCandle:
    """Return a candle of an interval with one minute in it."""
    open_ms, end_ms = bounds_ms(minute.open_ms, interval)
    return SimulatedCandle(
        open_ms, end_ms, minute.open, minute.high, minute.low, minute.close, minute.volume, minute.trades
    )


def bounds_ms(time_ms: int, interval: str) -> tuple[int, int]:
    """Return the first and the last millisecond of the interval that holds an instant.

    Weeks begin on Monday and months on the first, UTC; the rest is aligned to the epoch.
    """
    if interval == "1M":
        moment = datetime.fromtimestamp(time_ms / 1_000, UTC)
        first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        after = (first + timedelta(days=32)).replace(day=1)
        return round(first.timestamp() * 1_000), round(after.timestamp() * 1_000) - 1
    width_ms = INTERVAL_MINUTES[interval] * MINUTE_MS
    anchor_ms = _MONDAY_MS if interval == "1w" else 0
    open_ms = time_ms - (time_ms - anchor_ms) % width_ms
    return open_ms, open_ms + width_ms - 1
