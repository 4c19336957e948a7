"""Columnar processing of thousands of frames at once, with the same rows as one by one.

Frames between two publishing instants are scanned together (`ingest.venues.hyperliquid.scanner`). Frames that the
scanner understood, of streams in their steady state, are processed by column. Frames that do not affect those streams
(books, contexts, pongs) are processed one by one beside them. Any other frame (an acknowledgement, a first batch after
a subscription, an odd number, one that cannot be decoded) is a barrier: everything before it is processed first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.bars.bar_columns import Quote
from ingest.bars.trade_buffer import PRINT
from ingest.coverage.ledger import TRADES as TRADES_CHANNEL
from ingest.journal.records import RecordBatch
from ingest.pipeline.dedupe import CONFLICT, NEW, SEEN
from ingest.pipeline.frame_run import FrameRun
from ingest.pipeline.hyperliquid_handler import Decoded, HyperliquidHandler, Unreadable
from ingest.pipeline.state import RecordingState
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.scanner import BBO, TRADES, CoinCodes, ScannedFrames, scan
from storage.clock import MS_NS, NS
from storage.contracts.tables import CONTRACTS

# Below this many frames, one by one is as fast.
LEAST_FRAMES: Final = 64
_CHANNELS: Final = {TRADES: TRADES_CHANNEL, BBO: "bbo"}
_BARRIERS: Final = (wire.Ack, wire.ErrorMessage, wire.Trades, wire.Bbo, Unreadable)
_SIDE_TEXTS: Final = np.array(["sell", "unknown", "buy"], dtype=object)

Index = NDArray[np.int64]


class ColumnarProcessor:
    """Processes runs of frames of Hyperliquid's connections by column."""

    def __init__(self, state: RecordingState, frames: HyperliquidHandler) -> None:
        self._state = state
        self._frames = frames
        self._coins = CoinCodes()
        self._instruments: list[str] = []
        self._seen_codes = np.zeros(0, np.int32)
        self._rhythm_codes = np.zeros(0, np.int64)
        self._version = -1
        self._steady_streams: dict[int, NDArray[np.bool_]] = {}

    def process(self, batch: RecordBatch, start: int, stop: int, connections: Index) -> None:
        """Process the frames from `start` to `stop`, all of Hyperliquid and with no publishing instant among them.

        Args:
            batch: contains the frames.
            start, stop: right-open.
            connections: (n,) the connection of each record of the batch.
        """
        state = self._state
        self._refresh()
        if len(self._coins) == 0:
            scanned = scan(b"", np.zeros(stop - start + 1, np.int64), self._coins)
        else:
            scanned = scan(batch.data, batch.ends[start : stop + 1], self._coins)
        run = FrameRun(batch, start, connections[start:stop], scanned)
        run.set_watermarks(state.watermark_ns, int(state.settings.bars.lateness_s * NS))
        usable = run.usable()
        is_columnar = self._columnar_mask(run, usable)
        at = 0
        state.begin_run()
        others = np.flatnonzero(~is_columnar)
        k = 0
        while k < len(others):
            i = int(others[k])
            k += 1
            message = self._beside(run, i)
            if message is None:
                continue
            self._take_columns(run, is_columnar, at, i)
            self._pass(run, i, message)
            at = i + 1
            if self._version != state.version:
                self._refresh()
                is_columnar = self._columnar_mask(run, usable)
                others, k = at + np.flatnonzero(~is_columnar[at:]), 0
        self._take_columns(run, is_columnar, at, stop - start)
        state.end_run()

    def _pass(self, run: FrameRun, i: int, message: Decoded) -> None:
        """Process a barrier."""
        state = self._state
        record = run.batch.record(run.start + i)
        state.end_run()
        state.now_ns = record.recv_ns
        state.watermark_ns = int(run.watermark_ns[i])
        self._frames.apply(record, int(run.connections[i]), message)
        state.begin_run()

    # Which frames can be processed by column.

    def _refresh(self) -> None:
        """Forget which streams are in their steady state, if that may have changed."""
        state = self._state
        if self._version == state.version:
            return
        self._version = state.version
        self._steady_streams.clear()
        new = [coin for coin in state.coins if coin not in set(self._coins.names)]
        self._coins.add(new)
        self._instruments = [state.instrument(coin) for coin in self._coins.names]
        codes = [state.seen.code(instrument) for instrument in self._instruments]
        self._seen_codes = np.array(codes, np.int32)
        codes = [state.silence.rhythm.code(instrument) for instrument in self._instruments]
        self._rhythm_codes = np.array(codes, np.int64)

    def _columnar_mask(self, run: FrameRun, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask (n,) of the frames that can be processed by column."""
        columnar = usable.copy()
        known = len(self._coins)
        for connection in np.unique(run.connections).tolist():
            table = self._steady_streams.get(connection)
            if table is None:
                table = self._steady_streams[connection] = self._steady(connection)
            mine = run.connections == connection
            kind, coin = run.scanned.kind[mine], run.scanned.coin[mine]
            columnar[mine] &= table[kind, np.minimum(coin, known - 1)] if known else False
        return columnar

    def _steady(self, connection: int) -> NDArray[np.bool_]:
        """Return, by kind and coin, whether a stream is in its steady state."""
        state = self._state
        table = np.zeros((3, len(self._coins)), np.bool_)
        if not state.ledger.is_open(connection):
            return table
        for code, instrument in enumerate(self._instruments):
            if not all(clock.has(instrument) for clock in state.clocks):
                continue
            # The name was another contract's before: each print is checked, since it may be of that contract.
            is_recycled = state.registry.begins_ns(instrument) > 0
            for kind, channel in _CHANNELS.items():
                is_known = state.ledger.is_subscribed(connection, channel, instrument) or not state.is_capture
                is_first = kind == TRADES and (connection, instrument) in state.awaits_first
                table[kind, code] = is_known and not is_first and not (is_recycled and kind == TRADES)
        return table

    def _beside(self, run: FrameRun, i: int) -> Decoded | None:
        """Process a frame that is no barrier and return None; or return a barrier's message, not processed."""
        state = self._state
        record = run.batch.record(run.start + i)
        state.now_ns = record.recv_ns
        message = self._frames.decode(record)
        state.counts.frames += 1
        if isinstance(message, _BARRIERS):
            return message
        channel = type(message).__struct_config__.tag
        connection = int(run.connections[i])
        is_known = channel in _STATELESS or not state.is_capture or self._is_subscribed(connection, message)
        if not is_known:
            return message
        state.set_run_frame(i)
        self._frames.apply(record, connection, message)
        return None

    def _is_subscribed(self, connection: int, message: Any) -> bool:
        """Return whether a capture has implied this stream's subscription before."""
        coin = getattr(getattr(message, "data", None), "coin", "")
        channel = type(message).__struct_config__.tag
        state = self._state
        return (
            bool(coin)
            and state.ledger.is_open(connection)
            and state.ledger.is_subscribed(connection, str(channel), state.instrument(coin))
        )

    # By column.

    def _take_columns(self, run: FrameRun, is_columnar: NDArray[np.bool_], start: int, stop: int) -> None:
        """Process the columnar frames of a stretch, and report its evidence to the ledger."""
        state = self._state
        chosen = start + np.flatnonzero(is_columnar[start:stop])
        if len(chosen):
            state.counts.frames += len(chosen)
            kinds = run.scanned.kind[chosen]
            self._record_message(run, chosen)
            for kind, channel in _CHANNELS.items():
                mine = chosen[kinds == kind]
                if len(mine):
                    state.channels[channel] += len(mine)
                    lags_ns = run.recv_ns[mine] - run.scanned.time_ms[mine] * MS_NS
                    state.lags.note_many(channel, lags_ns / MS_NS, run.recv_ns[mine])
            frame, prints = self._prints(run, chosen[kinds == TRADES])
            self._quotes(run, chosen[kinds == BBO])
            self._learn(run, frame, prints)
        state.report_run()

    def _record_message(self, run: FrameRun, chosen: Index) -> None:
        """Collect the evidence of the frames: by connection and instrument the first, last and newest time."""
        state = self._state
        stamps = np.minimum(run.scanned.time_ms[chosen] * MS_NS, run.recv_ns[chosen])
        groups = (run.connections[chosen].astype(np.int64) << 34) | (
            run.scanned.coin[chosen].astype(np.int64) << 2
        )
        groups |= run.scanned.kind[chosen]
        order = np.argsort(groups, kind="stable")
        bounds = np.flatnonzero(np.diff(groups[order], prepend=-1, append=-1))
        for a, b in pairwise(bounds.tolist()):
            part = chosen[order[a:b]]
            connection, code = int(run.connections[part[0]]), int(run.scanned.coin[part[0]])
            instrument = self._instruments[code]
            first, last = int(run.recv_ns[part[0]]), int(run.recv_ns[part[-1]])
            stamp = int(stamps[order[a:b]].max())
            # Two entries are enough for the ledger: when the stretch began, and how far it reaches.
            state.set_run_frame(int(part[0]))
            state.record_message(connection, instrument, min(stamp, first), first)
            state.set_run_frame(int(part[-1]))
            state.record_message(connection, instrument, stamp, last)
            channel = _CHANNELS[int(run.scanned.kind[part[0]])]
            state.note_stream(connection, channel, self._coins.names[code], last, b - a)

    def _learn(self, run: FrameRun, frame: Index, prints: Index) -> None:
        """Learn the rhythm of new prints, each after the evidence of the frames before it."""
        codes, times = self._rhythm_codes[run.scanned.coin[frame]], run.scanned.print_ms[prints] * MS_NS

        def before(i: int) -> None:
            self._state.report_run(int(frame[i]))

        self._state.silence.add_prints(codes, times, run.recv_ns[frame], before)

    def _prints(self, run: FrameRun, chosen: Index) -> tuple[Index, Index]:
        """Add prints; return the frame and the position of each new one."""
        if not len(chosen):
            return chosen, chosen
        state, scanned = self._state, run.scanned
        counts = scanned.prints[chosen + 1] - scanned.prints[chosen]
        frame = np.repeat(chosen, counts)
        total = int(counts.sum())
        inside = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        prints = np.repeat(scanned.prints[chosen], counts) + inside
        code = self._seen_codes[scanned.coin[frame]]
        columns = (scanned.print_ms, scanned.tid, scanned.px, scanned.sz, scanned.side)
        verdicts = state.seen.judge_many(code, *(column[prints] for column in columns), run.recv_ns[frame])  # type: ignore[call-arg]
        state.counts.prints += total
        state.counts.seen += int((verdicts == SEEN).sum())
        for k in np.flatnonzero(verdicts == CONFLICT).tolist():
            state.counts.conflicts += 1
            tid = int(scanned.tid[prints[k]])
            reason = f"print {tid} at {int(scanned.print_ms[prints[k]])} came again with other values"
            record = run.batch.record(run.start + int(frame[k]))
            state.now_ns = record.recv_ns
            state.refuse_frame("trades", reason, record, f":{tid}")
            event_ns = int(scanned.print_ms[prints[k]]) * MS_NS
            state.ledger.refused.add(self._instruments[int(scanned.coin[frame[k]])], event_ns, event_ns)
        is_new = verdicts == NEW
        frame, prints = frame[is_new], prints[is_new]
        if len(prints):
            self._new_prints(run, frame, prints)
        return frame, prints

    def _new_prints(self, run: FrameRun, frame: Index, prints: Index) -> None:
        state, scanned = self._state, run.scanned
        count = len(prints)
        chunk = np.empty(count, PRINT)
        chunk["ts_ns"] = scanned.print_ms[prints] * MS_NS
        chunk["order"] = np.arange(state.order + 1, state.order + 1 + count)
        chunk["price"], chunk["size"] = scanned.px[prints], scanned.sz[prints]
        chunk["side"] = scanned.side[prints]
        state.order += count
        state.counts.trades += count
        state.counts.late += int((chunk["ts_ns"] < run.watermark_ns[frame]).sum())
        coin = scanned.coin[frame]
        by_coin = np.lexsort((chunk["order"], chunk["ts_ns"], coin))
        sorted_coin = coin[by_coin]
        bounds = np.flatnonzero(np.diff(sorted_coin, prepend=-1, append=-1))
        for a, b in pairwise(bounds.tolist()):
            instrument = self._instruments[int(sorted_coin[a])]
            part = chunk[by_coin[a:b]]
            newest = int(part["ts_ns"][-1])
            state.newest_print_ns[instrument] = max(newest, state.newest_print_ns.get(instrument, 0))
            state.add_prints(instrument, part)
        columns: dict[str, Any] = {
            "instrument": self._names(coin),
            "ts_event": pa.array(scanned.print_ms[prints] * 1000),
            "tid": scanned.tid[prints],
            "side": _pick(_SIDE_TEXTS, scanned.side[prints] + 1),
            "price": scanned.px[prints],
            "size": scanned.sz[prints],
            "is_twap": pa.array(scanned.is_twap[prints]),
        }
        state.rows.add_table("trades", self._table("trades", columns, run, frame))

    def _quotes(self, run: FrameRun, chosen: Index) -> None:
        """Add the quotes that differ from the one before of the same instrument."""
        if not len(chosen):
            return
        state, scanned = self._state, run.scanned
        coin = scanned.coin[chosen]
        values = np.column_stack((scanned.time_ms[chosen].astype(np.float64), scanned.touch[chosen]))
        order = np.argsort(coin, kind="stable")
        ordered, values = coin[order], values[order]
        is_same = np.zeros(len(order), np.bool_)
        equal = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
        is_same[1:] = equal.all(axis=1) & (ordered[1:] == ordered[:-1])
        bounds = np.flatnonzero(np.diff(ordered, prepend=-1, append=-1))
        for a in bounds[:-1].tolist():
            last_quote = state.last_quote.get(self._instruments[int(ordered[a])])
            is_same[a] = last_quote is not None and last_quote == _quote(scanned, int(chosen[order[a]]))
        for a, b in pairwise(bounds.tolist()):
            instrument = self._instruments[int(ordered[a])]
            new = chosen[order[a:b][~is_same[a:b]]]
            if len(new):
                self._note_quotes(run, instrument, new)
        kept = np.sort(chosen[order[~is_same]])
        if not len(kept):
            return
        touch = scanned.touch[kept]
        columns: dict[str, Any] = {
            "instrument": self._names(scanned.coin[kept]),
            "ts_event": pa.array(scanned.time_ms[kept] * 1000),
        }
        for name, column in (("bid", 0), ("ask", 2), ("bid_size", 1), ("ask_size", 3)):
            columns[name] = pa.array(touch[:, column], from_pandas=True)
        state.rows.add_table("quotes", self._table("quotes", columns, run, kept))

    def _note_quotes(self, run: FrameRun, instrument: str, new: Index) -> None:
        """Add the quotes of one instrument to its bars: of each bar, the newest at its close."""
        state, scanned = self._state, run.scanned
        state.last_quote[instrument] = _quote(scanned, int(new[-1]))
        if instrument in state.touches:
            for i in new.tolist():
                state.note_touch(instrument, _quote(scanned, i), int(run.recv_ns[i]))
        times = scanned.time_ms[new]
        for clock in state.clocks:
            width_ms = clock.width_ns // MS_NS
            by_time = np.argsort(times, kind="stable")
            bars = times[by_time] // width_ms
            last = by_time[np.flatnonzero(np.diff(bars, append=-1))]
            for i in new[last].tolist():
                clock.add_quote(instrument, _quote(scanned, i))

    def _names(self, coin: NDArray[np.int32]) -> Any:
        return _pick(np.array(self._instruments, dtype=object), coin)

    def _table(self, name: str, columns: dict[str, Any], run: FrameRun, frame: Index) -> pa.Table:
        recv_ns = run.recv_ns[frame]
        count = len(frame)
        columns |= {
            "origin": pa.repeat(pa.scalar("live"), count),
            "ts_recv_ns": recv_ns,
            "ts_knowable_ns": recv_ns,
            "journal": pa.repeat(pa.scalar(self._state.recording), count),
            "frame": run.batch.first + run.start + frame,
        }
        schema = CONTRACTS[name].schema
        arrays = []
        for item in schema:
            column = columns[item.name]
            array = column if isinstance(column, pa.Array) else pa.array(column)
            arrays.append(array.cast(item.type) if array.type != item.type else array)
        return pa.Table.from_arrays(arrays, schema=schema)


_STATELESS: Final = frozenset({"pong", "allMids", "allDexsAssetCtxs", "assetCtxs", "fastAssetCtxs"})


def _quote(scanned: ScannedFrames, i: int) -> Quote:
    bid, bid_size, ask, ask_size = (None if value != value else value for value in scanned.touch[i].tolist())
    return Quote(int(scanned.time_ms[i]) * MS_NS, bid, ask, bid_size, ask_size)


def _pick(texts: NDArray[Any], codes: NDArray[Any]) -> Any:
    """Return a column of texts by their codes; each text is stored once."""
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32), pa.int32()), pa.array(texts, pa.string())
    )
