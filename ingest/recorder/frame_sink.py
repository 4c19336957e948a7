"""Sink of all sockets of a recorder: stamps frames, and journals and processes them in batches.

A frame is stamped and buffered; a few milliseconds later all buffered frames are journalled and processed together.
Everything happens on the event loop's thread, so a slow pipeline makes the sockets wait, and no frame is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ingest.journal.records import RecordBatch, RecordKind
from ingest.journal.writer import JournalWriter
from ingest.pipeline.processor import Pipeline
from ingest.venues.hyperliquid.protocol import CLOCK_PREFIX
from storage.clock import ManualTime, TimeSource
from storage.settings import Settings

_MOST_FRAMES: Final = 4_096


class FrameSink:
    """The sink of all sockets of a recorder; a new recording can begin while they run."""

    def __init__(
        self,
        settings: Settings,
        clock: TimeSource,
        *,
        home: str = "",
        venue_time: ManualTime | None = None,
        on_flush: Callable[[], None] | None = None,
    ) -> None:
        """Start without a recording; `begin` begins one.

        Args:
            settings: the journal's folder, and the settings that affect rows.
            clock: stamps what is received.
            home: id of the home, for `recordings`.
            venue_time: advanced by a simulated venue's clock frames; it is then also `clock`.
            on_flush: called after each batch.
        """
        self._settings = settings
        self._now_ns = clock.now_ns
        self._home = home
        self._venue_time = venue_time
        self._on_flush = on_flush
        self.frame: Callable[[int, bytes], None] = self._frame if venue_time is None else self._timed_frame
        self._stamps: list[int] = []
        self._connections: list[int] = []
        self._bodies: list[bytes] = []
        self._controls: list[tuple[int, RecordKind]] = []
        self._open: dict[int, bytes] = {}
        self.about: dict[str, Any] = {}
        """The header of the recording."""
        self.waiting: list[RecordBatch] | None = None
        """Batches received while the tables catch up; None once frames are processed."""
        self.seen_ns = 0
        self.journal: JournalWriter
        self.pipeline: Pipeline

    @property
    def backlog_frames(self) -> int:
        """Frames received and not yet processed."""
        return len(self._bodies) + sum(len(batch) for batch in self.waiting or ())

    def begin(self, name: str, about: Mapping[str, Any]) -> int:
        """Begin a recording with its first record; return when it began.

        Frames are journalled at once, and processed after `start_processing`.
        """
        self.journal = JournalWriter(
            self._settings.journal_dir / name, segment_bytes=self._settings.record.segment_bytes
        )
        self.pipeline = Pipeline(name, self._settings, is_capture=False, home=self._home)
        self.waiting = []
        self.about = dict(about)
        self._record(RecordKind.STARTED, -1, json.dumps(about).encode())
        self.flush()
        return self.journal.last_recv_ns

    def start_processing(self) -> None:
        """Process the batches that have waited, and from now on each batch as it comes."""
        waiting, self.waiting = self.waiting or [], None
        for batch in waiting:
            self.pipeline.process_batch(batch)

    # Called by the sockets.

    def opened(self, connection: int, about: Mapping[str, str]) -> None:
        """Record that a connection was opened."""
        self._open[connection] = json.dumps(about).encode()
        self._record(RecordKind.OPENED, connection, self._open[connection])

    def closed(self, connection: int, cause: str) -> None:
        """Record that a connection was lost."""
        self._open.pop(connection, None)
        self._record(RecordKind.CLOSED, connection, cause.encode())

    def answer(self, request: Mapping[str, Any], response: bytes, asked_ns: int) -> None:
        """Record the answer to a REST request, as JSON."""
        body = b'{"request":%s,"asked_ns":%d,"response":%s}'
        self._record(RecordKind.ANSWER, -1, body % (json.dumps(request).encode(), asked_ns, response))

    def tick(self) -> None:
        """Record the time, so that bars close although nothing arrives."""
        self._record(RecordKind.CLOCK, -1, b"")

    def take_over(
        self,
        opened: Mapping[int, bytes],
        streams: list[tuple[int, str, str, int]],
        stalls: list[tuple[str, str]],
    ) -> None:
        """Take over open connections, their streams and their stalls from the recording before.

        Args:
            opened: what the header record of each connection said.
            streams: (connection, channel, instrument, proven up to, in ns).
            stalls: (scope, cause) of what is open but does not move.
        """
        for connection, about in opened.items():
            self._record(RecordKind.OPENED, connection, about)
        self._record(RecordKind.HELD, -1, json.dumps({"streams": streams, "stalls": stalls}).encode())

    def stop(self, cause: str) -> dict[int, bytes]:
        """Write the recording's last record; return the records of the connections that are still open."""
        self._record(RecordKind.STOPPED, -1, cause.encode())
        self.flush()
        return dict(self._open)

    def flush(self) -> None:
        """Journal and process the frames received since the last call.

        Raises:
            JournalError: the disk refused an earlier block.
        """
        count = len(self._bodies)
        if not count:
            return
        kinds = np.full(count, RecordKind.FRAME, np.uint8)
        for at, kind in self._controls:
            kinds[at] = kind
        batch = self.journal.extend(self._stamps, kinds.tolist(), self._connections, self._bodies)
        self._stamps, self._connections, self._bodies = [], [], []
        self._controls.clear()
        if self.waiting is None:
            self.pipeline.process_batch(batch)
        else:
            self.waiting.append(batch)
        self.seen_ns = int(batch.recv_ns[-1])
        if self._on_flush is not None:
            self._on_flush()

    # Internals.

    def _record(self, kind: RecordKind, connection: int, body: bytes) -> None:
        self._controls.append((len(self._bodies), kind))
        self._frame(connection, body)

    def _frame(self, connection: int, body: bytes) -> None:
        self._stamps.append(self._now_ns())
        self._connections.append(connection)
        self._bodies.append(body)
        if len(self._bodies) >= _MOST_FRAMES:
            self.flush()

    def _timed_frame(self, connection: int, body: bytes) -> None:
        """Buffer a frame; a simulated venue's clock frame moves the clock instead."""
        assert self._venue_time is not None
        if body.startswith(CLOCK_PREFIX):
            self._venue_time.advance_to(int(json.loads(body)["data"]))
        else:
            self._frame(connection, body)
