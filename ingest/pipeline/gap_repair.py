"""Repair of gaps: resent prints, recent trades, the venue's candles, and the queue for the archive.

After a reconnect the resent prints are tried first (`hyperliquid_handler`). Where they do not reach back, the newest
trades are requested once. A bar that stays blind is compared with the venue's own candle two minutes and an hour
after its close: where both count the same number of trades, nothing is missing from it. What is still open then is
queued for the archive. The recorder sends the requests; the answers are in the journal, so a replay repairs the same.

Bars that were watched throughout are compared with their candles too, an hour of a coin at a time: see
`certification`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ingest.bars.bar_status import is_incomplete
from ingest.bars.builder import BarClock
from ingest.bars.reconciliation import INTERVALS, CandleFigures, Tolerance, differences
from ingest.journal.records import Record
from ingest.pipeline import rows
from ingest.pipeline.certification import Certifier, figures_of
from ingest.pipeline.hyperliquid_handler import HyperliquidHandler
from ingest.pipeline.state import RecordingState
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.protocol import coin_of
from storage.clock import MS_NS, NS, US_NS, width_ns
from storage.errors import VenueError

TRIES_NS: Final = (120 * NS, 3_600 * NS)
_LATE_NS: Final = 300 * NS
# A stream of unknown rhythm makes an unknown bar a minute: its candles are requested together.
_UNKNOWN_PACE_NS: Final = 600 * NS
# The venue answers with 5000 candles at most, and with 500 on other pages; an answer must never be truncated.
_PAGE: Final = 500

Bar = tuple[str, str, int]
"""(coin, width, open in ns)"""


@dataclass(slots=True)
class _Due:
    """A bar that is not complete: its instrument, close, and number of comparisons."""

    instrument: str
    close_ns: int
    is_unknown: bool
    tries: int = 0
    asked_ns: int = 0


@dataclass(slots=True)
class _Ask:
    """Bars of one coin and width to be compared now."""

    width: str
    opens: list[int] = field(default_factory=list)
    last_close_ns: int = 0


class GapRepair:
    """Blind bars that may still be repaired, the requests for them, and their answers."""

    def __init__(self, state: RecordingState, frames: HyperliquidHandler) -> None:
        self._state = state
        self._frames = frames
        self._blind: dict[Bar, _Due] = {}
        self._requested_ns: dict[str, int] = {}
        self._unknown_asked_ns: dict[tuple[str, str], int] = {}
        """By coin and width: when candles of bars with an unknown silence were last requested."""
        self._certifier = Certifier(state)

    @property
    def open_bars(self) -> int:
        """Bars that are not complete and may be compared again."""
        return len(self._blind)

    def note_bars(self, bars: Iterable[Mapping[str, Any]]) -> None:
        """Add published bars that are not complete; remove those that are by now."""
        for bar in bars:
            self._certifier.note(bar)
            if bar["width"] not in INTERVALS or not bar["trades_applicable"]:
                continue
            coin = coin_of(bar["instrument"])
            key = (coin, bar["width"], bar["ts_open"] * US_NS)
            if not is_incomplete(bar):
                self._blind.pop(key, None)
            else:
                is_unknown = bar["status"] == "unknown"
                due = _Due(bar["instrument"], bar["ts_close"] * US_NS, is_unknown)
                self._blind.setdefault(key, due).is_unknown = is_unknown

    def due_requests(self, now_ns: int) -> list[dict[str, Any]]:
        """Return the requests to send now; each is returned once."""
        asks: list[dict[str, Any]] = [{"type": "recentTrades", "coin": coin} for coin in self._state.unproven]
        self._state.unproven.clear()
        asks += self._listings(now_ns)
        due: dict[tuple[str, str, int], _Ask] = {}
        paced = {key for key, at_ns in self._unknown_asked_ns.items() if now_ns - at_ns < _UNKNOWN_PACE_NS}
        for (coin, width, open_ns), bar in self._blind.items():
            if bar.is_unknown and (coin, width) in paced:
                continue
            is_due = bar.tries < len(TRIES_NS) and now_ns >= bar.close_ns + TRIES_NS[bar.tries]
            if is_due and now_ns - bar.asked_ns > TRIES_NS[0]:
                bar.asked_ns = now_ns
                if bar.is_unknown:
                    self._unknown_asked_ns[coin, width] = now_ns
                page_ns = _PAGE * width_ns(width)
                ask = due.setdefault((coin, width, open_ns // page_ns), _Ask(width))
                ask.opens.append(open_ns)
                ask.last_close_ns = max(ask.last_close_ns, bar.close_ns)
        for (coin, width, _), ask in due.items():
            req = {
                "coin": coin,
                "interval": width,
                "startTime": min(ask.opens) // MS_NS,
                "endTime": ask.last_close_ns // MS_NS - 1,
            }
            asks.append({"type": "candleSnapshot", "req": req})
        return asks + self._certifier.due_requests(now_ns)

    def _listings(self, now_ns: int) -> list[dict[str, Any]]:
        """Return the registry's requests, each at once but not again too soon: an answer may not help."""
        requests = {str(request): request for request in self._state.registry.pending_requests}
        due = [key for key in requests if now_ns - self._requested_ns.get(key, -TRIES_NS[0]) >= TRIES_NS[0]]
        self._requested_ns |= dict.fromkeys(due, now_ns)
        return [requests[key] for key in due]

    def apply_answer(self, record: Record, request: Mapping[str, Any], response: object) -> None:
        """Apply an answer to one of the requests.

        Raises:
            VenueError: it does not fit.
        """
        if request.get("type") == "recentTrades":
            self._recent(record, str(request["coin"]), _fit(response, list[wire.WirePrint]))
        elif request.get("type") == "candleSnapshot":
            req = request["req"]
            candles = _fit(response, list[wire.CandleData])
            self._compare(str(req["coin"]), str(req["interval"]), candles, req, record.recv_ns)
            self._certifier.apply_answer(candles, req, record.recv_ns)

    def tick(self, now_ns: int) -> None:
        """Queue for the archive what no answer has settled in time."""
        self._certifier.tick(now_ns)
        for key, bar in list(self._blind.items()):
            late_ns = _LATE_NS + (_UNKNOWN_PACE_NS if bar.is_unknown else 0)
            if now_ns > bar.close_ns + TRIES_NS[-1] + late_ns:
                self._close(key, bar, None, "queued", now_ns)

    def _recent(self, record: Record, coin: str, prints: list[wire.WirePrint]) -> None:
        """Add the newest trades, which come newest first, in order of time."""
        state = self._state
        instrument = state.instrument(coin)
        begins_ns = state.registry.begins_ns(instrument)
        usable, is_whole = [], True
        for item in sorted(prints, key=lambda item: item.time):
            if why := _foreign(item.coin, coin) or rows.unusable(item, record.recv_ns, begins_ns):
                state.refuse_frame("trades", why, record, f":{item.tid}")
                is_whole &= not _foreign(item.coin, coin) and not rows.unusable(item, record.recv_ns)
            else:
                usable.append(item)
        if usable and all(clock.has(instrument) for clock in state.clocks):
            # What was refused before is in the answer, and closed by it; what conflicts with the answer is not.
            state.ledger.refused.apply(record.recv_ns)
            new = self._frames.prints(record, instrument, usable, "recent")
            # Another server answers, and it may lag: the time between its newest print and the resent is not proven.
            # An answer with a print that cannot be used proves nothing, and is no reason to doubt a watched bar.
            if is_whole and usable[-1].time * MS_NS >= state.resent_ns.get(instrument, record.recv_ns):
                state.ledger.bridge(instrument, usable[0].time * MS_NS, record.recv_ns)
                times_ns = [item.time * MS_NS for item in new]
                state.silence.add_answered(instrument, times_ns, record.recv_ns)

    def _compare(
        self,
        coin: str,
        width: str,
        candles: list[wire.CandleData],
        asked: Mapping[str, Any],
        now_ns: int,
    ) -> None:
        """Compare the venue's candles with our bars of the requested interval."""
        by_open = {candle.t * MS_NS: candle for candle in candles if (candle.s, candle.i) == (coin, width)}
        clock = next((clock for clock in self._state.clocks if clock.width == width), None)
        for key, bar in list(self._blind.items()):
            open_ns = key[2]
            is_asked = int(asked["startTime"]) * MS_NS <= open_ns < int(asked["endTime"]) * MS_NS
            if key[:2] != (coin, width) or not is_asked or clock is None:
                continue
            candle = by_open.get(open_ns)
            ours = clock.trades_of(bar.instrument, open_ns)
            bar.tries += 1
            if candle is not None and ours == 0 and candle.n > 0:
                self._state.silence.contradict(bar.instrument, open_ns, bar.close_ns, now_ns)
            if candle is not None and ours == candle.n and self._agrees(clock, bar, open_ns, candle):
                self._state.ledger.confirm(bar.instrument, open_ns, bar.close_ns, now_ns)
                self._state.silence.prove(bar.instrument, open_ns, bar.close_ns)
                self._close(key, bar, candle.n, "confirmed", now_ns, ours)
            elif bar.tries >= len(TRIES_NS):
                self._close(key, bar, candle.n if candle else None, "queued", now_ns, ours)
            else:
                self._note(key, bar, candle.n if candle else None, "short", now_ns, ours)

    def _agrees(self, clock: BarClock, bar: _Due, open_ns: int, candle: wire.CandleData) -> bool:
        """Return whether a candle with our number of prints settles a bar.

        A refused print may be the other version of one that we have: then every figure must agree.
        """
        if not self._state.ledger.refused.has(bar.instrument, open_ns, bar.close_ns):
            return True
        ours = CandleFigures.of_rows([clock.row_of(bar.instrument, open_ns)])
        theirs = CandleFigures.of_rows([figures_of(candle)])
        return not differences(ours, theirs, Tolerance.of(self._state.settings)).any()

    def _close(
        self, key: Bar, bar: _Due, theirs: int | None, outcome: str, now_ns: int, ours: int | None = None
    ) -> None:
        del self._blind[key]
        self._note(key, bar, theirs, outcome, now_ns, ours)

    def _note(
        self, key: Bar, bar: _Due, theirs: int | None, outcome: str, now_ns: int, ours: int | None
    ) -> None:
        self._state.rows.add(
            "repairs",
            {
                "instrument": bar.instrument,
                "width": key[1],
                "ts_open": key[2] // US_NS,
                "outcome": outcome,
                "trades": ours,
                "venue_trades": theirs,
                "ts_knowable_ns": now_ns,
            },
        )


def _foreign(named: str, asked: str) -> str:
    return "" if named == asked else f"a print of {named!r} came in an answer about {asked!r}"


def _fit(response: object, kind: Any) -> Any:
    try:
        return msgspec.convert(response, kind, strict=False)
    except msgspec.ValidationError as error:
        raise VenueError(f"the venue's answer does not fit: {error}") from error
