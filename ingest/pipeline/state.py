"""State of one recording, shared by all message handlers: coverage ledger, bars, rows and counts.

Message handlers (`hyperliquid_handler`, `gaiaex_handler`, `columnar`) change it; the pipeline advances its time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from ingest.bars.bar_columns import Quote
from ingest.bars.builder import BLIND_NS, SILENT_NS, BarClock
from ingest.bars.reconciliation import INTERVALS
from ingest.bars.trade_buffer import Chunk, Row
from ingest.coverage.ledger import BOOK, CoverageLedger
from ingest.coverage.silence import SilenceJudge
from ingest.instruments.registry import InstrumentRegistry
from ingest.journal.records import Record
from ingest.pipeline import rows
from ingest.pipeline.clock_offset import ClockOffsets
from ingest.pipeline.dedupe import TradeDeduplicator
from ingest.pipeline.latency import LatencyTracker
from ingest.pipeline.publishing_schedule import PublishingSchedule
from ingest.pipeline.registration import Registration
from ingest.pipeline.row_buffer import RowBuffer
from storage.clock import MS_NS, NS
from storage.settings import Settings

_Evidence = tuple[int, int, str, int | None, int]
"""(frame of the run, connection, instrument, venue time, receipt)"""


@dataclass(slots=True)
class Counts:
    """Counts of processed frames, prints and bars."""

    frames: int = 0
    prints: int = 0
    trades: int = 0
    seen: int = 0
    conflicts: int = 0
    late: int = 0
    quarantined: int = 0
    bars: int = 0
    reconnects: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class RecordingState:
    """State of one recording."""

    def __init__(self, recording: str, settings: Settings, *, is_capture: bool, home: str = "") -> None:
        """Start with nothing seen; see `Pipeline`."""
        self.recording = recording
        self.settings = settings
        self.is_capture = is_capture
        self.venue = settings.record.venue
        self.counts = Counts()
        self.channels: Counter[str] = Counter()
        self.rows = RowBuffer()
        self.registration = Registration(recording, home, self.venue, self.rows, is_capture=is_capture)
        self.registry = InstrumentRegistry(self.venue)
        self.lags = LatencyTracker(recording)
        self.our_clock = ClockOffsets(recording, limit_ms=settings.alert.clock_ms)
        self.ledger = CoverageLedger(
            recording,
            silence_ns=int(settings.record.coin_silence_s * NS),
            lag_ns=settings.bars.history_lag_ms * MS_NS,
            horizon_ns=SILENT_NS + BLIND_NS,
            is_inferred=is_capture,
        )
        self.silence = SilenceJudge(self.ledger, SILENT_NS + BLIND_NS)
        self.clocks = [
            BarClock(
                width,
                grace_ns=settings.bars.grace_ns,
                lag_ns=settings.bars.history_lag_ms * MS_NS,
                ledger=self.ledger,
                silence=self.silence,
                keeps_settled=settings.record.certify and width in INTERVALS,
            )
            for width in settings.bars.widths
        ]
        self.schedule = PublishingSchedule(self.clocks)
        # A print must be recognised for as long as its bar may change.
        self.seen = TradeDeduplicator(max(clock.width_ns + clock.reopen_ns for clock in self.clocks))
        self.now_ns = 0
        self.watermark_ns = 0
        self.order = 0
        """Number of the last print that was new."""
        self.ids: dict[str, str] = {}
        """Instrument ids by coin, until the registry learns something new."""
        self.coins: dict[str, None] = {}
        """Hyperliquid's names of recorded coins, in the order of their first message."""
        self.unproven: list[str] = []
        """Coins whose prints, resent after a reconnect, did not reach back to the gap."""
        self.resent_ns: dict[str, int] = {}
        """By instrument: venue time of the oldest print that was resent after its last subscription."""
        self.newest_print_ns: dict[str, int] = {}
        """By instrument: venue time of its newest print."""
        self._version = 0
        self.awaits_first: set[tuple[int, str]] = set()
        """(connection, instrument) whose next batch of prints is the first after a subscription."""
        self.last_quote: dict[str, Quote] = {}
        self.streams: dict[tuple[int, str, str], tuple[int, int]] = {}
        self.touches: dict[str, deque[tuple[float | None, float | None, int]]] = {}
        """By instrument that a relay shows too: its last quotes (bid, ask, receipt)."""
        self._books: dict[tuple[str, str], int] = {}
        self._run: list[_Evidence] | None = None
        """While a run of frames is processed by column: what the ledger must learn, with the frame it came in."""
        self._run_frame = 0

    def instrument(self, coin: str) -> str:
        """Return the id of the instrument that has a coin's name now."""
        instrument = self.ids.get(coin)
        if instrument is None:
            instrument = self.ids[coin] = self.registry.instrument_id(coin)
        return instrument

    def add_instrument(self, instrument: str, now_ns: int, *, has_trades: bool = True) -> None:
        """Begin an instrument's bars."""
        self._version += 1
        self.registration.add(instrument, now_ns)
        for clock in self.clocks:
            clock.add_instrument(instrument, now_ns, has_trades=has_trades)

    @property
    def version(self) -> int:
        """Number that rises whenever the set of streams that may be processed by column can have changed."""
        return self._version

    # Connections and subscriptions.

    def open_connection(self, connection: int) -> None:
        """Open a connection in the coverage ledger."""
        self._version += 1
        self.ledger.open(connection)

    def close_connection(self, connection: int, now_ns: int, cause: str) -> None:
        """Close a connection in the coverage ledger, and count it as lost."""
        self._version += 1
        self.silence.tick(now_ns)
        self.silence.forget_volumes(connection)
        self.ledger.close(connection, now_ns, cause)
        self.counts.reconnects += 1

    def unsubscribe(self, connection: int, channel: str, instrument: str, now_ns: int) -> None:
        """End a stream in the coverage ledger."""
        self._version += 1
        self.silence.tick(now_ns)
        self.ledger.unsubscribe(connection, channel, instrument, now_ns)

    def continue_stream(
        self, connection: int, channel: str, instrument: str, since_ns: int, now_ns: int
    ) -> None:
        """Take over a stream of the recording that this one continues; it is proven since `since_ns`."""
        self.ledger.carry_on(connection, channel, instrument, since_ns)
        self.add_instrument(instrument, now_ns, has_trades=channel != BOOK)

    def end_first_batch(self, connection: int, instrument: str) -> None:
        """Mark the first batch of prints after a subscription as processed."""
        self._version += 1
        self.awaits_first.discard((connection, instrument))

    def listings_changed(self) -> None:
        """Forget instrument ids by coin, because the registry has learnt something new."""
        self._version += 1
        self.ids.clear()

    # Evidence for the coverage ledger.

    def record_message(self, connection: int, instrument: str, event_ns: int | None, recv_ns: int) -> None:
        """Report a message of an instrument to the coverage ledger, or collect it while a run is processed."""
        if self._run is None:
            self.ledger.record_message(connection, instrument, event_ns, recv_ns)
        else:
            self._run.append((self._run_frame, connection, instrument, event_ns, recv_ns))

    def begin_run(self) -> None:
        """From here on collect evidence instead of reporting it: columns are not processed in the order of frames."""
        self._run = []

    def set_run_frame(self, frame: int) -> None:
        """Set the frame of a run to which the evidence that follows belongs."""
        self._run_frame = frame

    def report_run(self, until_frame: int | None = None) -> None:
        """Report the evidence collected so far to the coverage ledger, in the order of its frames.

        The order of receipt times alone is not enough: frames of one lot can share one.

        Args:
            until_frame: last frame of the run to report (default: all).
        """
        assert self._run is not None
        evidence = sorted(self._run, key=itemgetter(0))
        if until_frame is not None:
            evidence = evidence[: bisect_right(evidence, until_frame, key=itemgetter(0))]
        for _, connection, instrument, event_ns, recv_ns in evidence:
            self.ledger.record_message(connection, instrument, event_ns, recv_ns)
        self._run = sorted(self._run, key=itemgetter(0))[len(evidence) :]

    def end_run(self) -> None:
        """Report evidence at once again; `report_run` has reported all of it."""
        assert not self._run
        self._run = None

    def unusable(self, connection: int, instrument: str, time_ms: int | None, now_ns: int) -> str:
        """Return why a message cannot be used, or an empty text."""
        if not self.ledger.is_open(connection):
            return f"connection {connection} is not open"
        if not all(clock.has(instrument) for clock in self.clocks):
            return f"{instrument} was not asked for"
        if time_ms is not None and not rows.is_time(time_ms, now_ns):
            return f"time {time_ms} is no time in milliseconds at its receipt"
        return ""

    def note_stream(self, connection: int, channel: str, coin: str, recv_ns: int, count: int = 1) -> None:
        """Note messages of a stream, for the watchdogs."""
        _, before = self.streams.get((connection, channel, coin), (0, 0))
        self.streams[(connection, channel, coin)] = (recv_ns, count + before)

    def take_streams(self) -> dict[tuple[int, str, str], tuple[int, int]]:
        """Return the last receipt and the number of messages since the last call, by (connection, channel, coin)."""
        streams, self.streams = self.streams, {}
        return streams

    def note_touch(self, instrument: str, quote: Quote, recv_ns: int) -> None:
        """Note a quote of an instrument whose relay is recorded too."""
        if instrument in self.touches:
            self.touches[instrument].append((quote.bid, quote.ask, recv_ns))

    def is_new_book(self, instrument: str, mode: str, time_ms: int) -> bool:
        """Return whether a book differs from the last; the venue resends the same one after a subscription."""
        is_new = self._books.get((instrument, mode)) != time_ms
        self._books[(instrument, mode)] = time_ms
        return is_new

    def record_touches(self, instrument: str, *, maxlen: int) -> None:
        """Keep the last quotes of an instrument that a relay shows too."""
        self.touches.setdefault(instrument, deque(maxlen=maxlen))
        self._version += 1

    def add_print(self, instrument: str, row: Row) -> None:
        """Add a print to the bars of every width."""
        for clock, published_to_ns in zip(self.clocks, self.schedule.published_to_ns, strict=True):
            clock.add_print(instrument, row, published_to_ns)

    def add_prints(self, instrument: str, chunk: Chunk) -> None:
        """Add many prints of one instrument to the bars of every width."""
        for clock, published_to_ns in zip(self.clocks, self.schedule.published_to_ns, strict=True):
            clock.add_prints(instrument, chunk, published_to_ns)

    def learn_prints(self, instrument: str, times_ns: list[int], recv_ns: int) -> None:
        """Learn the rhythm of a stream from new prints of one frame, in their order."""
        if times_ns:
            codes = np.full(len(times_ns), self.silence.rhythm.code(instrument), np.int64)
            times = np.array(times_ns, np.int64)
            self.silence.add_prints(codes, times, np.full(len(times_ns), recv_ns, np.int64))

    def add_quote(self, instrument: str, quote: Quote) -> None:
        """Add a change of the best bid or ask to the bars."""
        for clock in self.clocks:
            clock.add_quote(instrument, quote)

    def restore_quote(self, instrument: str, quote: Quote) -> None:
        """Restore the last quote of an earlier recording, where the instrument's bars continue."""
        self.last_quote[instrument] = quote
        for clock in self.clocks:
            if clock.has(instrument):
                clock.add_quote(instrument, quote)

    def refuse_frame(self, table: str, reason: str, record: Record, detail: str = "") -> None:
        """Quarantine a frame, or a part of it."""
        source = f"{self.recording}:{record.frame}{detail}"
        self.refuse(table, reason, record.body, source)

    def refuse(self, table: str, reason: str, raw: bytes, source: str) -> None:
        """Quarantine raw bytes with the reason."""
        self.counts.quarantined += 1
        self.rows.add(
            "quarantine",
            {
                "table_name": table,
                "reason": reason,
                "raw": raw,
                "source": source,
                "ts_knowable_ns": self.now_ns,
            },
        )
