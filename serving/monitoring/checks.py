"""What is wrong with a recorder, judged from its vital signs alone?

Pure: a heartbeat, the present and the limits of `alert` go in, troubles come out. `/health`, `tickwalk alert` and
the live view all ask here, so they never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ingest.recorder.heartbeat import Heartbeat
from ingest.recorder.status import RecorderStatus
from storage.clock import NS
from storage.settings.services import AlertSettings

Kind = Literal["not running", "silent", "disk", "clock", "coverage", "lake", "lost frames"]


@dataclass(frozen=True, slots=True)
class HealthIssue:
    """One thing that is wrong.

    Args:
        kind: what; an alert is told apart by it and by `shard`.
        shard: whose; empty for a recorder of all instruments.
        detail: the values, for a person.
    """

    kind: Kind
    shard: str
    detail: str


def judge(beats: Sequence[Heartbeat], now_ns: int, limits: AlertSettings) -> list[HealthIssue]:
    """Return what is wrong with the recorders of a home; no recorder at all is wrong too."""
    if not beats:
        return [HealthIssue("not running", "", "no recorder has run in this home")]
    return [trouble for beat in beats for trouble in judge_one(beat, now_ns, limits)]


def judge_one(beat: Heartbeat, now_ns: int, limits: AlertSettings) -> list[HealthIssue]:
    """Return what is wrong with one recorder; of one that does not run, nothing else is said."""
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


Found = tuple[Kind, str] | None


def _silent(vitals: RecorderStatus, limits: AlertSettings) -> Found:
    up_s = (vitals.now_ns - vitals.started_ns) / NS
    age_s = up_s if vitals.frame_age_s is None else vitals.frame_age_s
    if age_s <= limits.silent_s:
        return None
    sockets = f"{vitals.connections_open} of {vitals.connections_wanted} sockets open"
    return "silent", f"{vitals.recording} received its last frame {_ago(age_s)}; {sockets}"


def _disk(vitals: RecorderStatus, limits: AlertSettings) -> Found:
    left = vitals.disk_days_left
    if left is None or left >= limits.disk_days:
        return None
    return "disk", f"{left:.1f} days until the disk is full ({vitals.disk_free_bytes / 1e9:.1f} GB free)"


def _clock(vitals: RecorderStatus, limits: AlertSettings) -> Found:
    if vitals.clock_verdict != "off":
        return None
    by = ", ".join(f"{value:+,.0f} ms against {name}" for name, value in vitals.clock_offset_ms.items())
    return (
        "clock",
        f"our clock is off by more than {limits.clock_ms:g} ms: {by or 'frames come from the future'}",
    )


def _coverage(vitals: RecorderStatus, limits: AlertSettings) -> Found:
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


def _lake(vitals: RecorderStatus, limits: AlertSettings) -> Found:
    if vitals.unsent_batches <= limits.unsent_batches:
        return None
    return "lake", f"{vitals.unsent_batches} batches wait for the lake"


def _lost(vitals: RecorderStatus) -> Found:
    if not vitals.lost_frames:
        return None
    return "lost frames", f"{vitals.lost_frames:,} frames were given up because processing lagged"


def _ago(age_s: float) -> str:
    if age_s < 120:
        return f"{age_s:.0f} s ago"
    return f"{age_s / 60:.0f} min ago" if age_s < 7200 else f"{age_s / 3600:.1f} h ago"
