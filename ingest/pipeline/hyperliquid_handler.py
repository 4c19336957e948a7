"""Handler of Hyperliquid messages: prints, quotes, books, contexts and acknowledgements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ingest.bars.builder import SIDE_CODES
from ingest.coverage.ledger import TRADES
from ingest.journal.records import Record
from ingest.pipeline import rows
from ingest.pipeline.dedupe import CONFLICT, SEEN
from ingest.pipeline.order_books import Mode, book_row, unusable_book
from ingest.pipeline.refused_prints import refuse_print, refuse_prints_of
from ingest.pipeline.state import RecordingState
from ingest.venues.hyperliquid import messages as wire
from storage.clock import MS_NS
from storage.errors import TickwalkError, VenueError

# An unseen print this much older than what its stream had proven was left out by the stream.
_LEFT_OUT_NS: Final = 5_000 * MS_NS


class Unreadable:
    """A frame that could not be decoded; it is in quarantine already."""


Decoded = wire.Message | Unreadable


class HyperliquidHandler:
    """Applies the frames of Hyperliquid's connections to the recording state."""

    def __init__(self, state: RecordingState) -> None:
        self._state = state
        self._mids: dict[str, tuple[float | None, float | None]] = {}
        self._contexts: dict[str, wire.AssetContext] = {}

    def decode(self, record: Record) -> Decoded:
        """Return the message of a frame; quarantine a frame that cannot be decoded."""
        try:
            message = wire.decode(record.body)
        except TickwalkError as error:
            self._state.channels["undecodable"] += 1
            self._state.refuse_frame("frames", error.message, record)
            return Unreadable()
        self._state.channels[type(message).__struct_config__.tag] += 1  # type: ignore[index]
        return message

    def apply(self, record: Record, connection: int, message: Decoded) -> None:
        """Apply a message.

        Args:
            record: the frame.
            connection: of the frame.
            message: decoded from the frame.
        """
        match message:
            case wire.Trades():
                self._trades(record, connection, message.data)
            case wire.Bbo():
                self._bbo(record, connection, message.data)
            case wire.L2Book() if message.data is not None:
                self._book(record, connection, message.data)
            case wire.ActiveAssetCtx():
                self._context(record, connection, message.data)
            case wire.ActiveSpotAssetCtx():
                self._spot_context(record, connection, message.data)
            case wire.CandleMessage():
                self._record_message(record, connection, "candle", message.data.s, None)
            case wire.Ack():
                self._ack(connection, message.data, record.recv_ns)
            case wire.Pong():
                if self._state.ledger.is_open(connection):
                    self._state.ledger.pong(connection, record.recv_ns)
            case wire.ErrorMessage():
                self._refusal(record, connection, message.data)
            case wire.Mids():
                mids = ((coin, mid, None) for coin, mid in message.data.mids.items())
                self._all_mids(record, mids)
            case wire.FastAssetCtxs():
                self._fast(record, message)
            case wire.AllDexsAssetCtxs():
                self._dexs(record, message.data.ctxs)
            case wire.AssetCtxs():
                self._dexs(record, [(message.data.dex or "", message.data.ctxs)])
            case Unreadable():
                refuse_prints_of(self._state, connection, record.body, record.recv_ns)
            case _:
                pass  # counted when it was decoded

    # Subscriptions.

    def subscribed(self, connection: int, channel: str, coin: str, now_ns: int) -> None:
        """Begin a stream, on which the venue now resends the most recent prints."""
        state = self._state
        instrument = state.instrument(coin)
        if state.ledger.is_open(connection) and state.ledger.subscribe(
            connection, channel, instrument, now_ns
        ):
            state.coins.setdefault(coin)
            state.add_instrument(instrument, now_ns)
            if channel == TRADES:
                state.awaits_first.add((connection, instrument))

    def _ack(self, connection: int, ack: wire.AckData, now_ns: int) -> None:
        if not ack.subscription.coin:
            return
        instrument = self._state.instrument(ack.subscription.coin)
        channel = _channel(ack.subscription)
        if ack.method == "unsubscribe" and self._state.ledger.is_open(connection):
            self._state.unsubscribe(connection, channel, instrument, now_ns)
        elif ack.method == "subscribe":
            self.subscribed(connection, channel, ack.subscription.coin, now_ns)

    def _refusal(self, record: Record, connection: int, text: str) -> None:
        """Treat `Already subscribed` as an acknowledgement; quarantine any other refusal."""
        subscription = wire.already_subscribed(text)
        if subscription is None:
            self._state.refuse_frame("frames", "the venue refused", record)
        elif subscription.coin:
            self.subscribed(connection, _channel(subscription), subscription.coin, record.recv_ns)

    def _record_message(
        self, record: Record, connection: int, channel: str, coin: str, time_ms: int | None
    ) -> str | None:
        """Record a message of an instrument; return its id, or None where the message cannot be used."""
        state = self._state
        instrument = state.instrument(coin)
        if state.is_capture:
            self.subscribed(connection, channel, coin, record.recv_ns)
        if why := state.unusable(connection, instrument, time_ms, record.recv_ns):
            state.refuse_frame("frames", why, record)
            return None
        event_ns = None if time_ms is None else time_ms * MS_NS
        state.record_message(connection, instrument, event_ns, record.recv_ns)
        state.note_stream(connection, channel, coin, record.recv_ns)
        is_resent = channel == TRADES and (connection, instrument) in state.awaits_first
        if event_ns is not None and not is_resent:
            # Equal to the columnar result to the bit: a double cannot hold each nanosecond of a lag beyond 104 days.
            state.lags.note(channel, float(record.recv_ns - event_ns) / MS_NS, record.recv_ns)
        return instrument

    # Prints.

    def _trades(self, record: Record, connection: int, prints: list[wire.WirePrint]) -> None:
        state = self._state
        by_coin: dict[str, list[wire.WirePrint]] = {}
        for item in prints:
            by_coin.setdefault(item.coin, []).append(item)
        for coin, items in by_coin.items():
            begins_ns = state.registry.begins_ns(state.instrument(coin))
            faults = [rows.unusable(item, record.recv_ns, begins_ns) for item in items]
            usable = [item for item, fault in zip(items, faults, strict=True) if not fault]
            newest_ms = max((item.time for item in usable), default=None)
            instrument = self._record_message(record, connection, TRADES, coin, newest_ms)
            if instrument is None:
                state.counts.prints += len(items)
                for item in items:
                    refuse_print(state, connection, coin, item.time, record.recv_ns)
                continue
            is_first = (connection, instrument) in state.awaits_first
            before_ns = state.newest_print_ns.get(instrument, 0)
            if is_first:
                # What was refused before is resent now; what is refused of the batch itself is not.
                state.ledger.refused.apply(record.recv_ns)
            for item, fault in zip(items, faults, strict=True):
                if fault:
                    self._refuse_print(record, connection, item, fault, begins_ns, is_first=is_first)
            new = self.prints(record, instrument, usable, "venue_replay" if is_first else "live")
            if not is_first:
                state.learn_prints(instrument, [item.time * MS_NS for item in new], record.recv_ns)
            else:
                state.end_first_batch(connection, instrument)
                self._prove(connection, instrument, usable, new, before_ns, record.recv_ns)
                if state.ledger.has_open_gap(instrument):
                    state.unproven.append(coin)

    def _refuse_print(
        self,
        record: Record,
        connection: int,
        item: wire.WirePrint,
        fault: str,
        begins_ns: int,
        *,
        is_first: bool,
    ) -> None:
        """Quarantine a print that cannot be used; its bar lacks it."""
        state = self._state
        state.counts.prints += 1
        state.refuse_frame("trades", fault, record, f":{item.tid}")
        if is_first and not rows.unusable(item, record.recv_ns):
            return  # of the contract that had the name before, whose prints are resent under it
        time_ms = item.time if item.time * MS_NS >= begins_ns else None
        refuse_print(state, connection, item.coin, time_ms, record.recv_ns)

    def _prove(
        self,
        connection: int,
        instrument: str,
        resent: list[wire.WirePrint],
        new: list[wire.WirePrint],
        before_ns: int,
        now_ns: int,
    ) -> None:
        """Bridge or retract coverage by the first batch after a subscription.

        Args:
            connection: that was subscribed.
            instrument: of the prints.
            resent: the batch.
            new: those of it that were not seen before.
            before_ns: the newest print before it.
            now_ns: the present.
        """
        if not resent:
            return
        ledger = self._state.ledger
        times_ns = [item.time * MS_NS for item in new]
        if ledger.has_left_out(connection, instrument, times_ns, _LEFT_OUT_NS):
            ledger.retract(instrument, min(before_ns, *times_ns), now_ns)
        oldest_ns = min(item.time for item in resent) * MS_NS
        self._state.resent_ns[instrument] = oldest_ns
        ledger.bridge(instrument, oldest_ns, now_ns)
        self._state.silence.add_resent(instrument, times_ns, oldest_ns=oldest_ns, now_ns=now_ns)

    def prints(
        self,
        record: Record,
        instrument: str,
        items: Iterable[wire.WirePrint],
        origin: str,
    ) -> list[wire.WirePrint]:
        """Add usable prints of one instrument; return those that are new."""
        return [item for item in items if self._print(record, instrument, item, origin)]

    def _print(self, record: Record, instrument: str, item: wire.WirePrint, origin: str) -> bool:
        state = self._state
        state.counts.prints += 1
        side = rows.SIDES.get(item.side, "unknown")
        content = (item.px, item.sz, SIDE_CODES[side])
        verdict = state.seen.judge(instrument, item.time, item.tid, content, record.recv_ns)
        if verdict == SEEN:
            state.counts.seen += 1
            return False
        if verdict == CONFLICT:
            state.counts.conflicts += 1
            reason = f"print {item.tid} at {item.time} came again with other values"
            state.refuse_frame("trades", reason, record, f":{item.tid}")
            state.ledger.refused.add(instrument, item.time * MS_NS, item.time * MS_NS)
            return False
        event_ns = item.time * MS_NS
        state.counts.trades += 1
        state.counts.late += event_ns < state.watermark_ns
        state.rows.add("trades", rows.trade(state.recording, record, instrument, item, side, origin))
        state.order += 1
        state.newest_print_ns[instrument] = max(event_ns, state.newest_print_ns.get(instrument, 0))
        state.add_print(instrument, (event_ns, state.order, item.px, item.sz, SIDE_CODES[side]))
        return True

    # Quotes, books and contexts.

    def _bbo(self, record: Record, connection: int, data: wire.BboData) -> None:
        state = self._state
        if why := rows.unusable_quote(data, record.recv_ns):
            state.refuse_frame("quotes", why, record)
            return
        instrument = self._record_message(record, connection, "bbo", data.coin, data.time)
        if instrument is None:
            return
        quote = rows.quote_of(data)
        if state.last_quote.get(instrument) == quote:
            return  # the same quote by a twin socket, or sent again after a subscription
        state.last_quote[instrument] = quote
        state.rows.add("quotes", rows.quote(state.recording, record, instrument, quote))
        state.add_quote(instrument, quote)
        state.note_touch(instrument, quote, record.recv_ns)

    def _book(self, record: Record, connection: int, data: wire.BookData) -> None:
        state = self._state
        mode: Mode = "fast" if data.fast else "slow"
        channel = "l2BookFast" if data.fast else "l2Book"
        instrument = self._record_message(record, connection, channel, data.coin, data.time)
        if instrument is None:
            return
        if why := unusable_book(data, mode):
            state.refuse_frame("books", why, record)
            return
        if state.is_new_book(instrument, mode, data.time):
            state.rows.add("books", book_row(state.recording, record, instrument, data, mode))

    def _context(self, record: Record, connection: int, data: wire.ContextData) -> None:
        instrument = self._record_message(record, connection, "activeAssetCtx", data.coin, None)
        if instrument is not None and self._note_context(record, instrument, data.ctx):
            volume = data.ctx.day_base_vlm
            self._state.silence.note_volume(connection, instrument, volume, record.recv_ns)

    def _note_context(self, record: Record, instrument: str, ctx: wire.AssetContext) -> bool:
        """Add a context; return whether it can be used."""
        state = self._state
        if why := rows.unusable_context(ctx):
            state.refuse_frame("contexts", why, record, f":{instrument}")
            return False
        state.rows.add("contexts", rows.context(state.recording, record, instrument, ctx))
        note = rows.note_of(ctx, record.recv_ns)
        for clock in state.clocks:
            if clock.has(instrument):
                clock.add_context(instrument, note)
        return True

    def _spot_context(self, record: Record, connection: int, data: wire.SpotContextData) -> None:
        instrument = self._record_message(record, connection, "activeAssetCtx", data.coin, None)
        if instrument is None:
            return
        ctx = data.ctx
        if why := rows.unusable_spot_context(ctx):
            self._state.refuse_frame("contexts", why, record)
            return
        self._state.rows.add("contexts", rows.spot_context(self._state.recording, record, instrument, ctx))
        self._state.silence.note_volume(connection, instrument, ctx.day_base_vlm, record.recv_ns)

    def _dexs(self, record: Record, pairs: Iterable[tuple[str, list[wire.AssetContext]]]) -> None:
        """Add contexts that changed, named by their position in a dex's universe."""
        for dex, contexts in pairs:
            try:
                named = self._state.registry.pair_up(dex, contexts)
            except VenueError as error:
                self._state.refuse_frame("contexts", error.message, record, f":{dex}")
                continue
            for coin, ctx in named:
                instrument = self._state.instrument(coin)
                if self._contexts.get(instrument) != ctx:
                    self._contexts[instrument] = ctx
                    self._note_context(record, instrument, ctx)

    def _fast(self, record: Record, message: wire.FastAssetCtxs) -> None:
        changes = message.data.by_coin.items()
        self._all_mids(
            record,
            (
                (coin, _known(item.mid_px), _known(item.mark_px))
                for coin, item in changes
            ),
        )  # fmt: skip

    def _all_mids(self, record: Record, mids: Iterable[tuple[str, float | None, float | None]]) -> None:
        state = self._state
        for coin, mid, mark in mids:
            instrument = state.instrument(coin)
            if coin.startswith("#") or self._mids.get(instrument) == (mid, mark):
                continue  # outcomes are left out, and so are mids that have not changed
            if why := rows.unusable_mid(mid, mark):
                state.refuse_frame("mids", f"{coin}: {why}", record, f":{coin}")
                continue
            self._mids[instrument] = (mid, mark)
            state.rows.add("mids", rows.mid(state.recording, record, instrument, mid, mark))


def _known(value: Any) -> float | None:
    return value if isinstance(value, float) else None


def _channel(subscription: wire.SubscriptionEcho) -> str:
    return "l2BookFast" if subscription.fast else subscription.type
