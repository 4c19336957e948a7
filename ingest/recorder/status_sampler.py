"""Sampler of a running recorder's status."""

from __future__ import annotations

import os
from typing import Final

from ingest.coverage.intervals import Gap
from ingest.feed.connection_pool import ConnectionPool
from ingest.pipeline.state import RecordingState
from ingest.recorder.commit_queue import CommitQueue
from ingest.recorder.frame_sink import FrameSink
from ingest.recorder.status import (
    ChannelStatus,
    GapStatus,
    GrowthRate,
    InstrumentStatus,
    RecorderStatus,
    RunState,
    days_left,
    free_bytes,
    resident_bytes,
)
from storage.clock import NS, TimeSource
from storage.settings import Settings

_BARS_SHOWN: Final = 30
_OPEN_ENDED_NS: Final = 1 << 61


class StatusSampler:
    """Samples the status of one recorder."""

    def __init__(
        self, settings: Settings, clock: TimeSource, intake: FrameSink, commits: CommitQueue
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._intake = intake
        self._commits = commits
        self._started_ns = clock.now_ns()
        self._frames = GrowthRate(10.0)
        self._disk = GrowthRate(3_600.0)
        self._free: int | None = None
        self._before: dict[str, int] = {}
        """Counts of recordings that this recorder has ended."""

    def end_recording(self) -> None:
        """Keep the counts of a recording that is about to end: a recorder's counts never fall."""
        self._before = self._totals()

    def sample(self, state: RunState, sockets: ConnectionPool | None, error: str = "") -> RecorderStatus:
        """Return the recorder's status now."""
        pipeline, journal = self._intake.pipeline, self._intake.journal
        now_ns = self._clock.now_ns()
        totals = self._totals()
        free = free_bytes(self._settings.home)
        self._free = free if self._free is None else self._free
        state_now, sockets_state = pipeline.state, sockets.state if sockets else None
        last_frame_ns = state_now.ledger.last_message_ns()
        lags = state_now.lags.now()
        return RecorderStatus(
            recording=journal.recording,
            state=state,
            started_ns=self._started_ns,
            now_ns=now_ns,
            shard=self._settings.record.shard,
            pid=os.getpid(),
            frames=totals["frames"],
            frames_per_s=self._frames.add(now_ns, totals["frames"]),
            frame_age_s=(now_ns - last_frame_ns) / NS if last_frame_ns else None,
            trades=totals["trades"],
            bars=totals["bars"],
            quarantined=totals["quarantined"],
            reconnects=totals["reconnects"],
            channels={
                name: ChannelStatus(
                    frames, lags[name].p50_ms if name in lags else None, lags[name].p99_ms if name in lags else None
                )
                for name, frames in sorted(state_now.channels.items())
            },
            instruments=_instruments(state_now, now_ns),
            connections_open=sockets_state.connections_open if sockets_state else 0,
            connections_wanted=sockets_state.connections_wanted if sockets_state else 0,
            subscriptions_acked=sockets_state.subscriptions_acked if sockets_state else 0,
            subscriptions_missing=sockets_state.subscriptions_missing if sockets_state else 0,
            unsent_batches=self._commits.waiting,
            backlog_frames=self._intake.backlog_frames,
            journal_bytes=journal.total_bytes,
            disk_free_bytes=free,
            disk_days_left=days_left(free, self._disk.add(now_ns, self._free - free)),
            clock_offset_ms=state_now.our_clock.offsets_ms(now_ns),
            clock_verdict=state_now.our_clock.verdict(
                now_ns, least_lag_ms=min((lag.least_ms for lag in lags.values()), default=None)
            ),
            clock_steps=state_now.our_clock.stepped,
            resident_bytes=resident_bytes(),
            commit_age_s=(now_ns - self._commits.committed_ns) / NS if self._commits.committed_ns else None,
            error=error,
        )  # fmt: skip

    def _totals(self) -> dict[str, int]:
        counts = self._intake.pipeline.counts
        names = ("frames", "trades", "bars", "quarantined", "reconnects")
        return {name: getattr(counts, name) + self._before.get(name, 0) for name in names}


def _instruments(state: RecordingState, now_ns: int) -> dict[str, InstrumentStatus]:
    found = {}
    clock = state.clocks[0]
    for instrument in clock.instruments():
        bars = clock.recent(instrument, _BARS_SHOWN)
        last_frame_ns = state.ledger.last_message_ns(instrument)
        last = bars[-1] if bars else None
        observed = sum(bar["observed_ms"] for bar in bars)
        expected_ms = len(bars) * clock.width_ns / 1e6
        found[instrument] = InstrumentStatus(
            age_s=(now_ns - last_frame_ns) / NS if last_frame_ns else None,
            prints_per_min=(last["trades"] or 0) * 60 * NS / clock.width_ns if last else 0.0,
            statuses=tuple(bar["status"] for bar in bars),
            observed_share=observed / expected_ms if bars else None,
            last_gap=_gap(state.ledger.last_gap(instrument)),
        )
    return found


def _gap(gap: Gap | None) -> GapStatus | None:
    if gap is None:
        return None
    return GapStatus(gap.from_ns, None if gap.to_ns > _OPEN_ENDED_NS else gap.to_ns, gap.cause)
