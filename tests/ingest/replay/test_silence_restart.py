"""Silence across recordings: rhythms, doubts and bars that may yet be doubted are restored from the lake."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ingest.coverage.silence import SILENT_TRADES
from ingest.journal.records import RecordKind
from ingest.replay.replay import replay
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.pipeline.scripts import START_NS, Script

BTC = "hyperliquid|perp|BTC"


def first(to_s: float) -> Script:
    """A print every 20 s until 30 s, then none; 14 gaps of 21 s are allowed."""
    return Script().open(0).known(0.05, every_s=20.0).alive(0.1, to_s).print(30.5).stop(to_s)


def second(from_s: float, *, continues: bool) -> Script:
    """The recording after it, over the same socket or a new one."""
    script = Script()
    about = {"source": "socket", "coins": ["BTC"]} | ({"continues": "one"} if continues else {})
    body = json.dumps(about).encode()
    recv_ns = START_NS + round(from_s * NS)
    script.records[0] = dataclasses.replace(script.records[0], recv_ns=recv_ns, body=body)
    if not continues:
        return script.open(from_s + 0.5)
    script.opened(from_s, 0)
    streams = [[0, channel, BTC, recv_ns - 5 * NS // 10] for channel in ("trades", "bbo")]
    held = json.dumps({"streams": streams, "stalls": []}).encode()
    script._add(from_s, RecordKind.HELD, -1, held)
    return script


def replayed(settings: Settings, *scripts: Script) -> list[tuple[str, str]]:
    """Replay recordings one after the other; return the status and cause of each minute, first revisions aside."""
    for number, script in enumerate(scripts):
        script.write(settings.journal_dir / ("one", "two")[number])
    with Lake.open(settings) as lake:
        for number in range(len(scripts)):
            replay(settings.journal_dir / ("one", "two")[number], settings, lake)
        rows = lake.query(
            "SELECT arg_max(status, revision) AS status, arg_max(cause, revision) AS cause FROM bars "
            "WHERE width = '1m' GROUP BY ts_open ORDER BY ts_open"
        ).to_pylist()
    return [(row["status"], row["cause"]) for row in rows]


def test_a_silence_that_begins_in_one_recording_is_doubted_in_the_next(settings: Settings) -> None:
    """The rotation comes after 170 s of silence, and the doubt after 331 s: bars of both are revised."""
    following = second(200.0, continues=True).alive(200.5, 545).stop(545)
    said = replayed(settings, first(200.0), following)
    assert said == [("blind", SILENT_TRADES)] * len(said)
    assert len(said) == 9


def test_a_rhythm_is_known_after_a_restart(settings: Settings) -> None:
    following = second(200.0, continues=False).alive(200.6, 305)
    resent = [following.a_print(-9.95, tid=21), following.a_print(30.0, tid=22)]
    said = replayed(settings, first(199.0), following.prints(200.55, resent).stop(305))
    assert [status for status, _ in said] == ["printed", "quiet", "quiet", "quiet", "quiet"]


@pytest.mark.parametrize("continues", [True, False])
def test_a_doubt_that_lasts_continues_in_the_next_recording(settings: Settings, continues: bool) -> None:
    """Its first recording ends after 470 s of silence; the stream of the second prints at 600 s."""
    following = second(500.0, continues=continues).alive(500.6, 845).print(600.5).stop(845)
    said = replayed(settings, first(499.5), following)
    assert [status for status, _ in said] == ["blind"] * 10 + ["printed"] + ["quiet"] * 3


def test_a_replay_into_another_home_doubts_the_same(settings: Settings, tmp_path: Path) -> None:
    following = second(200.0, continues=True).alive(200.5, 545).print(520.5).stop(545)
    tables = []
    for home in (settings.home, tmp_path / "other"):
        there = dataclasses.replace(settings, home=home)
        replayed(there, first(200.0), following)
        with Lake.open(there) as lake:
            tables.append(
                [
                    lake.query(f"SELECT * EXCLUDE (batch, ts_ingested_ns{more}) FROM {name} ORDER BY ALL")
                    for name, more in (("bars", ", home"), ("coverage", ""))
                ]
            )
    assert tables[0] == tables[1]
    assert SILENT_TRADES in tables[0][0]["cause"].to_pylist()
