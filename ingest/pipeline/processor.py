"""Pipeline that turns journal records into rows: decoding, deduplication, coverage and bars.

Pure: records go in with their receipt times, rows come out. The recorder and replay both use it, so a recording and the
replay of its journal write the same rows. Records may be processed one by one or in batches cut anywhere: the rows are
the same.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.coverage.causes import DAMAGED
from ingest.coverage.chain_liveness import ChainLiveness
from ingest.journal.format import Damage
from ingest.journal.records import Record, RecordBatch, RecordKind
from ingest.pipeline.columnar import LEAST_FRAMES, ColumnarProcessor
from ingest.pipeline.gaiaex_handler import GaiaexHandler
from ingest.pipeline.gap_repair import GapRepair
from ingest.pipeline.hyperliquid_handler import HyperliquidHandler
from ingest.pipeline.refused_prints import refuse_prints_of
from ingest.pipeline.registration import header_instruments
from ingest.pipeline.rest_responses import apply_answer
from ingest.pipeline.state import Counts, RecordingState
from ingest.venues.hyperliquid.messages import ExplorerBlocks, Pong
from storage.clock import NS, US_NS
from storage.code_version import code_version
from storage.errors import TickwalkError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_HYPERLIQUID: Final = "hyperliquid"
# While relays or the chain are watched, their silence is checked this often.
_LOOK_NS: Final = NS


class Pipeline:
    """Turns the records of one recording into rows of the tables."""

    def __init__(self, recording: str, settings: Settings, *, is_capture: bool, home: str = "") -> None:
        """Start with nothing seen.

        Args:
            recording: its name, in every row.
            settings: bar widths, grace, lateness and silence limits.
            is_capture: the records contain no control records; gaps and reconnects are inferred.
            home: id of the home that has the recording.
        """
        self.recording = recording
        # Other settings or other code may make other rows of the same frames.
        about = f"{settings.bars}{settings.record}{settings.gaiaex}{code_version()}"
        self.fingerprint = sha256(about.encode()).hexdigest()[:12]
        self.state = RecordingState(recording, settings, is_capture=is_capture, home=home)
        self._settings = settings
        self._frames = HyperliquidHandler(self.state)
        self._gaia = GaiaexHandler(self.state)
        self._columnar = ColumnarProcessor(self.state, self._frames)
        self.chain = ChainLiveness(
            self.state.ledger, f"{self.state.venue}|", silence_ns=int(settings.record.chain_silence_s * NS)
        )
        self.state.ledger.chain = self.chain
        self.repairs = GapRepair(self.state, self._frames)
        self._venues: dict[int, str] = {}
        self._continues = False
        """Connections opened now were open before, and `HELD` says up to when their streams are proven."""
        self._hole_ns = int(settings.bars.capture_silence_s * NS)
        self._lateness_ns = int(settings.bars.lateness_s * NS)
        self._span_ns = int(settings.record.coin_silence_s * NS) // 2
        self._next_look_ns = 0
        self._connection = -1

    @property
    def counts(self) -> Counts:
        """Counts of what was processed."""
        return self.state.counts

    @property
    def next_tick_ns(self) -> int:
        """The next instant at which something is due; 0 before the first record."""
        if self._next_look_ns:
            return min(self.state.schedule.next_ns, self._next_look_ns)
        return self.state.schedule.next_ns

    def process_batch(self, batch: RecordBatch) -> None:
        """Process records that follow those processed before."""
        controls = np.append(np.flatnonzero(batch.kinds != RecordKind.FRAME), len(batch))
        at = 0
        while at < len(batch):
            stop = self._run_end(batch, at, int(controls[np.searchsorted(controls, at)]))
            if stop - at < LEAST_FRAMES:
                for i in range(at, max(stop, at + 1)):
                    self.process(batch.record(i))
                at = max(stop, at + 1)
                continue
            self._run(batch, at, stop)
            at = stop

    def process(self, record: Record) -> None:
        """Process the next record; receipt times never fall."""
        state = self.state
        if state.is_capture and record.kind is RecordKind.FRAME:
            self._infer_connection(record.recv_ns)
        self._advance(record.recv_ns)
        state.now_ns = max(state.now_ns, record.recv_ns)
        match record.kind:
            case RecordKind.FRAME:
                state.counts.frames += 1
                self._frame(record)
            case RecordKind.OPENED:
                self._opened(record)
            case RecordKind.CLOSED:
                self._closed(record.connection, record.recv_ns, record.body.decode())
            case RecordKind.STARTED:
                self._started(record)
            case RecordKind.HELD:
                self._held(record)
            case RecordKind.STOPPED:
                self.stop(record.recv_ns, record.body.decode() or "stopped")
            case RecordKind.ANSWER:
                apply_answer(state, self.repairs, record)
            case RecordKind.REFUSED:
                self._refused_line(record)
            case RecordKind.CLOCK:
                pass
        state.watermark_ns = max(state.watermark_ns, state.now_ns - self._lateness_ns)

    def proven_streams(self) -> list[tuple[int, str, str, int]]:
        """Return (connection, channel, instrument, up to where it is proven in ns) of every open stream."""
        ledger, now_ns = self.state.ledger, self.state.now_ns
        # In microseconds, as in the tables: a remainder would be a gap that nothing proves.
        return [(*key, ledger.proven_ns(*key, now_ns) // US_NS * US_NS) for key in ledger.open_streams()]

    def mark_unreadable(self, from_ns: int, to_ns: int) -> None:
        """Add a gap to every open stream, because records between two receipt times cannot be read."""
        self._advance(to_ns)
        self.state.ledger.mark_unreadable(from_ns, to_ns, DAMAGED)

    def stop(self, now_ns: int, cause: str) -> None:
        """End the recording: every open span ends where it was proven."""
        state = self.state
        state.ledger.refused.apply(now_ns)
        state.silence.stop(now_ns)
        for connection in sorted(state.ledger.open_connections()):
            state.ledger.close(connection, now_ns, cause)
        for scope, _ in state.ledger.stalls():
            state.ledger.resume(scope, now_ns, now_ns)  # it lasts, and its row must be written
        dirty = state.ledger.take_dirty()
        for clock in state.clocks:
            clock.mark_dirty(dirty)
            self._publish(clock.settle(now_ns))
        state.rows.extend("lags", state.lags.settle(now_ns))
        state.registration.end(now_ns)

    def damage(self, damage: Damage) -> None:
        """Quarantine bytes of the journal that cannot be read."""
        reason = f"{damage.reason}: {damage.size_bytes} bytes from offset {damage.offset} are not read"
        logger.warning("journal damaged", segment=damage.segment, offset=damage.offset, reason=damage.reason)
        self.state.refuse("frames", reason, b"", f"{damage.segment}@{damage.offset}")

    def drain(self) -> dict[str, pa.Table]:
        """Return the rows made since the last call, by table, and forget them."""
        self.state.rows.extend("coverage", self.state.ledger.take_rows())
        return self.state.rows.drain()

    # Time.

    def _advance(self, now_ns: int) -> None:
        """Publish at every instant before `now_ns`."""
        schedule = self.state.schedule
        schedule.start(now_ns)
        while (tick_ns := self.next_tick_ns) < now_ns:
            if tick_ns == self._next_look_ns:
                self.chain.tick(tick_ns)
                self._gaia.tick(tick_ns)
                self._next_look_ns += _LOOK_NS
            if tick_ns == schedule.next_ns:
                self._tick(tick_ns)

    def _tick(self, tick_ns: int) -> None:
        state = self.state
        state.ledger.tick(tick_ns)
        state.silence.tick(tick_ns)
        self.repairs.tick(tick_ns)
        dirty = state.ledger.take_dirty()
        due = state.schedule.due(tick_ns)
        for clock in state.clocks:
            clock.mark_dirty(dirty)
            if clock in due:
                self._publish(clock.tick(tick_ns))
        state.rows.extend("lags", state.lags.take_rows(tick_ns - state.clocks[0].grace_ns))
        state.schedule.advance(tick_ns)

    def _publish(self, bars: list[dict[str, Any]]) -> None:
        self.state.rows.extend("bars", bars)
        self.state.counts.bars += len(bars)
        self.repairs.note_bars(bars)

    def _look_from(self, now_ns: int) -> None:
        """Begin to check for silences that no record reports."""
        if not self._next_look_ns:
            self._next_look_ns = now_ns - now_ns % _LOOK_NS + _LOOK_NS

    # Runs of frames.

    def _run_end(self, batch: RecordBatch, at: int, control: int) -> int:
        """Return the end of the frames that can be processed together from `at` on; `at` for a control record."""
        if control == at:
            return at
        recv_ns = batch.recv_ns
        if self.state.is_capture:
            # A gap ends before anything is published up to this frame.
            self._infer_connection(int(recv_ns[at]))
            self.state.now_ns = max(self.state.now_ns, int(recv_ns[at]))
        self._advance(int(recv_ns[at]))
        until_ns = min(self.next_tick_ns, int(recv_ns[at]) + self._span_ns)
        stop = min(control, int(np.searchsorted(recv_ns, until_ns, "right")))
        if stop - at < LEAST_FRAMES:
            return stop
        if self.state.is_capture:
            holes = np.flatnonzero(np.diff(recv_ns[at:stop]) > self._hole_ns)
            return at + 1 + int(holes[0]) if len(holes) else stop
        others = [number for number, venue in self._venues.items() if venue != _HYPERLIQUID]
        if others:
            foreign = np.flatnonzero(np.isin(batch.connections[at:stop], others))
            return at + max(int(foreign[0]), 1) if len(foreign) else stop
        return stop

    def _run(self, batch: RecordBatch, at: int, stop: int) -> None:
        state = self.state
        connections: NDArray[np.int64] = batch.connections.astype(np.int64)
        if state.is_capture:
            connections = np.full(len(batch), self._connection, np.int64)
        self._columnar.process(batch, at, stop, connections)
        state.now_ns = max(state.now_ns, int(batch.recv_ns[stop - 1]))
        state.watermark_ns = max(state.watermark_ns, state.now_ns - self._lateness_ns)

    def _infer_connection(self, recv_ns: int) -> None:
        """Infer, in a capture, a lost and reopened connection from silence of every channel beyond the limit."""
        state = self.state
        lost_ns = state.now_ns + self._hole_ns
        if self._connection >= 0 and recv_ns > lost_ns:
            # A live listener learns of the loss when the limit has passed, and not before.
            self._advance(lost_ns)
            self._closed(self._connection, lost_ns, f"capture silent beyond {self._hole_ns / NS:g} s")
            self._advance(recv_ns)
        elif self._connection >= 0:
            return
        self._connection += 1
        state.open_connection(self._connection)

    # Control records.

    def _started(self, record: Record) -> None:
        about = json.loads(record.body or b"{}")
        self._continues = bool(about.get("continues"))
        self.state.registration.start(header_instruments(about, self.state.registry), record.recv_ns)
        for coin in about.get("coins", []):
            self.state.add_instrument(self.state.instrument(coin), record.recv_ns)
            self.state.coins.setdefault(coin)

    def _opened(self, record: Record) -> None:
        about = _about(record.body)
        venue = about.get("venue", _HYPERLIQUID)
        self._venues[record.connection] = venue
        self.state.open_connection(record.connection)
        if venue == "gaiaex":
            self._gaia.opened(record.connection, about["symbol"], record.recv_ns, is_held=self._continues)
            self._look_from(record.recv_ns)
        elif venue == "chain":
            self.chain.opened(record.connection, record.recv_ns)
            self._look_from(record.recv_ns)

    def _closed(self, connection: int, now_ns: int, cause: str) -> None:
        venue = self._venues.pop(connection, _HYPERLIQUID)
        if venue == "gaiaex":
            self._gaia.closed(connection)
        elif venue == "chain":
            self.chain.closed(connection, now_ns)
        self.state.close_connection(connection, now_ns, cause)

    def _held(self, record: Record) -> None:
        """Take over the streams of the recording that this one continues; see `Recorder._rotate`."""
        before, self._continues = json.loads(record.body), False
        for connection, channel, instrument, since_ns in before["streams"]:
            if self.state.ledger.is_open(connection):
                self.state.continue_stream(connection, channel, instrument, since_ns, record.recv_ns)
        for scope, cause in before["stalls"]:
            self.state.ledger.stall(scope, record.recv_ns, cause)
            self._gaia.void(scope, record.recv_ns)

    def _refused_line(self, record: Record) -> None:
        """Quarantine a line of a capture that is no frame; it may have been one that held prints."""
        head, raw = record.body.split(b"\n", 1)
        about = json.loads(head)
        self.state.refuse("frames", about["reason"], raw, about["source"])
        if raw:
            refuse_prints_of(self.state, self._connection, raw, max(about["until_ns"], record.recv_ns))

    # Frames.

    def _frame(self, record: Record) -> None:
        connection = self._connection if self.state.is_capture else record.connection
        venue = self._venues.get(connection, _HYPERLIQUID)
        if venue == "gaiaex":
            self._gaia.apply(record, connection)
            return
        message = self._frames.decode(record)
        if venue != "chain":
            self._frames.apply(record, connection, message)
        elif isinstance(message, ExplorerBlocks):
            self.chain.add_blocks(message.data, record.recv_ns)
        elif isinstance(message, Pong):
            self.chain.pong(record.recv_ns)


def _about(body: bytes) -> dict[str, Any]:
    """Return the description of a connection: JSON, or in a recording made by hand, its address alone."""
    try:
        about = json.loads(body)
    except ValueError:
        return {"url": body.decode(errors="replace")}
    return about if isinstance(about, dict) else {}


__all__ = ["Counts", "Pipeline", "TickwalkError"]
