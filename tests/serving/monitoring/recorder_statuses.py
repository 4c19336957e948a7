"""Recorder statuses for tests: healthy by default, with overrides."""

from __future__ import annotations

import dataclasses
from typing import Any

from ingest.recorder.heartbeat import Heartbeat
from ingest.recorder.status import ChannelStatus, GapStatus, InstrumentStatus, RecorderStatus
from storage.clock import NS

NOW_NS = 1_767_571_200 * NS
BTC, ETH, AAPL = "hyperliquid|perp|BTC", "hyperliquid|perp|ETH", "hyperliquid|perp|xyz:AAPL"


def vitals(**changes: Any) -> RecorderStatus:
    """Return the signs of a recorder that runs for three hours and is well."""
    well = RecorderStatus(
        recording="hyperliquid-20260104T210000-77",
        state="recording",
        started_ns=NOW_NS - 3 * 3600 * NS,
        now_ns=NOW_NS,
        pid=1,
        frames=8_123_456,
        frames_per_s=812.4,
        frame_age_s=0.02,
        trades=91_234,
        bars=540,
        channels={
            "trades": ChannelStatus(123_456, 310.0, 780.0),
            "bbo": ChannelStatus(7_900_000, 290.0, 655.0),
            "l2Book": ChannelStatus(100_000, 402.0, 1_250.0),
        },
        instruments={
            BTC: InstrumentStatus(0.1, 812, ("printed",) * 30, 1.0),
            ETH: InstrumentStatus(0.3, 640, ("printed",) * 30, 1.0),
            AAPL: InstrumentStatus(4.2, 0, ("quiet",) * 12, 1.0),
        },
        connections_open=3,
        connections_wanted=3,
        subscriptions_acked=24,
        journal_bytes=1_234_000_000,
        disk_free_bytes=72_000_000_000,
        disk_days_left=41.0,
        clock_offset_ms={"ntp": -3.2, "venue": 12.4},
        clock_verdict="ok",
        resident_bytes=212_000_000,
        commit_age_s=2.4,
    )
    return dataclasses.replace(well, **changes)


def beat(age_s: float = 0.5, **changes: Any) -> Heartbeat:
    """Return a heartbeat that was written `age_s` ago."""
    return Heartbeat(NOW_NS - int(age_s * NS), vitals(**changes))


def poorly_watched() -> dict[str, InstrumentStatus]:
    """Return instruments of which one was blind for some of its bars."""
    gap = GapStatus(NOW_NS - 600 * NS, NOW_NS - 582 * NS, "connection lost")
    open_gap = GapStatus(NOW_NS - 95 * NS, None, "silent for 30 s")
    return {
        BTC: InstrumentStatus(
            0.1, 812, (*("printed",) * 20, "blind", "printed", "unknown", *("printed",) * 7), 0.9871, gap
        ),
        ETH: InstrumentStatus(96.0, 0, (*("printed",) * 28, "blind", "blind"), 0.93, open_gap),
        AAPL: InstrumentStatus(None, 0, (), None),
    }
