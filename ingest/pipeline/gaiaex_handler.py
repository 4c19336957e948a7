"""Handler of GaiaEx messages: relayed order books, and detection of a stale relay.

GaiaEx relays Hyperliquid's books and publishes no trades. A book that it flags as stale counts as stale at once; a
relay that froze without a flag is detected by the quote of the same coin on Hyperliquid, which has moved. A book that
cannot be used leaves the last one out of date: the stream is stalled until a book can be used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ingest.bars.bar_columns import Quote
from ingest.coverage.ledger import BOOK
from ingest.journal.records import Record
from ingest.pipeline.order_books import book_row, unusable_book
from ingest.pipeline.rows import is_time
from ingest.pipeline.rows import quote as quote_row
from ingest.pipeline.state import RecordingState
from ingest.venues.gaiaex import messages as gaiaex_messages
from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.hyperliquid.messages import Level
from ingest.venues.hyperliquid.protocol import kind_of
from storage.clock import MS_NS, NS
from storage.errors import TickwalkError

UPSTREAM_STALE: Final = "upstream stale"
RELAY_STALE: Final = "relay stale"
UNDECODABLE: Final = "undecodable"
NOT_SUPPORTED: Final = "symbol not supported"
RELAY_LAG: Final = "gaiaex relay"
_TOUCHES: Final = 512
# Frames of these types hold no book; one that cannot be decoded proves nothing, and that is all.
_BOOKLESS: Final = frozenset(("heartbeat", "recovered", "error", "pong"))


@dataclass(slots=True)
class _Relay:
    """One symbol's socket."""

    symbol: str
    instrument: str
    twin: str
    book_ns: int = 0
    touch: tuple[float | None, float | None] = (None, None)


class GaiaexHandler:
    """Applies the frames of GaiaEx's connections to the recording state."""

    def __init__(self, state: RecordingState) -> None:
        self._state = state
        self._relays: dict[int, _Relay] = {}
        self._stale_ns = int(state.settings.gaiaex.relay_stale_s * NS)

    @property
    def is_used(self) -> bool:
        """Whether any relay is open."""
        return bool(self._relays)

    def opened(self, connection: int, symbol: str, now_ns: int, *, is_held: bool = False) -> None:
        """Open a symbol's socket, which subscribes by itself; one that `is_held` continues from a recording before."""
        state = self._state
        instrument = state.registry.instrument_id(symbol, gaiaex.VENUE)
        twin = state.registry.instrument_id(symbol)
        state.add_instrument(instrument, now_ns, has_trades=False)
        if not is_held:
            state.ledger.subscribe(connection, BOOK, instrument, now_ns)
        state.record_touches(twin, maxlen=_TOUCHES)
        relay = self._relays[connection] = _Relay(symbol, instrument, twin)
        if not is_held:
            self._void(relay, now_ns)  # of an earlier recording: this socket has not delivered a book yet

    def closed(self, connection: int) -> None:
        """Close a symbol's socket."""
        relay = self._relays.pop(connection, None)
        if relay is not None:
            self._void(relay, self._state.now_ns)

    def void(self, instrument: str, now_ns: int) -> None:
        """Void the quote of a relayed instrument from before this recording, because its relay is stale."""
        for relay in self._relays.values():
            if relay.instrument == instrument:
                self._void(relay, now_ns)

    def apply(self, record: Record, connection: int) -> None:
        """Apply a frame."""
        state = self._state
        relay = self._relays.get(connection)
        try:
            message = gaiaex_messages.decode(record.body)
        except TickwalkError as error:
            state.channels["undecodable"] += 1
            state.refuse_frame("frames", error.message, record)
            if relay is not None:
                self._lose_unreadable(record, connection, relay)
            return
        state.channels[f"gaiaex {message.__struct_config__.tag}"] += 1
        if relay is None:
            state.refuse_frame("frames", f"connection {connection} is not open", record)
            return
        named = getattr(message, "symbol", "")
        # A spot pair has two names (its generations differ), a perpetual one.
        if named and named != relay.symbol and kind_of(relay.symbol) == "perp":
            state.refuse_frame("frames", f"{named!r} came on the socket of {relay.symbol!r}", record)
            if isinstance(message, gaiaex_messages.GaiaBook | gaiaex_messages.UpstreamLost):
                self._stall_undecodable(record, connection, relay)
            return
        state.note_stream(connection, BOOK, relay.instrument, record.recv_ns)
        match message:
            case gaiaex_messages.GaiaBook():
                self._book(record, connection, relay, message)
            case gaiaex_messages.RelayHeartbeat():
                self._beat(record, connection, relay, is_stale=message.stale)
            case gaiaex_messages.UpstreamLost():
                self._lose(relay, UPSTREAM_STALE, _since(message.timestamp, record), record.recv_ns)
            case gaiaex_messages.UpstreamRecovered():
                if state.ledger.stall_cause(relay.instrument) != UNDECODABLE:
                    at_ns = _since(message.timestamp, record)
                    state.ledger.resume(relay.instrument, at_ns, record.recv_ns)
            case gaiaex_messages.Rejection():
                if message.is_terminal:
                    for clock in state.clocks:
                        clock.end_instrument(relay.instrument, record.recv_ns)
                state.refuse_frame("frames", f"the venue refused: {message.code}", record)
            case gaiaex_messages.GaiaPong():
                state.ledger.pong(connection, record.recv_ns)

    def tick(self, now_ns: int) -> None:
        """Detect relays that froze without a message."""
        for relay in self._relays.values():
            moved_ns = self._moved_ns(relay)
            if moved_ns and now_ns - moved_ns > self._stale_ns:
                self._lose(relay, RELAY_STALE, relay.book_ns, now_ns)

    def _moved_ns(self, relay: _Relay) -> int:
        """Return when the twin's quote first moved away from what the relay shows; 0 if it has not."""
        if not relay.book_ns or self._state.ledger.is_stalled(relay.instrument):
            return 0
        touches = self._state.touches[relay.twin]
        later = [touch for touch in touches if touch[2] > relay.book_ns and touch[:2] != relay.touch]
        # The twin is back at the price that the relay shows: the relay may be right again.
        return later[0][2] if later and touches[-1][:2] != relay.touch else 0

    def _book(self, record: Record, connection: int, relay: _Relay, book: gaiaex_messages.GaiaBook) -> None:
        state = self._state
        why = unusable_book(book, "relay")
        if not is_time(book.time, record.recv_ns):
            why = f"time {book.time} is no time in milliseconds at its receipt"
        if why:
            state.refuse_frame("books", why, record)
            self._stall_undecodable(record, connection, relay)
            return
        state.rows.add(
            "books",
            book_row(state.recording, record, relay.instrument, book, "relay", is_stale=book.is_stale),
        )
        if book.is_stale:
            self._lose(relay, UPSTREAM_STALE, book.time * MS_NS, record.recv_ns)
            return
        state.record_message(connection, relay.instrument, book.time * MS_NS, record.recv_ns)
        state.ledger.resume(relay.instrument, book.time * MS_NS, record.recv_ns)
        state.lags.note("gaiaex orderbook", (record.recv_ns - book.time * MS_NS) / MS_NS, record.recv_ns)
        quote = _quote_of(book)
        touch = (quote.bid, quote.ask)
        if touch != relay.touch:
            self._note_lag(relay, touch, record.recv_ns)
        relay.touch, relay.book_ns = touch, record.recv_ns
        before = state.last_quote.get(relay.instrument)
        if before is None or _values(before) != _values(quote):
            state.last_quote[relay.instrument] = quote
            state.rows.add("quotes", quote_row(state.recording, record, relay.instrument, quote))
        state.add_quote(relay.instrument, quote)

    def _note_lag(self, relay: _Relay, touch: tuple[float | None, float | None], now_ns: int) -> None:
        """Measure how long after Hyperliquid the relay shows the same best prices."""
        for bid, ask, at_ns in reversed(self._state.touches[relay.twin]):
            if (bid, ask) == touch:
                self._state.lags.note(RELAY_LAG, (now_ns - at_ns) / MS_NS, now_ns)
                return

    def _beat(self, record: Record, connection: int, relay: _Relay, *, is_stale: bool) -> None:
        """Apply a heartbeat: the relay is alive, and its book has not changed."""
        if is_stale:
            self._lose(relay, UPSTREAM_STALE, record.recv_ns, record.recv_ns)
        elif not self._state.ledger.is_stalled(relay.instrument):
            self._state.record_message(connection, relay.instrument, None, record.recv_ns)

    def _lose_unreadable(self, record: Record, connection: int, relay: _Relay) -> None:
        """Stall a stream on which a frame came that may have been a book, or was a message that it is stale."""
        kind = gaiaex_messages.type_of(record.body)
        if kind == "stale":
            self._lose(relay, UPSTREAM_STALE, record.recv_ns, record.recv_ns)
        elif kind not in _BOOKLESS:
            self._stall_undecodable(record, connection, relay)

    def _stall_undecodable(self, record: Record, connection: int, relay: _Relay) -> None:
        """Stall a stream since the time that it has proven, until one of its books can be used."""
        ledger, now_ns = self._state.ledger, record.recv_ns
        if ledger.stall_cause(relay.instrument) == UNDECODABLE or not ledger.is_open(connection):
            return
        # A relay that says that it has recovered ends another stall, but its newest book is still unknown.
        ledger.resume(relay.instrument, now_ns, now_ns)
        proven_ns = ledger.proven_ns(connection, BOOK, relay.instrument, now_ns)
        self._lose(relay, UNDECODABLE, min(proven_ns, now_ns), now_ns)

    def _lose(self, relay: _Relay, cause: str, from_ns: int, now_ns: int) -> None:
        if not self._state.ledger.is_stalled(relay.instrument):
            self._state.ledger.stall(relay.instrument, from_ns, cause)
            self._void(relay, now_ns)

    def _void(self, relay: _Relay, now_ns: int) -> None:
        """Void the last quote of a relay: features see no quote instead of an old one."""
        void = Quote(now_ns, None, None, None, None, is_void=True)
        self._state.last_quote.pop(relay.instrument, None)
        relay.touch = (None, None)
        self._state.add_quote(relay.instrument, void)


def _quote_of(book: gaiaex_messages.GaiaBook) -> Quote:
    bid, ask = (_best(side) for side in book.levels)
    return Quote(book.time * MS_NS, bid[0], ask[0], bid[1], ask[1])


def _best(side: list[Level]) -> tuple[float | None, float | None]:
    return (side[0].px, side[0].sz) if side else (None, None)


def _values(quote: Quote) -> tuple[float | None, ...]:
    return quote.bid, quote.ask, quote.bid_size, quote.ask_size


def _since(timestamp_ms: int | None, record: Record) -> int:
    """Return the time in a message, or the receipt time where the message has no valid time."""
    if timestamp_ms is None or not is_time(timestamp_ms, record.recv_ns):
        return record.recv_ns
    return min(timestamp_ms * MS_NS, record.recv_ns)
