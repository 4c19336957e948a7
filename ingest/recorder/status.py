"""Status of a recorder, sampled once a second.

Metrics, health checks, the live view and the alerts read this status and nothing else. It is also written atomically
to `recorder/<recording>.json` in the home. That file is the heartbeat: reading it needs neither the recorder's process
nor Airflow.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from storage.clock import NS

RunState = Literal["starting", "recording", "ending", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """One channel: frames so far, and the lag of its newest minute."""

    frames: int
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class GapStatus:
    """The newest gap of an instrument; `to_ns` is None while it lasts."""

    from_ns: int
    to_ns: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class InstrumentStatus:
    """One instrument.

    Args:
        age_s: since its last frame on any channel; None before the first.
        prints_per_min: prints received in the last 60 s.
        statuses: of its last bars of the first width, oldest first; at most 30 are shown.
        observed_share: how much of these bars was watched, 0 to 1; None before the first bar.
        last_gap: None where there was none.
    """

    age_s: float | None = None
    prints_per_min: float = 0.0
    statuses: tuple[str, ...] = ()
    observed_share: float | None = None
    last_gap: GapStatus | None = None


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """A recorder's status at `now_ns`, by its own clock (the venue's in virtual time).

    Args:
        recording, shard: its name, and its part of the instruments (`record.shard`; empty: all).
        pid: its process.
        frame_age_s, commit_age_s: since the last frame of any socket, and since the last commit.
        frames, trades, bars, quarantined, reconnects: counts since it started.
        unsent_batches: made, and not yet committed.
        backlog_frames: received, and not yet processed.
        lost_frames: dropped because a consumer lagged; the journal says where.
        journal_bytes: of this recording.
        disk_free_bytes, disk_days_left: of the home's disk, at the rate of the last hour.
        clock_offset_ms: our clock minus the other, by source.
        clock_verdict: `ok`, `off` or `unknown`.
        clock_steps: how often our clock was set.
        error: why a failed one failed.
    """

    recording: str
    state: RunState
    started_ns: int
    now_ns: int
    shard: str = ""
    pid: int = 0
    frames: int = 0
    frames_per_s: float = 0.0
    frame_age_s: float | None = None
    trades: int = 0
    bars: int = 0
    quarantined: int = 0
    reconnects: int = 0
    channels: dict[str, ChannelStatus] = field(default_factory=dict)
    instruments: dict[str, InstrumentStatus] = field(default_factory=dict)
    connections_open: int = 0
    connections_wanted: int = 0
    subscriptions_acked: int = 0
    subscriptions_missing: int = 0
    unsent_batches: int = 0
    backlog_frames: int = 0
    lost_frames: int = 0
    journal_bytes: int = 0
    disk_free_bytes: int = 0
    disk_days_left: float | None = None
    clock_offset_ms: dict[str, float] = field(default_factory=dict)
    clock_verdict: Literal["ok", "off", "unknown"] = "unknown"
    clock_steps: int = 0
    resident_bytes: int = 0
    commit_age_s: float | None = None
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the recorder had not ended or failed."""
        return self.state in ("starting", "recording", "ending")


class GrowthRate:
    """Rate at which a total grows, over the last `window_s`."""

    def __init__(self, window_s: float) -> None:
        self._window_ns = int(window_s * NS)
        self._points: deque[tuple[int, int]] = deque()

    def add(self, now_ns: int, total: int) -> float:
        """Add a total and return its growth per second; 0 until there are two totals."""
        points = self._points
        points.append((now_ns, total))
        while len(points) > 2 and points[1][0] <= now_ns - self._window_ns:
            points.popleft()
        first_ns, first = points[0]
        return (total - first) * NS / (now_ns - first_ns) if now_ns > first_ns else 0.0


def days_left(free_bytes: int, bytes_per_s: float) -> float | None:
    """Return the days until a disk is full at this rate; None if it does not fill."""
    return free_bytes / (bytes_per_s * 86_400) if bytes_per_s > 0 else None


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user can still write to a folder's disk."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
