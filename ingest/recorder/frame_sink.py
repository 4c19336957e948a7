"""How does what the sockets hear become journal and rows, in lots and in order?

A frame is stamped and put aside; a few milliseconds later all that came is journalled and processed together.
Everything happens on the loop's thread, so a pipeline that is slow makes the sockets wait, and nothing is dropped.
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
    """The sink of all sockets of a recorder; its recording may be exchanged while they run."""

    def __init__(
        self,
        settings: Settings,
        clock: TimeSource,
        *,
        venue_time: ManualTime | None = None,
        on_flush: Callable[[], None] | None = None,
    ) -> None:
        """Start without a recording; `begin` gives one.

        Args:
            settings: where journals lie, and what decides rows.
            clock: stamps what is received.
            venue_time: is moved by a simulated venue's clock frames; then it is `clock`.
            on_flush: is told after each lot.
        """
        self._settings = settings
        self._now_ns = clock.now_ns
        self._venue_time = venue_time
        self._on_flush = on_flush
        self.frame: Callable[[int, bytes], None] = self._frame if venue_time is None else self._timed_frame
        self._stamps: list[int] = []
        self._connections: list[int] = []
        self._bodies: list[bytes] = []
        self._controls: list[tuple[int, RecordKind]] = []
        self._open: dict[int, bytes] = {}
        self.about: dict[str, Any] = {}
        """What the recording says of itself."""
        self.waiting: list[RecordBatch] | None = None
        """What came while the pipeline is made ready; None while it runs."""
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
        self.pipeline = Pipeline(name, self._settings, is_capture=False)
        self.waiting = []
        self.about = dict(about)
        self._take(RecordKind.STARTED, -1, json.dumps(about).encode())
        self.flush()
        return self.journal.last_recv_ns

    def start_processing(self) -> None:
        """The pipeline knows what came before: process what has waited, and from now on what comes."""
        waiting, self.waiting = self.waiting or [], None
        for batch in waiting:
            self.pipeline.process_batch(batch)

    # The sockets' news.

    def opened(self, connection: int, about: Mapping[str, str]) -> None:
        """Take note that a connection was opened."""
        self._open[connection] = json.dumps(about).encode()
        self._take(RecordKind.OPENED, connection, self._open[connection])

    def closed(self, connection: int, cause: str) -> None:
        """Take note that a connection was lost."""
        self._open.pop(connection, None)
        self._take(RecordKind.CLOSED, connection, cause.encode())

    def answer(self, request: Mapping[str, Any], response: bytes, asked_ns: int) -> None:
        """Take the answer to a question, as JSON."""
        body = b'{"request":%s,"asked_ns":%d,"response":%s}'
        self._take(RecordKind.ANSWER, -1, body % (json.dumps(request).encode(), asked_ns, response))

    def tick(self) -> None:
        """Take note of the time, so that bars close although nothing arrives."""
        self._take(RecordKind.CLOCK, -1, b"")

    def take_over(
        self,
        opened: Mapping[int, bytes],
        streams: list[tuple[int, str, str, int]],
        stalls: list[tuple[str, str]],
    ) -> None:
        """Take over open connections, their streams, and what of them is in vain, from the recording before."""
        for connection, about in opened.items():
            self._take(RecordKind.OPENED, connection, about)
        self._take(RecordKind.HELD, -1, json.dumps({"streams": streams, "stalls": stalls}).encode())

    def stop(self, cause: str) -> dict[int, bytes]:
        """Write the recording's last record; return what was said of the connections that are open then."""
        self._take(RecordKind.STOPPED, -1, cause.encode())
        self.flush()
        return dict(self._open)

    def flush(self) -> None:
        """Journal and process what has come since the last time.

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

    # How.

    def _take(self, kind: RecordKind, connection: int, body: bytes) -> None:
        self._controls.append((len(self._bodies), kind))
        self._frame(connection, body)

    def _frame(self, connection: int, body: bytes) -> None:
        self._stamps.append(self._now_ns())
        self._connections.append(connection)
        self._bodies.append(body)
        if len(self._bodies) >= _MOST_FRAMES:
            self.flush()

    def _timed_frame(self, connection: int, body: bytes) -> None:
        """Take a frame; a simulated venue's clock frame moves the clock instead."""
        assert self._venue_time is not None
        if body.startswith(CLOCK_PREFIX):
            self._venue_time.advance_to(int(json.loads(body)["data"]))
        else:
            self._frame(connection, body)
