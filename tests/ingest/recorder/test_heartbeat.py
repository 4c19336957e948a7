"""Heartbeat files: atomic writes, round trip, and removal after a takeover."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ingest.recorder.heartbeat import clear_heartbeats, read_heartbeat, read_heartbeats, write_heartbeat
from ingest.recorder.status import GrowthRate, RecorderStatus, days_left
from storage.clock import DAY_NS, NS
from storage.settings import Settings
from tests.serving.monitoring.recorder_statuses import NOW_NS, poorly_watched, vitals


def test_a_heartbeat_is_read_back_as_it_was_written(settings: Settings) -> None:
    signs = vitals(instruments=poorly_watched())
    path = write_heartbeat(settings, signs, beat_ns=NOW_NS)
    held = read_heartbeat(path)
    assert held is not None
    assert (held.beat_ns, held.vitals) == (NOW_NS, signs)
    assert [item.name for item in settings.recorder_dir.iterdir()] == [path.name], "no half file beside it"


def test_the_newest_recording_of_a_shard_counts(settings: Settings) -> None:
    write_heartbeat(settings, vitals(recording="old", state="ended"), beat_ns=NOW_NS - DAY_NS)
    write_heartbeat(settings, vitals(recording="new"), beat_ns=NOW_NS)
    write_heartbeat(settings, vitals(recording="other", shard="2/2"), beat_ns=NOW_NS)
    (settings.recorder_dir / "broken.json").write_text("{")
    assert [held.vitals.recording for held in read_heartbeats(settings)] == ["new", "other"]


def test_a_recorder_forgets_its_killed_forerunner_and_keeps_the_ended(settings: Settings) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    write_heartbeat(settings, vitals(recording="killed", pid=dead.pid), beat_ns=NOW_NS)
    write_heartbeat(settings, vitals(recording="ended", state="ended"), beat_ns=NOW_NS - DAY_NS)
    write_heartbeat(settings, vitals(recording="older", state="ended"), beat_ns=NOW_NS - 9 * DAY_NS)
    write_heartbeat(settings, vitals(recording="alive", pid=os.getpid()), beat_ns=NOW_NS)
    write_heartbeat(settings, vitals(recording="else", shard="2/2", pid=dead.pid), beat_ns=NOW_NS)
    clear_heartbeats(settings, shard="", now_ns=NOW_NS)
    left = sorted(path.stem for path in settings.recorder_dir.iterdir())
    assert left == ["alive", "else", "ended"]


def test_a_pace_is_the_growth_over_its_window() -> None:
    pace = GrowthRate(10)
    assert [pace.add(NOW_NS + second * NS, second * 50) for second in range(5)] == [0, 50, 50, 50, 50]
    for second in range(5, 30):
        pace.add(NOW_NS + second * NS, 250 + (second - 5) * 100)
    assert pace.add(NOW_NS + 30 * NS, 2_750) == pytest.approx(100)
    assert days_left(8_640_000, 100) == pytest.approx(1)
    assert days_left(1, 0) is None


def test_signs_are_json_that_other_programs_read(settings: Settings) -> None:
    path = write_heartbeat(settings, vitals())
    said = json.loads(path.read_text())["vitals"]
    assert set(said) == {item.name for item in dataclasses.fields(RecorderStatus)}
