"""Health checks of a recorder, one issue at a time."""

from __future__ import annotations

from typing import Any

import pytest

from serving.monitoring.checks import check_recorders
from storage.clock import NS
from storage.settings.services import AlertSettings
from tests.serving.monitoring.recorder_statuses import NOW_NS, beat, poorly_watched

LIMITS = AlertSettings()


def kinds(*beats: Any) -> list[str]:
    return [trouble.kind for trouble in check_recorders(beats, NOW_NS, LIMITS)]


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"frame_age_s": 61.0}, "silent", "received its last frame 61 s ago; 3 of 3 sockets open"),
        ({"frame_age_s": None}, "silent", "3.0 h ago"),
        ({"disk_days_left": 6.9}, "disk", "6.9 days until the disk is full (72.0 GB free)"),
        ({"clock_verdict": "off"}, "clock", "-3 ms against ntp, +12 ms against venue"),
        ({"instruments": poorly_watched()}, "coverage", "1 of 3 .* hyperliquid|perp|ETH 93%"),
        ({"unsent_batches": 13}, "lake", "13 batches are waiting"),
        ({"lost_frames": 5}, "lost frames", "5 frames were dropped"),
        ({"state": "failed", "error": "disk full"}, "not running", "failed 0 s ago: disk full"),
        ({"state": "ended"}, "not running", "ended 0 s ago"),
    ],
)
def test_each_issue_is_reported_alone_with_its_values(changes: dict[str, Any], kind: str, says: str) -> None:
    (trouble,) = check_recorders([beat(**changes)], NOW_NS, LIMITS)
    assert trouble.kind == kind
    assert says.split(" .* ")[0] in trouble.detail
    assert says.split(" .* ")[-1] in trouble.detail


def test_healthy_recorder_has_no_issues() -> None:
    assert kinds(beat()) == []
    assert kinds(beat(disk_days_left=None, frame_age_s=59.0, unsent_batches=12)) == []
    just_begun: dict[str, Any] = {"started_ns": NOW_NS - 5 * NS, "frame_age_s": None, "state": "starting"}
    assert kinds(beat(**just_begun)) == []


def test_stale_heartbeat_is_the_only_issue_reported() -> None:
    assert kinds(beat(61, clock_verdict="off", unsent_batches=99)) == ["silent"]
    assert kinds() == ["not running"]


def test_every_shard_is_checked_alone() -> None:
    troubles = check_recorders([beat(shard="1/2"), beat(100, shard="2/2")], NOW_NS, LIMITS)
    assert [(trouble.kind, trouble.shard) for trouble in troubles] == [("silent", "2/2")]
