"""Certification of complete bars by the venue's own candles: requests, comparison and outcome.

A bar that claims to be complete waits until its candle agrees, which makes it `certified`; until it was compared when
it was an hour old; or until no answer came for two hours. One request covers all waiting bars of a coin, when the
oldest of them closed an hour ago: 60 candles, thus one request of weight 20 + 1 per coin and hour. A bar that differs
within that hour stays and is compared again, since a candle may still change.

Requests are paced: they use at most half of the rate limit weight that a recorder may spend, so that with many coins
they come later and never at the cost of other requests. When a request is sent does not affect the tables; what an
answer changes is a function of the journal alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ingest.bars.bar_status import is_certifiable
from ingest.bars.builder import BLIND_NS, BarClock
from ingest.bars.reconciliation import (
    LATER,
    SOON,
    CandleFigures,
    Tolerance,
    contradicted,
    differences,
    rows_of,
)
from ingest.pipeline.state import RecordingState
from ingest.sharding import parse_shard
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.protocol import coin_of
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import MS_NS, NS, US_NS, width_ns
from storage.logs import get_logger

logger = get_logger(__name__)

SETTLED_NS: Final = 120 * NS
"""A candle is neither requested nor trusted sooner after its close."""
DUE_NS: Final = 3_600 * NS
"""A coin's candles are requested when its oldest waiting bar closed this long ago."""
_AGAIN_NS: Final = 600 * NS
_SHARE: Final = 0.5
# The venue has pages of 500: an answer of that length may be truncated, and is neither requested nor trusted.
_PAGE: Final = 500
_PRUNE_NS: Final = 60 * NS

Stream = tuple[str, str]
"""(coin, width)"""


class Certifier:
    """Bars that wait for their candle, the requests for them, and the comparison."""

    def __init__(self, state: RecordingState) -> None:
        record = state.settings.record
        self._state = state
        self._tolerance = Tolerance.of(state.settings)
        self._waiting: dict[Stream, dict[int, str]] = {}
        """By coin and width: the instrument of each bar that waits, by its open in ns."""
        self._asked_ns: dict[Stream, int] = {}
        self._has_warned = False
        self._next_ask_ns = 0
        self._next_prune_ns = 0
        weight_per_minute = record.rest_weight_per_minute / parse_shard(record.shard)[1] * _SHARE
        self._pace_ns = int(60 * NS * weight_of({"type": "candleSnapshot"}, 2 * 60) / weight_per_minute)
        self._widths = {clock.width: clock for clock in state.clocks if clock.keeps_settled}

    @property
    def waiting(self) -> int:
        """Number of bars that wait."""
        return sum(map(len, self._waiting.values()))

    def note(self, bar: Mapping[str, Any]) -> None:
        """Add a published bar if it waits for its candle, or remove it."""
        if bar["width"] not in self._widths:
            return
        stream = (coin_of(bar["instrument"]), bar["width"])
        open_ns = bar["ts_open"] * US_NS
        if is_certifiable(bar):
            self._waiting.setdefault(stream, {})[open_ns] = bar["instrument"]
        else:
            self._waiting.get(stream, {}).pop(open_ns, None)

    def due_requests(self, now_ns: int) -> list[dict[str, Any]]:
        """Return the request to send now, at most one; the coin whose oldest bar waits longest comes first."""
        if now_ns < self._next_ask_ns:
            return []
        oldest = {
            stream: min(bars) + width_ns(stream[1])
            for stream, bars in self._waiting.items()
            if bars and now_ns - self._asked_ns.get(stream, -_AGAIN_NS) >= _AGAIN_NS
        }
        stream = min(oldest, key=lambda key: oldest[key], default=None)
        if stream is None or now_ns < oldest[stream] + DUE_NS:
            return []
        self._next_ask_ns, self._asked_ns[stream] = now_ns + self._pace_ns, now_ns
        step_ns = width_ns(stream[1])
        from_ns = oldest[stream] - step_ns
        # No candle that may still change, and no answer that the venue would truncate.
        to_ns = min(now_ns - SETTLED_NS, from_ns + (_PAGE - 1) * step_ns) // step_ns * step_ns
        req = {
            "coin": stream[0],
            "interval": stream[1],
            "startTime": from_ns // MS_NS,
            "endTime": to_ns // MS_NS - 1,
        }
        return [{"type": "candleSnapshot", "req": req}]

    def apply_answer(self, candles: Sequence[wire.CandleData], asked: Mapping[str, Any], now_ns: int) -> None:
        """Compare the bars that wait with the venue's candles of the requested interval."""
        stream = (str(asked["coin"]), str(asked["interval"]))
        clock = self._widths.get(stream[1])
        waiting = self._waiting.get(stream)
        if clock is None or not waiting or len(candles) >= _PAGE:
            return
        from_ns, to_ns = int(asked["startTime"]) * MS_NS, int(asked["endTime"]) * MS_NS
        newest_ns = now_ns - SETTLED_NS - clock.width_ns
        opens = [at for at in sorted(waiting) if from_ns <= at < to_ns and at <= newest_ns]
        bars = [clock.row_of(waiting[at], at) for at in opens]
        found = [(at, bar) for at, bar in zip(opens, bars, strict=True) if bar is not None]
        by_open = {item.t * MS_NS: item for item in candles if (item.s, item.i) == stream}
        self._compare(clock, waiting, found, by_open, now_ns)

    def tick(self, now_ns: int) -> None:
        """Drop bars for which no answer has come."""
        if now_ns < self._next_prune_ns:
            return
        self._next_prune_ns = now_ns + _PRUNE_NS
        for (_, width), bars in self._waiting.items():
            until_ns = now_ns - BLIND_NS - width_ns(width)
            for open_ns in [open_ns for open_ns in bars if open_ns < until_ns]:
                del bars[open_ns]

    def _compare(
        self,
        clock: BarClock,
        waiting: dict[int, str],
        bars: Sequence[tuple[int, dict[str, Any]]],
        by_open: Mapping[int, wire.CandleData],
        now_ns: int,
    ) -> None:
        ours = CandleFigures.of_rows([bar for _, bar in bars])
        theirs = CandleFigures.of_rows([figures_of(by_open.get(open_ns)) for open_ns, _ in bars])
        differs, absent = differences(ours, theirs, self._tolerance), theirs.is_absent
        is_contradicted = contradicted(ours, theirs)
        for at, (open_ns, bar) in enumerate(bars):
            is_late = now_ns >= open_ns + clock.width_ns + DUE_NS
            instrument, close_ns = bar["instrument"], open_ns + clock.width_ns
            if is_contradicted[at]:
                self._state.silence.contradict(instrument, open_ns, close_ns, now_ns)
            if not absent[at] and not differs[:, at].any():
                del waiting[open_ns]
                self._state.silence.prove(instrument, open_ns, close_ns)
                self._certify(clock, bar, open_ns, now_ns)
                continue
            if is_late:
                del waiting[open_ns]
            # A minute without a print has a candle only once something printed after it (VENUES.md F15).
            if absent[at] and not (is_late and bar["trades"]):
                continue
            self._record_difference(
                bar, CandleFigures(theirs.values[:, [at]]), differs[:, [at]], is_late, now_ns
            )

    def _certify(self, clock: BarClock, bar: Mapping[str, Any], open_ns: int, now_ns: int) -> None:
        self._state.rows.add("bars", clock.certify(bar["instrument"], open_ns, now_ns))
        self._state.counts.bars += 1

    def _record_difference(
        self, bar: dict[str, Any], theirs: CandleFigures, differs: Any, is_late: bool, now_ns: int
    ) -> None:
        checked = LATER if is_late else SOON
        rows = rows_of([bar], theirs, differs, checked=checked, now_ns=now_ns)
        self._state.rows.extend("discrepancies", rows)
        if is_late:
            if not self._has_warned:  # once: if the venue counts differently, every bar differs
                self._has_warned = True
                logger.warning(
                    "bar differs from its candle",
                    instrument=bar["instrument"],
                    bar_open_ns=bar["ts_open"] * US_NS,
                    differs=[row["differs"] for row in rows],
                )
            self._state.rows.add("repairs", queued(bar, theirs.of("trades")[0], now_ns))


def queued(bar: Mapping[str, Any], venue_trades: float, now_ns: int) -> dict[str, Any]:
    """Return the row of `repairs` that queues a bar for the archive, because its candle differs."""
    return {
        "instrument": bar["instrument"],
        "width": bar["width"],
        "ts_open": bar["ts_open"],
        "outcome": "queued",
        "trades": bar["trades"],
        "venue_trades": None if venue_trades != venue_trades else int(venue_trades),
        "ts_knowable_ns": now_ns,
    }


def figures_of(candle: wire.CandleData | None) -> dict[str, float] | None:
    """Return the figures of a candle by name; None for one that is absent."""
    if candle is None:
        return None
    return {
        "open": candle.o,
        "high": candle.h,
        "low": candle.l,
        "close": candle.c,
        "volume": candle.v,
        "trades": float(candle.n),
    }
