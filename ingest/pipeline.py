"""How do a journal's records become rows: decode, dedupe, coverage, bars.

Pure: records go in with their receipt times, rows come out. The recorder and replay both drive this, so what a
recording wrote and what replaying its journal writes are the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa

from ingest import decode as wire
from ingest import rows
from ingest.bars import SIDE_CODES, BarClock, Quote
from ingest.coverage import TRADES, Ledger
from ingest.dedupe import CONFLICT, SEEN, SeenPrints
from ingest.journal import Damage
from ingest.records import Kind, Record
from ingest.venues.hyperliquid import instrument_id, instrument_rows, parse_meta
from storage.clock import MS_NS, NS
from storage.code import code_version
from storage.contracts import CONTRACTS
from storage.errors import TickwalkError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)


@dataclass(slots=True)
class Counts:
    """What went through, for people and tests."""

    frames: int = 0
    prints: int = 0
    trades: int = 0
    seen: int = 0
    conflicts: int = 0
    late: int = 0
    quarantined: int = 0
    bars: int = 0
    reconnects: int = 0


class Pipeline:
    """Turns the records of one recording into rows of the tables."""

    def __init__(self, recording: str, settings: Settings, *, is_capture: bool) -> None:
        """Start with nothing seen.

        Args:
            recording: its name, in every row.
            settings: bar widths, grace, lateness and silence limits.
            is_capture: the records carry no control frames; holes and reconnects are inferred.
        """
        self.recording = recording
        # Other settings or other code may say something else of the same frames.
        self.fingerprint = sha256(f"{settings.bars}{settings.record}{code_version()}".encode()).hexdigest()[
            :12
        ]
        self.counts = Counts()
        self.channels: Counter[str] = Counter()
        self.watermark_ns = 0
        self.ledger = Ledger(
            recording,
            silence_ns=int(settings.record.coin_silence_s * NS),
            lag_ns=settings.bars.history_lag_ms * MS_NS,
            is_inferred=is_capture,
        )
        self.seen = SeenPrints()
        self.clocks = [
            BarClock(width, grace_ns=settings.bars.grace_ns, ledger=self.ledger)
            for width in settings.bars.widths
        ]
        self._venue = settings.record.venue
        self._lateness_ns = int(settings.bars.lateness_s * NS)
        self._hole_ns = int(settings.bars.capture_silence_s * NS)
        self._is_capture = is_capture
        self._now_ns = 0
        self._next_tick_ns = 0
        self._connection = -1
        self._awaits_first: set[tuple[int, str]] = set()
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTRACTS}
        self._last_quote: dict[str, Quote] = {}
        self._order = 0

    @property
    def next_tick_ns(self) -> int:
        """The next instant at which bars are published."""
        return self._next_tick_ns

    def process(self, record: Record) -> None:
        """Take the next record; receipt times never fall."""
        if self._is_capture and record.kind is Kind.FRAME:
            self._infer_connection(record.recv_ns)
        self._advance(record.recv_ns)
        match record.kind:
            case Kind.FRAME:
                self.counts.frames += 1
                self._now_ns = record.recv_ns
                self._frame(record)
            case Kind.OPENED:
                self.ledger.open(record.connection, record.recv_ns)
            case Kind.CLOSED:
                self.ledger.close(record.connection, record.recv_ns, record.body.decode())
                self.counts.reconnects += 1
            case Kind.STARTED:
                self._started(record)
            case Kind.STOPPED:
                self.stop(record.recv_ns, record.body.decode() or "stopped")
            case Kind.ANSWER:
                self._answer(record)
            case Kind.CLOCK:
                pass
        self._now_ns = max(self._now_ns, record.recv_ns)
        self.watermark_ns = max(self.watermark_ns, self._now_ns - self._lateness_ns)

    def stop(self, now_ns: int, cause: str) -> None:
        """End the recording: every open span ends where it was proven."""
        for connection in sorted(self.ledger.open_connections()):
            self.ledger.close(connection, now_ns, cause)
        dirty = self.ledger.take_dirty()
        for clock in self.clocks:
            clock.mark_dirty(dirty)
            self._publish(clock.settle(now_ns))

    def damage(self, damage: Damage) -> None:
        """Take note of bytes of the journal that cannot be read."""
        reason = f"{damage.reason}: {damage.size_bytes} bytes from offset {damage.offset} are not read"
        logger.warning("journal damaged", segment=damage.segment, offset=damage.offset, reason=damage.reason)
        self._refuse("frames", reason, b"", f"{damage.segment}@{damage.offset}")

    def refuse_line(self, reason: str, raw: bytes, source: str) -> None:
        """Quarantine a line of a capture that is no frame."""
        self._refuse("frames", reason, raw, source)

    def drain(self) -> dict[str, pa.Table]:
        """Return, once, the rows made since the last call, by table."""
        self._rows["coverage"] += self.ledger.take_rows()
        tables = {name: CONTRACTS[name].rows(held) for name, held in self._rows.items() if held}
        for held in self._rows.values():
            held.clear()
        return tables

    # Time.

    def _advance(self, now_ns: int) -> None:
        """Publish at every instant that lies before `now_ns`."""
        if self._next_tick_ns == 0:
            self._next_tick_ns = min(clock.next_tick_ns(now_ns) for clock in self.clocks)
        while self._next_tick_ns < now_ns:
            tick_ns = self._next_tick_ns
            self.ledger.tick(tick_ns)
            dirty = self.ledger.take_dirty()
            for clock in self.clocks:
                clock.mark_dirty(dirty)
                if clock.next_tick_ns(tick_ns - 1) == tick_ns:
                    self._publish(clock.tick(tick_ns))
            self._next_tick_ns = min(clock.next_tick_ns(tick_ns) for clock in self.clocks)

    def _publish(self, bars: list[dict[str, Any]]) -> None:
        self._rows["bars"] += bars
        self.counts.bars += len(bars)

    def _infer_connection(self, recv_ns: int) -> None:
        """In a capture, silence of every channel beyond the limit is a lost and reopened connection."""
        lost_ns = self._now_ns + self._hole_ns
        if self._connection >= 0 and recv_ns > lost_ns:
            # A listener knows of the loss when the limit has passed, and not before.
            self._advance(lost_ns)
            self.ledger.close(self._connection, lost_ns, f"capture silent beyond {self._hole_ns / NS:g} s")
            self.counts.reconnects += 1
            self._advance(recv_ns)
        elif self._connection >= 0:
            return
        self._connection += 1
        self.ledger.open(self._connection, recv_ns)

    # Control records.

    def _started(self, record: Record) -> None:
        about = json.loads(record.body or b"{}")
        for coin in about.get("coins", []):
            self._add_instrument(instrument_id(coin, self._venue), record.recv_ns)

    def _answer(self, record: Record) -> None:
        exchange = json.loads(record.body)
        if exchange.get("request", {}).get("type") == "meta":
            meta = parse_meta(json.dumps(exchange["response"]).encode())
            self._rows["instruments"] += instrument_rows(meta, record.recv_ns)

    def _add_instrument(self, instrument: str, now_ns: int) -> None:
        for clock in self.clocks:
            clock.add_instrument(instrument, now_ns)

    # Frames.

    def _frame(self, record: Record) -> None:
        connection = self._connection if self._is_capture else record.connection
        try:
            message = wire.decode(record.body)
        except TickwalkError as error:
            self.channels["undecodable"] += 1
            self._refuse("frames", error.message, record.body, f"{self.recording}:{record.frame}")
            return
        self.channels[type(message).__struct_config__.tag] += 1  # type: ignore[index]
        match message:
            case wire.Trades():
                self._trades(record, connection, message.data)
            case wire.Bbo():
                self._bbo(record, connection, message.data)
            case wire.L2Book() if message.data is not None:
                self._hear(record, connection, "l2Book", message.data.coin, message.data.time)
            case wire.ActiveAssetCtx():
                self._context(record, connection, message.data)
            case wire.ActiveSpotAssetCtx():
                self._hear(record, connection, "activeSpotAssetCtx", message.data.coin, None)
            case wire.Ack():
                self._ack(connection, message.data, record.recv_ns)
            case wire.Pong():
                if connection in self.ledger.open_connections():
                    self.ledger.pong(connection, record.recv_ns)
            case wire.Refusal():
                self._refusal(record, connection, message.data)
            case _:
                pass  # counted above

    def _hear(
        self, record: Record, connection: int, channel: str, coin: str, time_ms: int | None
    ) -> str | None:
        """Note that an instrument was heard of; return its id, or None where the message cannot be of use."""
        instrument = instrument_id(coin, self._venue)
        if self._is_capture:
            self._subscribed(connection, channel, instrument, record.recv_ns)
        if why := self._unheard(connection, instrument, time_ms, record.recv_ns):
            self._refuse("frames", why, record.body, f"{self.recording}:{record.frame}")
            return None
        event_ns = None if time_ms is None else time_ms * MS_NS
        self.ledger.hear(connection, instrument, event_ns, record.recv_ns)
        return instrument

    def _unheard(self, connection: int, instrument: str, time_ms: int | None, now_ns: int) -> str:
        if connection not in self.ledger.open_connections():
            return f"connection {connection} is not open"
        if not all(clock.has(instrument) for clock in self.clocks):
            return f"{instrument} was not asked for"
        if time_ms is not None and not rows.is_time(time_ms, now_ns):
            return f"time {time_ms} is no time in milliseconds at its receipt"
        return ""

    def _refusal(self, record: Record, connection: int, text: str) -> None:
        """Take `Already subscribed` for the acknowledgement that it is; quarantine any other refusal."""
        held = wire.already_subscribed(text)
        if held is None:
            self._refuse("frames", "the venue refused", record.body, f"{self.recording}:{record.frame}")
        elif held.coin:
            self._subscribed(connection, held.type, instrument_id(held.coin, self._venue), record.recv_ns)

    def _subscribed(self, connection: int, channel: str, instrument: str, now_ns: int) -> None:
        """Begin to watch; after this the venue resends the most recent prints."""
        if connection in self.ledger.open_connections() and self.ledger.subscribe(
            connection, channel, instrument, now_ns
        ):
            self._add_instrument(instrument, now_ns)
            if channel == TRADES:
                self._awaits_first.add((connection, instrument))

    def _ack(self, connection: int, ack: wire.AckData, now_ns: int) -> None:
        if not ack.subscription.coin:
            return
        instrument = instrument_id(ack.subscription.coin, self._venue)
        channel = ack.subscription.type
        if ack.method == "unsubscribe" and connection in self.ledger.open_connections():
            self.ledger.unsubscribe(connection, channel, instrument, now_ns)
        elif ack.method == "subscribe":
            self._subscribed(connection, channel, instrument, now_ns)

    def _trades(self, record: Record, connection: int, prints: list[wire.Print]) -> None:
        by_coin: dict[str, list[wire.Print]] = {}
        for item in prints:
            by_coin.setdefault(item.coin, []).append(item)
        for coin, items in by_coin.items():
            faults = [rows.unusable(item, record.recv_ns) for item in items]
            usable = [item for item, fault in zip(items, faults, strict=True) if not fault]
            newest_ms = max((item.time for item in usable), default=None)
            instrument = self._hear(record, connection, TRADES, coin, newest_ms)
            if instrument is None:
                continue
            is_first = (connection, instrument) in self._awaits_first
            self._awaits_first.discard((connection, instrument))
            for item, fault in zip(items, faults, strict=True):
                self.counts.prints += 1
                if fault:
                    self._refuse("trades", fault, record.body, f"{self.recording}:{record.frame}:{item.tid}")
                else:
                    self._print(record, instrument, item, is_first=is_first)
            if is_first and usable:
                oldest_ns = min(item.time for item in usable) * MS_NS
                self.ledger.bridge(instrument, oldest_ns, record.recv_ns)

    def _print(self, record: Record, instrument: str, item: wire.Print, *, is_first: bool) -> None:
        side = rows.SIDES.get(item.side, "unknown")
        content = (item.px, item.sz, SIDE_CODES[side])
        verdict = self.seen.judge(instrument, item.time, item.tid, content, record.recv_ns)
        if verdict == SEEN:
            self.counts.seen += 1
            return
        if verdict == CONFLICT:
            self.counts.conflicts += 1
            self._refuse(
                "trades",
                f"print {item.tid} at {item.time} came again with other values",
                record.body,
                f"{self.recording}:{record.frame}:{item.tid}",
            )
            return
        event_ns = item.time * MS_NS
        self.counts.trades += 1
        self.counts.late += event_ns < self.watermark_ns
        self._rows["trades"].append(
            rows.trade(self.recording, record, instrument, item, side, is_first=is_first)
        )
        self._order += 1
        for clock in self.clocks:
            published_to_ns = clock.next_tick_ns(self._next_tick_ns - 1) - clock.grace_ns - clock.width_ns
            clock.add_print(
                instrument, (event_ns, self._order, item.px, item.sz, SIDE_CODES[side]), published_to_ns
            )

    def _bbo(self, record: Record, connection: int, data: wire.BboData) -> None:
        if why := rows.unusable_quote(data, record.recv_ns):
            self._refuse("quotes", why, record.body, f"{self.recording}:{record.frame}")
            return
        instrument = self._hear(record, connection, "bbo", data.coin, data.time)
        if instrument is None:
            return
        quote = rows.quote_of(data)
        if self._last_quote.get(instrument) == quote:
            return  # the same quote by a twin socket, or sent again after a subscription
        self._last_quote[instrument] = quote
        self._rows["quotes"].append(rows.quote(self.recording, record, instrument, quote))
        for clock in self.clocks:
            clock.add_quote(instrument, quote)

    def _context(self, record: Record, connection: int, data: wire.ContextData) -> None:
        instrument = self._hear(record, connection, "activeAssetCtx", data.coin, None)
        if instrument is None:
            return
        if why := rows.unusable_context(data.ctx):
            self._refuse("contexts", why, record.body, f"{self.recording}:{record.frame}")
            return
        self._rows["contexts"].append(rows.context(self.recording, record, instrument, data.ctx))
        note = rows.note_of(data.ctx, record.recv_ns)
        for clock in self.clocks:
            clock.add_context(instrument, note)

    def _refuse(self, table: str, reason: str, raw: bytes, source: str) -> None:
        self.counts.quarantined += 1
        self._rows["quarantine"].append(
            {
                "table_name": table,
                "reason": reason,
                "raw": raw,
                "source": source,
                "ts_knowable_ns": self._now_ns,
            }
        )
