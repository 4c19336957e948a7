"""Health checks of a recorder from its status.

Pure: from a heartbeat, the current time and the limits of `alert` to a list of issues. `/health`, `tickwalk alert` and
the live view all use these checks, so they never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ingest.recorder.heartbeat import Heartbeat
from ingest.recorder.status import RecorderStatus
from storage.clock import NS
from storage.settings.services import AlertSettings

Kind = Literal[
    "not running", "silent", "disk", "clock", "coverage", "lake", "lost frames", "night late", "no GPU"
]


@dataclass(frozen=True, slots=True)
class HealthIssue:
    """One health issue of a recorder.

    Args:
        kind: kind of issue; with `shard` it identifies an alert.
        shard: shard of the recorder; empty for one that records all instruments.
        detail: the values, for people.
    """

    kind: Kind
    shard: str
    detail: str


def check_recorders(beats: Sequence[Heartbeat], now_ns: int, limits: AlertSettings) -> list[HealthIssue]:
    """Return the issues of all recorders of a home; having no recorder is an issue too."""
    if not beats:
        return [HealthIssue("not running", "", "no recorder has run in this home")]
    return [issue for beat in beats for issue in check_recorder(beat, now_ns, limits)]


def check_recorder(beat: Heartbeat, now_ns: int, limits: AlertSettings) -> list[HealthIssue]:
    """Return the issues of one recorder; if it does not run, that is the only one."""
    vitals, shard = beat.vitals, beat.vitals.shard
    beat_age_s = (now_ns - beat.beat_ns) / NS
    if not vitals.is_running:
        why = f": {vitals.error}" if vitals.error else ""
        return [
            HealthIssue("not running", shard, f"{vitals.recording} {vitals.state} {_ago(beat_age_s)}{why}")
        ]
    if beat_age_s > limits.silent_s:
        return [
            HealthIssue("silent", shard, f"{vitals.recording} wrote its last heartbeat {_ago(beat_age_s)}")
        ]
    found = [_silent(vitals, limits), _disk(vitals, limits), _clock(vitals, limits)]
    found += [_coverage(vitals, limits), _lake(vitals, limits), _lost(vitals)]
    return [HealthIssue(kind, shard, detail) for kind, detail in filter(None, found)]


_Issue = tuple[Kind, str] | None


def _silent(vitals: RecorderStatus, limits: AlertSettings) -> _Issue:
    up_s = (vitals.now_ns - vitals.started_ns) / NS
    age_s = up_s if vitals.frame_age_s is None else vitals.frame_age_s
    if age_s <= limits.silent_s:
        return None
    sockets = f"{vitals.connections_open} of {vitals.connections_wanted} sockets open"
    return "silent", f"{vitals.recording} received its last frame {_ago(age_s)}; {sockets}"


def _disk(vitals: RecorderStatus, limits: AlertSettings) -> _Issue:
    left = vitals.disk_days_left
    if left is None or left >= limits.disk_days:
        return None
    return "disk", f"{left:.1f} days until the disk is full ({vitals.disk_free_bytes / 1e9:.1f} GB free)"


def _clock(vitals: RecorderStatus, limits: AlertSettings) -> _Issue:
    if vitals.clock_verdict != "off":
        return None
    by = ", ".join(f"{value:+,.0f} ms against {name}" for name, value in vitals.clock_offset_ms.items())
    return (
        "clock",
        f"the local clock is off by more than {limits.clock_ms:g} ms: {by or 'frames come from the future'}",
    )


def _coverage(vitals: RecorderStatus, limits: AlertSettings) -> _Issue:
    poor = {
        name: item.observed_share
        for name, item in vitals.instruments.items()
        if item.observed_share is not None and item.observed_share < limits.observed_share
    }
    if not poor:
        return None
    worst = sorted(poor, key=lambda name: (poor[name], name))[:3]
    named = ", ".join(f"{name} {poor[name]:.0%}" for name in worst)
    return "coverage", f"{len(poor)} of {len(vitals.instruments)} instruments watched too little: {named}"


def _lake(vitals: RecorderStatus, limits: AlertSettings) -> _Issue:
    if vitals.unsent_batches <= limits.unsent_batches:
        return None
    return "lake", f"{vitals.unsent_batches} batches are waiting for the lake"


def _lost(vitals: RecorderStatus) -> _Issue:
    if not vitals.lost_frames:
        return None
    return "lost frames", f"{vitals.lost_frames:,} frames were dropped because processing lagged"


def _ago(age_s: float) -> str:
    if age_s < 120:
        return f"{age_s:.0f} s ago"
    return f"{age_s / 60:.0f} min ago" if age_s < 7200 else f"{age_s / 3600:.1f} h ago"
