"""Scanned frames between two publishing instants, and which of them hold usable values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingest.journal.records import RecordBatch
from ingest.pipeline.rows import AHEAD_NS, FIRST_PRINT_MS, LARGEST
from ingest.venues.hyperliquid.scanner import OTHER, ScannedFrames
from storage.clock import MS_NS

Index = NDArray[np.int64]


class FrameRun:
    """Scanned frames between two publishing instants; indices count from the first of them."""

    def __init__(self, batch: RecordBatch, start: int, connections: Index, scanned: ScannedFrames) -> None:
        self.batch = batch
        self.start = start
        self.connections = connections
        self.scanned = scanned
        self.recv_ns: Index = batch.recv_ns[start : start + len(connections)]
        self.watermark_ns: Index = self.recv_ns

    def set_watermarks(self, watermark_ns: int, lateness_ns: int) -> None:
        """Compute the watermark before each frame."""
        behind = np.concatenate(([watermark_ns], self.recv_ns[:-1] - lateness_ns))
        self.watermark_ns = np.maximum.accumulate(behind)

    def usable(self) -> NDArray[np.bool_]:
        """Return a mask (n,) of the frames that were scanned and hold valid numbers; see `ingest.pipeline.rows`."""
        scanned = self.scanned
        usable: NDArray[np.bool_] = scanned.kind != OTHER
        latest_ms = (self.recv_ns + AHEAD_NS) // MS_NS
        usable &= (scanned.time_ms > 0) & (scanned.time_ms <= latest_ms)
        touch = scanned.touch
        with np.errstate(invalid="ignore"):
            odd = (touch[:, ::2] <= 0.0) | (touch >= LARGEST)[:, ::2] | (touch >= LARGEST)[:, 1::2]
        usable &= ~odd.any(axis=1)
        frame = np.repeat(np.arange(len(usable)), np.diff(scanned.prints))
        fits = (scanned.px > 0.0) & (scanned.px < LARGEST) & (scanned.sz > 0.0) & (scanned.sz < LARGEST)
        usable[frame[~fits | (scanned.print_ms < FIRST_PRINT_MS)]] = False
        return usable
